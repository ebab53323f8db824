//! The second half of a step: every row drafts, on one thread or several.
//!
//! Trees and tables are only read, and a row has its own randomness: what is drafted does not depend
//! on how many threads there are.

use std::ops::Range;
use std::thread;

use crate::draft::{Drafter, Drafts, Draw, Limits};
use crate::estimate::View;
use crate::fetch::{Asking, ROWS_AT_ONCE, fetch};
use crate::forest::Forest;
use crate::origin::RowId;
use crate::row::Row;
use crate::stats::RowStats;
use crate::step::Step;
use crate::tables::Mode;
use crate::tree::Tree;

/// A thread drafts for at least so many rows: to start it takes as long as drafting for a few.
pub(crate) const MIN_ROWS_PER_THREAD: usize = 64;

impl Forest {
    /// Drafts for all rows, on as many threads as there are draws.
    pub(crate) fn propose<D: Draw + Send>(&mut self, step: &Step<'_>, draws: &mut [D]) -> Drafts {
        let view = View {
            trees: &self.trees,
            index: &self.index,
            tables: &self.tables,
            soft_targets: self.config.soft_targets,
            max_recent: self.config.max_recent_positions,
        };
        let engine_id = self.config.engine_id;
        let mut places: Vec<Option<&mut Row>> = step.rows.iter().map(|_| None).collect();
        for row in self.rows.values_mut().filter(|row| row.last_step == self.num_steps) {
            let place = row.place;
            places[place] = Some(row);
        }
        let mut rows: Vec<_> = places.into_iter().flatten().collect();
        let num_rows = rows.len().div_ceil(draws.len()).max(1);
        let mut parts: Vec<_> = rows
            .chunks_mut(num_rows)
            .zip(self.estimators.iter_mut().zip(draws))
            .enumerate()
            .map(|(n, (rows, (estimator, draw)))| Part {
                rows,
                first: n * num_rows,
                drafter: Drafter::new(view, engine_id, estimator, draw),
                totals: None,
            })
            .collect();
        if let Some((own, others)) = parts.split_first_mut() {
            thread::scope(|scope| {
                for part in others {
                    // One that cannot be started leaves its rows to this thread.
                    let _ = thread::Builder::new().spawn_scoped(scope, || part.draft(step));
                }
                own.draft(step);
            });
        }
        let mut drafts = Drafts { offsets: vec![0], ..Drafts::default() };
        for mut part in parts {
            part.draft(step);
            self.totals.add(&part.totals.unwrap_or_default());
            drafts.append(part.drafter.drafts);
        }
        drafts
    }
}

/// Rows that one thread drafts for.
struct Part<'a> {
    rows: &'a mut [&'a mut Row],
    /// Place in the batch of the first.
    first: usize,
    drafter: Drafter<'a>,
    /// None until they have been drafted for.
    totals: Option<RowStats>,
}

impl<'a> Part<'a> {
    /// Drafts for the rows, if nobody has.
    fn draft(&mut self, step: &Step<'_>) {
        if self.totals.is_some() {
            return;
        }
        let mut totals = RowStats::default();
        for n in 0..self.rows.len() {
            if n % ROWS_AT_ONCE == 0 {
                self.fetch(n..(n + ROWS_AT_ONCE).min(self.rows.len()), step);
            }
            let at = self.first + n;
            let stats = RowStats { num_steps: step.num_passes(at), ..RowStats::default() };
            let mut matched = 0;
            if let Some((tree, max_tokens)) = self.asked(n, step) {
                let limits = Limits { max_tokens, min_survival: step.min_survival };
                matched = self.drafter.propose(RowId(step.rows[at]), self.rows[n], tree, limits);
            }
            self.drafter.end_row(matched);
            self.rows[n].stats.add(&stats);
            totals.add(&stats);
        }
        self.totals = Some(totals);
    }

    /// Has what some of the rows begin with on its way from memory.
    fn fetch(&self, rows: Range<usize>, step: &Step<'_>) {
        let asking = rows.filter_map(|n| {
            let (tree, _) = self.asked(n, step)?;
            Some(Asking { tree, context: &self.rows[n].tail, mode: self.rows[n].mode })
        });
        fetch(&self.drafter.view, asking);
    }

    /// The tree that the `n`th of the rows is to draft from, and how many tokens at most.
    fn asked(&self, n: usize, step: &Step<'_>) -> Option<(&'a Tree, usize)> {
        let row = self.rows.get(n)?;
        let tree = self.drafter.view.trees[row.tree? as usize].as_deref()?;
        let max_tokens = (step.max_draft_tokens[self.first + n] as usize).min(row.max_draft());
        (max_tokens > 0 && row.mode != Mode::Off).then_some((tree, max_tokens))
    }
}
