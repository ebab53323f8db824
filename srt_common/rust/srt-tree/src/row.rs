//! A request that decodes here: what it said last, what it drafted, how far it may go.

use crate::candidates::MAX_LOCAL_ORDER;
use crate::draft::Draft;
use crate::origin::{Lane, Origin, PromptKey, SequenceId, TokenId};
use crate::rng::Rng;
use crate::stats::RowStats;
use crate::tables::Mode;

/// What starts a row.
#[derive(Debug, Clone, Copy)]
pub struct RowRequest<'a> {
    /// Names the tree.
    pub prompt_key: PromptKey,
    /// The prompt of the first turn, at least one token.
    pub prompt: &'a [i32],
    /// What follows it already: earlier turns or chunks, as observations.
    pub context: &'a [i32],
    /// Names the new sequence.
    pub sequence_id: SequenceId,
    /// The sequence of the rollout's last turn, if there was one. Where it ended here, was sampled
    /// alike and is what the context begins with, the row goes on with it.
    pub previous: Option<SequenceId>,
    /// Optimizer steps applied to the weights that sample it.
    pub policy_version: u32,
    /// Who it is sampled for.
    pub lane: Lane,
    /// How drafts are made.
    pub mode: Mode,
    /// Tokens beyond it are not kept; 0 means no limit.
    pub max_new_tokens: usize,
    /// Tokens after the first of these are not kept.
    pub stop_tokens: &'a [i32],
}

/// An open row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) prompt_key: PromptKey,
    /// Slot of its tree; none once that was removed.
    pub(crate) tree: Option<u32>,
    pub(crate) sequence_id: SequenceId,
    pub(crate) origin: Origin,
    pub(crate) mode: Mode,
    /// Whether the tree still takes its tokens: not after one was refused or removed.
    pub(crate) is_kept: bool,
    /// Offset in the sequence of its next token.
    pub(crate) offset: usize,
    /// The end of its text, as much as estimates look at.
    pub(crate) tail: Vec<TokenId>,
    pub(crate) stop_tokens: Vec<TokenId>,
    /// Tokens it may still sample; none without a limit.
    pub(crate) num_left: Option<usize>,
    pub(crate) rng: Rng,
    pub(crate) draft: Draft,
    pub(crate) stats: RowStats,
    /// Step that it last took part in.
    pub(crate) last_step: u64,
    /// Its place in the batch of that step.
    pub(crate) place: usize,
}

impl Row {
    /// How many of newly sampled tokens the row keeps: up to its limit, and up to a stop token.
    pub(crate) fn num_kept(&self, tokens: &[i32]) -> usize {
        let limit = self.num_left.unwrap_or(usize::MAX).min(tokens.len());
        let stop = tokens.iter().position(|&token| self.stop_tokens.contains(&(token as TokenId)));
        stop.map_or(limit, |at| limit.min(at + 1))
    }

    /// Moves on by kept tokens.
    pub(crate) fn advance(&mut self, tokens: &[TokenId]) {
        self.extend_tail(tokens);
        self.offset += tokens.len();
        if let Some(left) = &mut self.num_left {
            *left -= tokens.len();
        }
        if tokens.last().is_some_and(|token| self.stop_tokens.contains(token)) {
            self.num_left = Some(0);
        }
    }

    pub(crate) fn extend_tail(&mut self, tokens: &[TokenId]) {
        let fresh = &tokens[tokens.len().saturating_sub(MAX_LOCAL_ORDER)..];
        let keep = (MAX_LOCAL_ORDER - fresh.len()).min(self.tail.len());
        self.tail.drain(..self.tail.len() - keep);
        self.tail.extend_from_slice(fresh);
    }

    /// The longest draft that can be of use: the policy samples one more token after it.
    pub(crate) fn max_draft(&self) -> usize {
        self.num_left.map_or(usize::MAX, |left| left.saturating_sub(1))
    }
}
