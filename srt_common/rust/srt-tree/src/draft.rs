//! Drafting: one token after another from estimates, until it stops paying.
//!
//! * Whether a position is proposed depends on the tokens drafted before it and on its estimate,
//!   never on its own token: anything else would bias what the policy samples.
//! * The token is drawn from exactly the q that goes with it.

use crate::candidates::Candidate;
use crate::estimate::{Basis, Estimator, Recall, View, Weighted};
use crate::origin::{Lane, RowId, Source, TokenId};
use crate::rng::Rng;
use crate::row::Row;
use crate::soft::MAX_SOFT_TARGETS;
use crate::tree::Tree;

/// Draws drafted tokens.
pub trait Draw {
    /// Picks an index of `q` for position `position` of a row's draft. To keep what is sampled
    /// exact, the pick follows `q`, whatever it is coupled with.
    fn draw(&mut self, row: RowId, position: usize, q: &[Weighted], rng: &mut Rng) -> usize;
}

/// Draws from q with the row's own randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Independent;

impl Draw for Independent {
    fn draw(&mut self, _: RowId, _: usize, q: &[Weighted], rng: &mut Rng) -> usize {
        if q.len() == 1 {
            return 0;
        }
        let mut left = rng.uniform();
        for (index, it) in q.iter().enumerate() {
            left -= f64::from(it.probability);
            if left < 0.0 {
                return index;
            }
        }
        q.len() - 1
    }
}

/// A position that was estimated, and drafted unless it is the one where the draft stopped.
#[derive(Debug, Clone)]
pub(crate) struct Drafted {
    pub(crate) token: Option<TokenId>,
    pub(crate) basis: Basis,
    pub(crate) cell: usize,
    /// Where the token was copied from; none once that is no longer held.
    pub(crate) supplier: Option<Candidate>,
    pub(crate) source: Source,
    pub(crate) is_remote: bool,
}

/// A row's last draft, kept until it is known what became of it.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) positions: Vec<Drafted>,
    pub(crate) recall: Recall,
    /// Match length of the lookup behind it; none where nothing was looked up.
    pub(crate) lookup: Option<usize>,
}

impl Draft {
    /// Drafted tokens.
    pub(crate) fn len(&self) -> usize {
        let stopped = self.positions.last().is_some_and(|it| it.token.is_none());
        self.positions.len() - usize::from(stopped)
    }

    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.recall.clear();
        self.lookup = None;
    }
}

/// What a step proposes for its rows, row after row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Drafts {
    /// Row i owns positions `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<i32>,
    /// Drafted tokens.
    pub token_ids: Vec<i32>,
    /// Support of the distribution each was drawn from; 0 where padded.
    pub q_token_ids: Vec<i32>,
    /// Its probabilities; 0 where padded.
    pub q_probs: Vec<f32>,
    /// Calibrated probability that the draft is accepted up to and including the position.
    pub survival: Vec<f32>,
    /// Per row the tokens of context matched at its first position.
    pub match_length: Vec<i32>,
}

impl Drafts {
    /// Adds the rows of another one behind its own.
    pub(crate) fn append(&mut self, mut other: Self) {
        let end = self.token_ids.len() as i32;
        self.offsets.extend(other.offsets.iter().skip(1).map(|offset| offset + end));
        self.token_ids.append(&mut other.token_ids);
        self.q_token_ids.append(&mut other.q_token_ids);
        self.q_probs.append(&mut other.q_probs);
        self.survival.append(&mut other.survival);
        self.match_length.append(&mut other.match_length);
    }

    fn push(&mut self, token: TokenId, q: &[Weighted], survival: f64) {
        self.token_ids.push(token as i32);
        self.survival.push(survival as f32);
        let end = self.q_probs.len() + MAX_SOFT_TARGETS;
        self.q_token_ids.extend(q.iter().map(|it| it.token as i32));
        self.q_probs.extend(q.iter().map(|it| it.probability));
        self.q_token_ids.resize(end, 0);
        self.q_probs.resize(end, 0.0);
    }
}

/// How far a draft may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_tokens: usize,
    pub(crate) min_survival: f64,
}

/// Drafts for rows, one after another.
pub(crate) struct Drafter<'a> {
    pub(crate) view: View<'a>,
    engine_id: u32,
    estimator: &'a mut Estimator,
    draw: &'a mut (dyn Draw + Send),
    /// Of the rows so far.
    pub(crate) drafts: Drafts,
    /// The text so far of the row being drafted.
    context: Vec<TokenId>,
}

impl<'a> Drafter<'a> {
    pub(crate) fn new(
        view: View<'a>,
        engine_id: u32,
        estimator: &'a mut Estimator,
        draw: &'a mut (dyn Draw + Send),
    ) -> Self {
        let drafts = Drafts { offsets: vec![0], ..Drafts::default() };
        Self { view, engine_id, estimator, draw, drafts, context: Vec::new() }
    }

    /// The row whose first position matched so many tokens has all its draft.
    pub(crate) fn end_row(&mut self, match_length: usize) {
        self.drafts.match_length.push(match_length as i32);
        self.drafts.offsets.push(self.drafts.token_ids.len() as i32);
    }

    /// Drafts what may follow a row's text in its tree. Returns the match length.
    pub(crate) fn propose(
        &mut self,
        id: RowId,
        row: &mut Row,
        tree: &Tree,
        limits: Limits,
    ) -> usize {
        self.context.clone_from(&row.tail);
        let (mut survival, mut match_length) = (1.0, 0);
        self.estimator.start();
        for position in 0..limits.max_tokens {
            let recall = &mut row.draft.recall;
            let Some(estimate) =
                self.estimator.estimate(&self.view, tree, &self.context, row.mode, recall)
            else {
                break;
            };
            if position == 0 {
                match_length = estimate.matched;
            }
            survival *= self.view.tables.acceptance(estimate.cell, estimate.confidence);
            let mut drafted = Drafted {
                token: None,
                basis: estimate.basis,
                cell: estimate.cell,
                supplier: None,
                source: Source::History,
                is_remote: false,
            };
            if survival < limits.min_survival {
                row.draft.positions.push(drafted);
                break;
            }
            let pick = self.draw.draw(id, position, &self.estimator.q, &mut row.rng);
            let token = self.estimator.q[pick].token;
            self.attribute(&mut drafted, row, pick);
            row.draft.positions.push(drafted);
            self.drafts.push(token, &self.estimator.q, survival);
            self.context.push(token);
            if row.stop_tokens.contains(&token) {
                break;
            }
        }
        row.draft.lookup = Some(match_length);
        match_length
    }

    /// Notes which token of q was picked and where it comes from.
    fn attribute(&self, drafted: &mut Drafted, row: &Row, pick: usize) {
        drafted.token = Some(self.estimator.q[pick].token);
        drafted.supplier = self.estimator.supplier(pick);
        let origin = drafted.supplier.and_then(|supplier| {
            let (block, _) = supplier.place(self.view.trees)?;
            self.view.trees[supplier.tree as usize].as_deref()?.at(block.sequence)?.origin
        });
        if let Some(origin) = origin {
            drafted.is_remote = origin.engine_id != self.engine_id;
            drafted.source = if origin.lane == Lane::RunAhead {
                Source::RunAhead
            } else if origin.policy_version == row.origin.policy_version {
                Source::Online
            } else {
                Source::History
            };
        }
    }
}
