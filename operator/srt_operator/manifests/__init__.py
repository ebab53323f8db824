"""What each component of a job is as a process: pure builders, one file a component."""
