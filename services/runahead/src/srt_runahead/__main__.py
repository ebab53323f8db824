"""``python -m srt_runahead``: the Celery worker beside one engine.

Exit status: 0 after SIGTERM, 2 for wrong settings.
"""

from __future__ import annotations

import logging
import sys

from srt_common.errors import ConfigurationError
from srt_common.telemetry.setup import configure
from srt_runahead.settings import RunaheadSettings
from srt_runahead.worker import Worker

_LOG = logging.getLogger("srt_runahead")


def main() -> int:
    """Read the settings and serve until a signal."""
    try:
        settings = RunaheadSettings.from_environment()
        telemetry = configure("srt-runahead", instance=settings.engine_name)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _LOG.info("starting", extra={"settings": settings.resolved()})
    try:
        return Worker(settings).serve()
    finally:
        telemetry.close()


if __name__ == "__main__":
    sys.exit(main())
