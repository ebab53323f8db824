"""What `srt doctor` finds out, of this machine or of a cluster."""
