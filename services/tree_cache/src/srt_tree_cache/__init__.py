"""SRT's tree cache: compaction, snapshots, eviction and queries of shared trees."""
