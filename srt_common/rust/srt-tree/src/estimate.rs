//! From candidates to an estimate of the policy's next-token distribution.
//!
//! * Jelinek-Mercer interpolation over context orders, from low to high and at each order all trees
//!   before the prompt's own: `q = (1 - w) q + w f`, with `w` learned per kind of evidence.
//! * The same sum from the deepest level up: level j weighs `w_j` times the product of `1 - w`
//!   over all deeper ones. What is missing from 1 lowers the confidence.
//! * Source: the study summarised in docs/paper-map.md; the candidates of recency chains stand in
//!   for full counts.

use std::ops::Range;

use crate::candidates::{
    Candidate, MAX_GLOBAL_ORDER, MAX_LOCAL_ORDER, carry_on, find_global, find_local,
};
use crate::index::{GlobalIndex, Trees};
use crate::origin::TokenId;
use crate::soft::{MAX_SOFT_TARGETS, SoftTarget};
use crate::tables::{Level, Mode, NUM_ORDERS, ORDERS, Tables, calibration_cell};
use crate::tree::Tree;

/// Sharpens estimates that rest on single samples instead of probabilities.
const HARD_GAMMA: f32 = 1.5;
/// Tokens less probable than this are left out of q, if there are others.
const MIN_Q: f32 = 1e-6;

/// Everything drafting reads and does not change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) trees: &'a Trees,
    pub(crate) index: &'a GlobalIndex,
    pub(crate) tables: &'a Tables,
    pub(crate) soft_targets: bool,
    pub(crate) max_recent: usize,
}

/// A token with its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighted {
    /// The token.
    pub token: TokenId,
    /// Its probability.
    pub probability: f32,
}

/// One token's weight at one candidate.
#[derive(Debug, Clone, Copy)]
struct Evidence {
    token: TokenId,
    weight: f32,
    matched: u8,
    is_local: bool,
    candidate: u16,
}

/// What estimates rested on, kept until the tokens that came are known.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    levels: Vec<Level>,
    evidence: Vec<Evidence>,
}

/// The part of a [`Recall`] that belongs to one estimate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Basis {
    /// Deepest first.
    levels: Range<usize>,
    evidence: Range<usize>,
}

impl Recall {
    pub(crate) fn clear(&mut self) {
        self.levels.clear();
        self.evidence.clear();
    }

    /// The levels of an estimate from the lowest up, each with the share of `token` in it.
    pub(crate) fn shares(
        &self,
        basis: &Basis,
        token: TokenId,
    ) -> impl Iterator<Item = (Level, f32)> {
        let mut weights = [[0.0_f32; MAX_LOCAL_ORDER + 2]; 2];
        for it in &self.evidence[basis.evidence.clone()] {
            if it.token == token {
                weights[usize::from(it.is_local)][usize::from(it.matched)] += it.weight;
            }
        }
        for scope in &mut weights {
            for matched in (0..=MAX_LOCAL_ORDER).rev() {
                scope[matched] += scope[matched + 1];
            }
        }
        self.levels[basis.levels.clone()].iter().rev().map(move |level| {
            let scope = &weights[usize::from(level.is_local)];
            (*level, scope[ORDERS[usize::from(level.order)]] / level.total)
        })
    }
}

/// An estimate; its q is in the [`Estimator`].
#[derive(Debug)]
pub(crate) struct Estimate {
    pub(crate) basis: Basis,
    /// Calibration cell.
    pub(crate) cell: usize,
    /// Largest probability before anything is normalised.
    pub(crate) confidence: f32,
    /// Tokens of context that the best candidate agrees with.
    pub(crate) matched: usize,
}

/// One token of an estimate in the making.
#[derive(Debug, Clone, Copy)]
struct Entry {
    token: TokenId,
    q: f32,
    /// Weight so far: in all trees, in the prompt's own.
    counts: [f32; 2],
}

/// Makes estimates; holds what can be reused from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Estimator {
    local: Vec<Candidate>,
    global: Vec<Candidate>,
    entries: Vec<Entry>,
    /// The last estimate, cut and normalised, most probable first.
    pub(crate) q: Vec<Weighted>,
}

impl Estimator {
    /// Starts a draft: its first estimate looks everything up.
    pub(crate) fn start(&mut self) {
        self.local.clear();
        self.global.clear();
    }

    /// Estimates what follows `context` in a tree; none when nothing like it was seen. Within a
    /// draft, each context is the one before and one token more.
    pub(crate) fn estimate(
        &mut self,
        view: &View<'_>,
        tree: &Tree,
        context: &[TokenId],
        mode: Mode,
        recall: &mut Recall,
    ) -> Option<Estimate> {
        let token = *context.last()?;
        let hashes = view.index.hashes(context);
        if !carry_on(view.trees, token, MAX_LOCAL_ORDER, &mut self.local) {
            find_local(tree, context, &hashes, view.max_recent, &mut self.local);
        }
        if !carry_on(view.trees, token, MAX_GLOBAL_ORDER, &mut self.global) {
            let forest = (view.index, view.trees);
            find_global(forest, context, &hashes, view.max_recent, &mut self.global);
        }
        let matched = self.local.first().into_iter().chain(self.global.first());
        let matched = matched.map(|candidate| candidate.matched).max()?;
        let evidence = self.gather(view, recall);
        let levels = self.mix(view.tables, &evidence, recall);
        let confidence = self.entries.iter().map(|entry| entry.q).fold(0.0, f32::max);
        let cell = calibration_cell(mode, recall.levels[levels.start], confidence);
        self.cut(mode, view.soft_targets);
        Some(Estimate {
            basis: Basis { levels, evidence },
            cell,
            confidence,
            matched: usize::from(matched),
        })
    }

