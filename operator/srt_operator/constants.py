"""Names that users and other programs see: condition types, reasons, exit statuses."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

GROUP: Final = "srt-rl.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"


CANCELLED: Final = f"{GROUP}/cancelled"
MANAGED_BY: Final = f"{GROUP}/srt-operator"
"""Annotation of an SRTJob; ``true``: a user gave the job up."""


ENGINES_PATH: Final = "/v1/engines/{namespace}/{job}"
"""Where the leading operator says what a job's engines do now."""


class Kind(StrEnum):
    """Custom resources of the suite."""

    SRT_JOB = "SRTJob"
    ROLLOUT_POOL = "RolloutPool"
    TREE_CACHE = "TreeCache"

    @property
    def plural(self) -> str:
        """As the API spells it."""
        return self.lower() + "s"


class ConditionType(StrEnum):
    """Conditions. `COMPLETE` and `FAILED` are those of a Kubernetes Job."""

    READY = "Ready"
    """Summary (kstatus): everything that should run does, or the job is complete."""
    RECONCILING = "Reconciling"
    """Summary (kstatus): processes are being started or stopped."""
    STALLED = "Stalled"
    """Summary (kstatus): nothing will change without a user."""
    ACCEPTED = "Accepted"
    TREE_CACHE_READY = "TreeCacheReady"
    ROLLOUT_READY = "RolloutReady"
    TRAINER_READY = "TrainerReady"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"
    AVAILABLE = "Available"
    """Of a RolloutPool: every engine serves."""
    PROGRESSING = "Progressing"
    """Of a RolloutPool: engines are being started or replaced."""
    DEGRADED = "Degraded"
    """Of a RolloutPool: engines that served do not, or what it refers to is not there."""


class Reason(StrEnum):
    """Why a condition has its status; a closed set."""

    VALID = "Valid"
    IN_PROGRESS = "InProgress"
    STARTING = "Starting"
    RESTARTING = "Restarting"
    STOPPING = "Stopping"
    ALL_READY = "AllReady"
    DISABLED = "Disabled"
    """The job asks for stock engines."""
    STOPPED = "Stopped"
    SUSPEND_REQUESTED = "SuspendRequested"
    NOT_SUSPENDED = "NotSuspended"
    STEPS_COMPLETED = "StepsCompleted"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    CONFIGURATION_REFUSED = "ConfigurationRefused"
    """A process would not start with what the job asks for; it says why in its log."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CANCELLED = "Cancelled"
    VALIDATION_FAILED = "ValidationFailed"
    """The resource asks for something that is not allowed; the message says what is."""
    REFERENCE_MISSING = "ReferenceMissing"
    """A RolloutPool or TreeCache that is named is not there."""
    NAME_TAKEN = "NameTaken"
    """Something that is not this resource's own has the name of a part of it."""
    NOT_ADMITTED = "NotAdmitted"
    """The API server does not take a part of the resource; the message is its own."""
    IN_USE = "InUse"
    """What is to be removed is still written."""
    POOL_IN_USE = "PoolInUse"
    """Another job samples from the pool; this one waits."""
    REPLICAS_MISSING = "ReplicasMissing"
    """Pods that should serve do not."""
    REDIS_UNAVAILABLE = "RedisUnavailable"
    """What lies there can be neither read nor removed now."""


class Phase(StrEnum):
    """One word for people, derived from the conditions; programs read the conditions."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


SETTLED: Final = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.SUSPENDED})
"""A job in one of these is not worked on."""


PROCESS_REFUSED_CONFIGURATION: Final = 2
"""Exit status of our services for wrong settings: starting them again would not help."""

EXIT_COMPLETE: Final = 0
EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 2
"""A wrong job, option or run folder; nothing was started."""
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C or SIGTERM; ``--resume`` goes on."""
