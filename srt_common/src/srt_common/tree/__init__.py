"""The trees: what was sampled before, kept per prompt, and the drafts made of it."""

from srt_common.tree._tree import (
    FLAG_OBSERVATION,
    LANE_POLICY,
    LANE_RUN_AHEAD,
    MAX_SOFT_TARGETS,
    MODE_OFF,
    MODE_POINT_MASS,
    MODE_SAMPLED,
    SNAPSHOT_VERSION,
    Drafts,
)
from srt_common.tree.forest import LEARNED_KEY, PromptForest, Recorded, Update
from srt_common.tree.packed import (
    pack_soft_targets,
    pack_tokens,
    unpack_soft_targets,
    unpack_tokens,
)
from srt_common.tree.stats import ForestStats, PromptStats, RowStats

__all__ = [
    "FLAG_OBSERVATION",
    "LANE_POLICY",
    "LANE_RUN_AHEAD",
    "LEARNED_KEY",
    "MAX_SOFT_TARGETS",
    "MODE_OFF",
    "MODE_POINT_MASS",
    "MODE_SAMPLED",
    "SNAPSHOT_VERSION",
    "Drafts",
    "ForestStats",
    "PromptForest",
    "PromptStats",
    "Recorded",
    "RowStats",
    "Update",
    "pack_soft_targets",
    "pack_tokens",
    "unpack_soft_targets",
    "unpack_tokens",
]
