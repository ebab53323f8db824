"""What bubbles are told from: the load of engines, and how busy their GPUs are."""
