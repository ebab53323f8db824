"""Losses, one formula a file."""
