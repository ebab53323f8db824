"""SRT's tree cache: the life of shared trees from the log to snapshots, eviction, queries."""
