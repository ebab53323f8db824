//! From candidates to an estimate of the policy's next-token distribution.
//!
//! * Jelinek-Mercer interpolation over context orders, from low to high and at each order all trees
//!   before the prompt's own: `q = (1 - w) q + w f`, with `w` learned per kind of evidence.
//! * The same sum from the deepest level up: level j weighs `w_j` times the product of `1 - w`
//!   over all deeper ones, until what is left is negligible. What is missing from 1 lowers the
//!   confidence.
//! * Source: the study summarised in docs/paper-map.md; the candidates of recency chains stand in
//!   for full counts.

use std::ops::Range;

use crate::candidates::{Candidate, MAX_GLOBAL_ORDER, MAX_LOCAL_ORDER, Question, Search};
use crate::index::{GlobalIndex, Trees};
use crate::origin::TokenId;
use crate::soft::{MAX_SOFT_TARGETS, SoftTarget};
use crate::tables::{Level, Mode, NUM_ORDERS, ORDERS, Tables, calibration_cell};
use crate::tree::Tree;

/// Less than this share of q is not looked for.
const NEGLIGIBLE: f64 = 0.005;
/// The same where only the most probable token counts.
const NEGLIGIBLE_TO_POINT_MASS: f64 = 0.02;
/// A chain is read only for more than this share of q.
const WORTH_READING: f64 = 0.1;
/// All trees are asked for fewer positions than the prompt's own, by this factor.
const GLOBAL_RARITY: usize = 4;
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

impl View<'_> {
    /// Positions to read a chain: half as many tell the most probable token.
    pub(crate) fn max_recent_for(&self, mode: Mode) -> usize {
        if mode == Mode::PointMass { self.max_recent.div_ceil(2) } else { self.max_recent }
    }
}

/// A token with its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighted {
    /// The token.
    pub token: TokenId,
    /// Its probability.
    pub probability: f32,
}

/// What estimates rested on, kept until the tokens that came are known.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    levels: Vec<Noted>,
    tokens: Vec<TokenId>,
    counts: Vec<f32>,
}

/// A level, and where the weights of an estimate's tokens at it lie: of the first ones, the others
/// have none.
#[derive(Debug)]
struct Noted {
    level: Level,
    counts: Range<u32>,
}

/// The part of a [`Recall`] that belongs to one estimate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Basis {
    /// Deepest first.
    levels: Range<usize>,
    tokens: Range<usize>,
}

impl Recall {
    pub(crate) fn clear(&mut self) {
        self.levels.clear();
        self.tokens.clear();
        self.counts.clear();
    }

    /// The levels of an estimate from the lowest up, each with the share of `token` in it.
    pub(crate) fn shares(
        &self,
        basis: &Basis,
        token: TokenId,
    ) -> impl Iterator<Item = (Level, f32)> {
        let place = self.tokens[basis.tokens.clone()].iter().position(|&its| its == token);
        self.levels[basis.levels.clone()].iter().rev().map(move |noted| {
            let counts = &self.counts[noted.counts.start as usize..noted.counts.end as usize];
            let count = place.and_then(|place| counts.get(place)).copied().unwrap_or(0.0);
            (noted.level, count / noted.level.total)
        })
    }

    /// Notes a level and what its scope has counted for each entry.
    fn note(&mut self, level: Level, sum: &mut Sum, entries: &[Entry]) {
        if sum.noted.is_empty() {
            let start = self.counts.len() as u32;
            let scope = usize::from(level.is_local);
            self.counts.extend(entries.iter().map(|entry| entry.counts[scope]));
            sum.noted = start..self.counts.len() as u32;
        }
        self.levels.push(Noted { level, counts: sum.noted.clone() });
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
    /// The candidate with the longest match that has it: its scope, and its place there.
    supplier: (bool, u16),
}

/// Makes estimates; holds what can be reused from one to the next.
#[derive(Debug)]
pub(crate) struct Estimator {
    /// All trees, the prompt's own.
    searches: [Search; 2],
    entries: Vec<Entry>,
    /// The last estimate, cut and normalised, most probable first.
    pub(crate) q: Vec<Weighted>,
}

impl Estimator {
    pub(crate) fn new() -> Self {
        Self {
            searches: [Search::new(MAX_GLOBAL_ORDER), Search::new(MAX_LOCAL_ORDER)],
            entries: Vec::new(),
            q: Vec::new(),
        }
    }

