//! Readings: plain numbers about rows, prompts and the whole forest.

/// What one row drafted, or the sum over rows. Counts are tokens unless named otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowStats {
    /// Steps the row took part in.
    pub num_steps: u64,
    /// Lookups of which it is known what they led to: the row has taken part in a later step.
    pub num_lookups: u64,
    /// Lookups that led to a draft of which at least one token was verified.
    pub num_hits: u64,
    /// Drafted tokens that were verified.
    pub num_draft_tokens: u64,
    /// Drafted tokens that were accepted.
    pub num_accepted_tokens: u64,
    /// Accepted tokens by [`crate::Source`].
    pub accepted_by_source: [u64; 3],
    /// Verified drafted tokens supplied by positions that another engine sampled.
    pub num_remote_draft_tokens: u64,
    /// Sum of match lengths over hits.
    pub sum_match_length: u64,
}

impl RowStats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.num_steps += other.num_steps;
        self.num_lookups += other.num_lookups;
        self.num_hits += other.num_hits;
        self.num_draft_tokens += other.num_draft_tokens;
        self.num_accepted_tokens += other.num_accepted_tokens;
        self.num_remote_draft_tokens += other.num_remote_draft_tokens;
        self.sum_match_length += other.sum_match_length;
        for (sum, part) in self.accepted_by_source.iter_mut().zip(other.accepted_by_source) {
            *sum += part;
        }
    }
}

/// A reading of one prompt's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PromptStats {
    /// Sequences held.
    pub num_sequences: usize,
    /// Tokens held in them.
    pub num_tokens: usize,
    /// Tokens of the run-ahead lane among them.
    pub num_run_ahead_tokens: usize,
    /// Run-ahead positions that supplied an accepted draft token.
    pub num_run_ahead_tokens_used: usize,
    /// Sequences of the run-ahead lane.
    pub num_run_ahead_sequences: usize,
    /// Smallest policy version held; 0 without sequences.
    pub min_policy_version: u32,
    /// Largest policy version held; 0 without sequences.
    pub max_policy_version: u32,
    /// Bytes of the tree, its part of the global index left out.
    pub memory_bytes: usize,
}

/// A consistent reading of the whole forest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForestStats {
    /// Trees held.
    pub num_prompts: usize,
    /// Sequences held.
    pub num_sequences: usize,
    /// Tokens held in sequences, prompts not counted.
    pub num_tokens: usize,
    /// Tokens of the run-ahead lane among them.
    pub num_run_ahead_tokens: usize,
    /// Run-ahead positions that supplied an accepted draft token.
    pub num_run_ahead_tokens_used: usize,
    /// Bytes of the trees and of the index over them.
    pub memory_bytes: usize,
    /// Bound on `memory_bytes`.
    pub max_bytes: usize,
    /// Tokens waiting for the ones before them.
    pub num_early_tokens: usize,
    /// Early tokens given up because their buffer was full, since the start.
    pub num_dropped_tokens: u64,
    /// Tokens not kept because memory was full and nothing could be evicted, since the start.
    pub num_refused_tokens: u64,
    /// Prompts evicted since the start.
    pub num_evicted_prompts: u64,
    /// Own tokens not yet drained.
    pub num_outbox_tokens: usize,
    /// Own tokens given up because the outbox was full, since the start.
    pub num_dropped_outbox_tokens: u64,
    /// Sums over all rows, closed ones included.
    pub rows: RowStats,
}
