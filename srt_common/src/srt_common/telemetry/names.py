"""Every span, metric and attribute name of the suite, as constants (design 12.7; registry:
docs/telemetry).

OpenTelemetry rules: dots for namespaces, snake_case inside, no ``_total``, units in UCUM.
"""

from __future__ import annotations

# Spans
SPAN_STEP = "srt.step"
SPAN_ROLLOUT_BATCH = "rollout.batch"
SPAN_ROLLOUT_GENERATE = "rollout.generate"
SPAN_REWARD = "reward"
SPAN_TRAIN = "train"
SPAN_WEIGHT_SYNC = "weight_sync"
SPAN_EVALUATION = "evaluation"
SPAN_GATEWAY_GENERATE = "gateway.generate"
SPAN_ENGINE_ROLLOUT = "engine.rollout"
SPAN_TREE_SNAPSHOT = "tree_store.snapshot"
SPAN_CACHE_PREFETCH = "tree_cache.prefetch"
SPAN_CACHE_COMPACT = "tree_cache.compact"
SPAN_BUBBLE = "bubble.open"
SPAN_RUNAHEAD_DISPATCH = "runahead.dispatch"
SPAN_RUNAHEAD_GENERATE = "runahead.generate"

# Attributes
ATTR_JOB_NAME = "srt.job.name"
ATTR_ENGINE_NAME = "srt.engine.name"
ATTR_LANE = "srt.lane"
ATTR_PHASE = "srt.phase"
ATTR_STEP = "srt.step.number"
ATTR_POLICY_VERSION = "srt.policy.version"
ATTR_PROMPT_KEY = "srt.prompt.key"
ATTR_ROLLOUT_ID = "srt.rollout.id"
ATTR_GROUP_ID = "srt.group.id"
ATTR_CACHE_SHARD = "srt.cache.shard"
ATTR_CACHE_PROMPTS = "srt.cache.prompts"
ATTR_BUBBLE_EPOCH = "srt.bubble.epoch"
ATTR_BUBBLE_TYPE = "srt.bubble.type"
ATTR_GPU_SOURCE = "srt.gpu.source"
ATTR_DRAFT_SOURCE = "srt.draft.source"
ATTR_DRAFT_TOKENS = "srt.draft.tokens"
ATTR_ACCEPTED_TOKENS = "srt.draft.accepted_tokens"
ATTR_DRAFT_STEPS = "srt.draft.steps"
ATTR_ACCEPTED_HISTORY = "srt.draft.accepted_tokens.history"
ATTR_ACCEPTED_ONLINE = "srt.draft.accepted_tokens.online"
ATTR_ACCEPTED_RUN_AHEAD = "srt.draft.accepted_tokens.run_ahead"
ATTR_REMOTE_DRAFT_TOKENS = "srt.draft.remote_tokens"
ATTR_MATCH_LENGTH = "srt.draft.match_length"
ATTR_CACHE_LOOKUPS = "srt.cache.lookups"
ATTR_CACHE_HITS = "srt.cache.hits"
ATTR_CACHE_RESULT = "srt.cache.result"
ATTR_RUNAHEAD_RESULT = "srt.runahead.result"
ATTR_ERROR_TYPE = "error.type"
ATTR_INPUT_TOKENS = "gen_ai.usage.input_tokens"
ATTR_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
ATTR_FINISH_REASONS = "gen_ai.response.finish_reasons"

# Metrics: name, unit
METRIC_CACHE_LOOKUPS = ("srt.cache.lookups", "{lookup}")
METRIC_DRAFT_TOKENS = ("srt.draft.tokens", "{token}")
METRIC_ACCEPTED_TOKENS = ("srt.draft.accepted_tokens", "{token}")
METRIC_DRAFT_STEPS = ("srt.draft.steps", "{step}")
METRIC_DRAFT_SKIPPED = ("srt.draft.skipped", "{step}")
METRIC_DRAFT_PROBE_STEPS = ("srt.draft.probe_steps", "{step}")
METRIC_DRAFT_OFF_STEPS = ("srt.draft.off_steps", "{step}")
METRIC_STEP_TIME_BASE = ("srt.step_time.base", "s")
METRIC_STEP_TIME_PER_TOKEN = ("srt.step_time.per_token", "s")
METRIC_ROLLOUT_DURATION = ("srt.rollout.duration", "s")
METRIC_STEP_DURATION = ("srt.step.duration", "s")
METRIC_TREE_MEMORY = ("srt.tree.memory", "By")
METRIC_TREE_PROMPTS = ("srt.tree.prompts", "{prompt}")
METRIC_TREE_TOKENS = ("srt.tree.tokens", "{token}")
METRIC_TREE_RUN_AHEAD_TOKENS = ("srt.tree.run_ahead_tokens", "{token}")
METRIC_TREE_RUN_AHEAD_TOKENS_USED = ("srt.tree.run_ahead_tokens_used", "{token}")
METRIC_LOG_APPEND_DURATION = ("srt.log.append.duration", "s")
METRIC_LOG_LAG = ("srt.log.lag", "s")
METRIC_LOG_DROPPED = ("srt.log.dropped", "{token}")
METRIC_LOG_REJECTED = ("srt.log.rejected", "{entry}")
METRIC_STORE_ERRORS = ("srt.store.errors", "{error}")
METRIC_CACHE_SNAPSHOTS = ("srt.cache.snapshots", "{snapshot}")
METRIC_CACHE_TRIMS = ("srt.cache.trims", "{trim}")
METRIC_CACHE_EVICTED_PROMPTS = ("srt.cache.evicted_prompts", "{prompt}")
METRIC_CACHE_LEASES_LOST = ("srt.cache.leases_lost", "{lease}")
METRIC_CACHE_OWNED_SHARDS = ("srt.cache.owned_shards", "{shard}")
METRIC_BUBBLE_DURATION = ("srt.bubble.duration", "s")
METRIC_GPU_UTILIZATION = ("srt.gpu.utilization", "1")
METRIC_RUNAHEAD_TASKS = ("srt.runahead.tasks", "{task}")
METRIC_RUNAHEAD_TOKENS = ("srt.runahead.tokens", "{token}")
METRIC_RUNAHEAD_ABORT_DURATION = ("srt.runahead.abort.duration", "s")
METRIC_RUNAHEAD_DEAD_LETTERS = ("srt.runahead.dead_letters", "{task}")
