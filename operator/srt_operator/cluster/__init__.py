"""The operator in a cluster: what it knows, how it keeps each kind of resource, what it says."""