    /// The candidate that supplied `token`: local before global, best first.
    pub(crate) fn supplier(
        &self,
        recall: &Recall,
        basis: &Basis,
        token: TokenId,
    ) -> Option<Candidate> {
        let evidence = &recall.evidence[basis.evidence.clone()];
        let found = evidence.iter().find(|it| it.token == token)?;
        let scope = if found.is_local { &self.local } else { &self.global };
        scope.get(usize::from(found.candidate)).copied()
    }

    /// Collects what the candidates say: local ones first, best first.
    fn gather(&self, view: &View<'_>, recall: &mut Recall) -> Range<usize> {
        let start = recall.evidence.len();
        let probabilities = SoftTarget::probabilities();
        for (is_local, scope) in [(true, &self.local), (false, &self.global)] {
            for (candidate, found) in scope.iter().enumerate() {
                let Some((block, index)) = found.place(view.trees) else { continue };
                let (weight, matched, candidate) = (block.weight, found.matched, candidate as u16);
                let says = |token, weight| Evidence { token, weight, matched, is_local, candidate };
                let row = block.soft_row(index);
                if row.is_empty() || !view.soft_targets {
                    recall.evidence.push(says(block.tokens[index], weight));
                } else {
                    let targets = row.iter();
                    let pairs = targets
                        .map(|it| says(it.token(), weight * probabilities[usize::from(it.code())]));
                    recall.evidence.extend(pairs);
                }
            }
        }
        start..recall.evidence.len()
    }

    /// Mixes the levels from the deepest up into `entries`; notes them in `recall`.
    fn mix(
        &mut self,
        tables: &Tables,
        evidence: &Range<usize>,
        recall: &mut Recall,
    ) -> Range<usize> {
        self.entries.clear();
        let start = recall.levels.len();
        let evidence = &recall.evidence[evidence.clone()];
        let (local, global) = evidence.split_at(evidence.partition_point(|it| it.is_local));
        let mut scopes =
            [Scope::new(true, MAX_LOCAL_ORDER, local), Scope::new(false, MAX_GLOBAL_ORDER, global)];
        let mut remaining = 1.0;
        for order in (0..NUM_ORDERS).rev() {
            for scope in &mut scopes {
                let Some(level) = scope.descend(order, &mut self.entries) else { continue };
                let weight = tables.mixing_weight(level);
                scope.share += (remaining * weight) as f32 / level.total;
                remaining *= 1.0 - weight;
                recall.levels.push(level);
            }
        }
        for scope in &mut scopes {
            scope.pay_out(&mut self.entries);
        }
        start..recall.levels.len()
    }

    /// Cuts the mixture to what is shipped: 8 tokens or, for a point mass, one.
    fn cut(&mut self, mode: Mode, soft_targets: bool) {
        self.entries.sort_unstable_by(|a, b| b.q.total_cmp(&a.q).then(a.token.cmp(&b.token)));
        let most = if mode == Mode::PointMass { 1 } else { MAX_SOFT_TARGETS };
        let num_likely = self.entries.iter().take(most).take_while(|it| it.q >= MIN_Q).count();
        self.entries.truncate(num_likely.max(1));
        let sharpen = |q: f32| if soft_targets { q } else { q.powf(HARD_GAMMA) };
        let sum: f32 = self.entries.iter().map(|entry| sharpen(entry.q)).sum();
        self.q.clear();
        self.q.extend(
            self.entries
                .iter()
                .map(|it| Weighted { token: it.token, probability: sharpen(it.q) / sum }),
        );
    }
}

/// One scope's evidence on the way down from long contexts to short ones.
struct Scope<'a> {
    is_local: bool,
    max_order: usize,
    /// Best first; what has not been counted yet.
    rest: &'a [Evidence],
    total: f32,
    distinct: u16,
    /// What each unit of weight counted so far adds to q and has not added yet.
    share: f32,
}

impl<'a> Scope<'a> {
    fn new(is_local: bool, max_order: usize, rest: &'a [Evidence]) -> Self {
        Self { is_local, max_order, rest, total: 0.0, distinct: 0, share: 0.0 }
    }

    /// Counts all evidence of an order; none when the scope has nothing there.
    fn descend(&mut self, order: usize, entries: &mut Vec<Entry>) -> Option<Level> {
        if ORDERS[order] > self.max_order {
            return None;
        }
        let num_new =
            self.rest.iter().take_while(|it| usize::from(it.matched) >= ORDERS[order]).count();
        if num_new > 0 {
            self.pay_out(entries);
            let (new, rest) = self.rest.split_at(num_new);
            self.rest = rest;
            for it in new {
                self.count(it, entries);
            }
        }
        let (is_local, order) = (self.is_local, order as u8);
        let (total, distinct) = (self.total, self.distinct);
        (total > 0.0).then_some(Level { is_local, order, distinct, total })
    }

    /// Adds to q what the levels since the last change of counts give to it.
    fn pay_out(&mut self, entries: &mut [Entry]) {
        if self.share > 0.0 {
            for entry in entries {
                entry.q += self.share * entry.counts[usize::from(self.is_local)];
            }
            self.share = 0.0;
        }
    }

    fn count(&mut self, it: &Evidence, entries: &mut Vec<Entry>) {
        let scope = usize::from(self.is_local);
        self.total += it.weight;
        let at = entries.iter().position(|entry| entry.token == it.token).unwrap_or_else(|| {
            entries.push(Entry { token: it.token, q: 0.0, counts: [0.0; 2] });
            entries.len() - 1
        });
        let count = &mut entries[at].counts[scope];
        self.distinct += u16::from(*count == 0.0);
        *count += it.weight;
    }
}
