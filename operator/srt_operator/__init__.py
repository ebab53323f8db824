"""SRT's operator and the srt command."""
