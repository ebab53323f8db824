"""What crosses a process boundary: versioned structs and their codecs. Pure."""
