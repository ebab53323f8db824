"""Where replicas share trees: one protocol, an in-process store and a Redis log."""
