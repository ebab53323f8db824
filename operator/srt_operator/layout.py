"""Where a run keeps its files. Pure.

runs/<name>/
    job.yaml            the job as resolved
    status.json         conditions and processes, as `srt get` shows them
    metrics.jsonl       one line a step and evaluation (trainer)
    bubbles.jsonl       bubbles and run-ahead, one line a closed bubble (operator)
    engines.jsonl       readings of the engines' counters (operator)
    summary.json        what came out
    report.html         the same as a page
    logs/               one file a process
    telemetry/          spans and metrics as OTLP JSON lines
    weights/            policies on their way to the engines
    checkpoints/        the trainer's
    private/            secrets and generated settings, readable by the owner only
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunLayout:
    """Paths below one run folder."""

    root: Path

    @property
    def job(self) -> Path:
        """The job as resolved, defaults and overrides included."""
        return self.root / "job.yaml"

    @property
    def lock(self) -> Path:
        """Held by whoever runs the job, and by its processes."""
        return self.root / ".lock"

    @property
    def status(self) -> Path:
        """An `SRTJobStatus`."""
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        """Written by the trainer."""
        return self.root / "metrics.jsonl"

    @property
    def bubbles(self) -> Path:
        """Written by the run-ahead controller."""
        return self.root / "bubbles.jsonl"

    @property
    def engines(self) -> Path:
        """Written by the statistics recorder."""
        return self.root / "engines.jsonl"

    @property
    def summary(self) -> Path:
        """Arms of the run and how they compare."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """Self-contained page."""
        return self.root / "report.html"

    @property
    def logs(self) -> Path:
        """Folder of one log a process."""
        return self.root / "logs"

    @property
    def telemetry(self) -> Path:
        """Folder of span and metric files."""
        return self.root / "telemetry"

    @property
    def weights(self) -> Path:
        """Shared by trainer and engines."""
        return self.root / "weights"

    @property
    def checkpoints(self) -> Path:
        """The trainer's."""
        return self.root / "checkpoints"

    @property
    def private(self) -> Path:
        """Folder with mode 0700."""
        return self.root / "private"

    @property
    def token(self) -> Path:
        """Bearer token of gateways and tree cache."""
        return self.private / "token"

    @property
    def cache_secret(self) -> Path:
        """Key of the prompt digests."""
        return self.private / "cache-secret"

    @property
    def scratch_record(self) -> Path:
        """Names the short-lived folder of a run that goes on, or of one that was killed."""
        return self.private / "scratch"

    @property
    def trainer_settings(self) -> Path:
        """The trainer's job description."""
        return self.private / "trainer.json"

    def log_of(self, process: str) -> Path:
        """Output of one process, over all its starts."""
        return self.logs / f"{process}.log"