    /// Starts a draft: its first estimate looks everything up.
    pub(crate) fn start(&mut self) {
        self.searches.iter_mut().for_each(Search::start);
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
        for search in &mut self.searches {
            search.carry_on(view.trees, token);
        }
        let hashes = view.index.hashes(context);
        let asked = Question { context, hashes, max_recent: view.max_recent_for(mode) };
        let basis = self.mix(view, tree, (&asked, negligible(mode)), recall);
        let deepest = recall.levels.get(basis.levels.start)?.level;
        let confidence = self.entries.iter().map(|entry| entry.q).fold(0.0, f32::max);
        let matched = self.searches.iter().filter_map(|search| search.found.first());
        let matched = matched.map(|candidate| candidate.matched).max().unwrap_or(0);
        self.cut(mode, view.soft_targets);
        Some(Estimate {
            basis,
            cell: calibration_cell(mode, deepest, confidence),
            confidence,
            matched: usize::from(matched),
        })
    }

    /// The candidate that supplied a token of `q`: the one with the longest match.
    pub(crate) fn supplier(&self, pick: usize) -> Option<Candidate> {
        let (is_local, candidate) = self.entries.get(pick)?.supplier;
        self.searches[usize::from(is_local)].found.get(usize::from(candidate)).copied()
    }

    /// Mixes the levels from the deepest up into `entries`, as long as they matter; notes in
    /// `recall` what the mixture rests on.
    fn mix(
        &mut self,
        view: &View<'_>,
        tree: &Tree,
        (asked, negligible): (&Question<'_>, f64),
        recall: &mut Recall,
    ) -> Basis {
        self.entries.clear();
        let (first_level, first_token) = (recall.levels.len(), recall.tokens.len());
        let mut sums = [Sum::new(false), Sum::new(true)];
        let mut remaining = 1.0;
        'levels: for order in (0..NUM_ORDERS).rev() {
            for is_local in [true, false] {
                let search = &mut self.searches[usize::from(is_local)];
                if !search.reaches(ORDERS[order]) {
                    continue;
                }
                if remaining > WORTH_READING && search.wants(ORDERS[order]) {
                    read(search, view, is_local.then_some(tree), ORDERS[order], asked);
                }
                let sum = &mut sums[usize::from(is_local)];
                sum.count(view, &search.found, ORDERS[order], &mut self.entries);
                let Some(level) = sum.level(order) else { continue };
                let weight = view.tables.mixing_weight(level);
                sum.share += (remaining * weight) as f32 / level.total;
                remaining *= 1.0 - weight;
                recall.note(level, sum, &self.entries);
                if remaining < negligible {
                    break 'levels;
                }
            }
        }
        for sum in &mut sums {
            sum.pay_out(&mut self.entries);
        }
        recall.tokens.extend(self.entries.iter().map(|entry| entry.token));
        Basis { levels: first_level..recall.levels.len(), tokens: first_token..recall.tokens.len() }
    }

