"""SRT's run-ahead worker: one chunk of generation for a later prompt."""
