"""Where the load of engines is read from."""