    /// Cuts the mixture to what is shipped: 8 tokens or, for a point mass, one.
    fn cut(&mut self, mode: Mode, soft_targets: bool) {
        self.entries.sort_unstable_by(|a, b| b.q.total_cmp(&a.q).then(a.token.cmp(&b.token)));
        let most = if mode == Mode::PointMass { 1 } else { MAX_SOFT_TARGETS };
        let num_likely = self.entries.iter().take(most).take_while(|it| it.q >= MIN_Q).count();
        self.entries.truncate(num_likely.max(1));
        // Single samples instead of probabilities: q to the power of 1.5.
        let sharpen = |q: f32| if soft_targets { q } else { q * q.sqrt() };
        let sum: f32 = self.entries.iter().map(|entry| sharpen(entry.q)).sum();
        self.q.clear();
        self.q.extend(
            self.entries
                .iter()
                .map(|it| Weighted { token: it.token, probability: sharpen(it.q) / sum }),
        );
    }
}

/// Positions to read of a chain over all trees where so many are read of one in the prompt's own.
pub(crate) fn rarely(max_recent: usize) -> usize {
    max_recent.div_ceil(GLOBAL_RARITY)
}

/// Share of q below which a mixture is done.
fn negligible(mode: Mode) -> f64 {
    if mode == Mode::PointMass { NEGLIGIBLE_TO_POINT_MASS } else { NEGLIGIBLE }
}

/// Reads the chain for matches of `order` tokens, of one tree or of all.
fn read(
    search: &mut Search,
    view: &View<'_>,
    home: Option<&Tree>,
    order: usize,
    asked: &Question<'_>,
) {
    if let Some(tree) = home {
        search.read_local(tree, order, asked);
    } else {
        let asked = Question { max_recent: rarely(asked.max_recent), ..*asked };
        search.read_global((view.index, view.trees), order, &asked);
    }
}

/// One scope's evidence on the way down from long contexts to short ones.
#[derive(Debug)]
struct Sum {
    is_local: bool,
    num_counted: usize,
    total: f32,
    distinct: u16,
    /// What each unit of weight counted so far adds to q and has not added yet.
    share: f32,
    /// Where a [`Recall`] has the counts of now; nowhere while they are new.
    noted: Range<u32>,
}

impl Sum {
    fn new(is_local: bool) -> Self {
        Self { is_local, num_counted: 0, total: 0.0, distinct: 0, share: 0.0, noted: 0..0 }
    }

    /// The level that the counts make at an order; none while nothing is counted.
    fn level(&self, order: usize) -> Option<Level> {
        let Self { is_local, total, distinct, .. } = *self;
        (total > 0.0).then_some(Level { is_local, order: order as u8, distinct, total })
    }

    /// Counts what the candidates say that match `order` tokens and were not counted yet.
    fn count(
        &mut self,
        view: &View<'_>,
        found: &[Candidate],
        order: usize,
        entries: &mut Vec<Entry>,
    ) {
        let fresh = &found[self.num_counted..];
        if fresh.first().is_none_or(|it| usize::from(it.matched) < order) {
            return;
        }
        self.pay_out(entries);
        self.noted = 0..0;
        let probabilities = SoftTarget::probabilities();
        for it in fresh.iter().take_while(|it| usize::from(it.matched) >= order) {
            let supplier = (self.is_local, self.num_counted as u16);
            self.num_counted += 1;
            let Some((block, index)) = it.place(view.trees) else { continue };
            let row = if view.soft_targets { block.soft_row(index) } else { &[] };
            if row.is_empty() {
                self.add((block.tokens[index], block.weight), 0, supplier, entries);
            }
            for (rank, target) in row.iter().enumerate() {
                let weight = block.weight * probabilities[usize::from(target.code())];
                self.add((target.token(), weight), rank, supplier, entries);
            }
        }
    }

    /// Counts one token. Rows tend to agree, so it is looked for at its rank first.
    fn add(
        &mut self,
        (token, weight): (TokenId, f32),
        rank: usize,
        supplier: (bool, u16),
        entries: &mut Vec<Entry>,
    ) {
        self.total += weight;
        let is_same = |entry: &Entry| entry.token == token;
        let at = if entries.get(rank).is_some_and(is_same) {
            rank
        } else {
            entries.iter().position(is_same).unwrap_or_else(|| {
                entries.push(Entry { token, q: 0.0, counts: [0.0; 2], supplier });
                entries.len() - 1
            })
        };
        let count = &mut entries[at].counts[usize::from(self.is_local)];
        self.distinct += u16::from(*count == 0.0);
        *count += weight;
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
}
