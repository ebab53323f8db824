"""Run-ahead: when engines idle, what to generate then, and how it gets there."""
