"""`srt`: one command for everything a user does."""

from __future__ import annotations

import sys

from srt_common.errors import ConfigurationError
from srt_operator.constants import EXIT_REFUSED


def main() -> None:
    """Entry point of the `srt` command."""
    from srt_operator.cli.app import make_app

    try:
        make_app()()
    except ConfigurationError as error:
        for fault in error.faults:
            sys.stderr.write(f"{fault}\n")
        sys.exit(EXIT_REFUSED)
