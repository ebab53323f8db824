"""Who carries out what the reconciler decides."""
