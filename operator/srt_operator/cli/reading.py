"""Reads the job file that a user names."""

from __future__ import annotations

from pathlib import Path

from srt_common.errors import ConfigurationError


def read_job(job_file: Path) -> str:
    """Its text. Raises ConfigurationError."""
    try:
        return job_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fault = f"JOB is {str(job_file)!r}: allowed is a readable YAML file ({error})"
        raise ConfigurationError(faults=[fault]) from error
