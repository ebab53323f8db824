"""Spans, metrics and logs: names, instruments, set-up, and a reader of span files."""
