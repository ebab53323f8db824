//! Rows: opening and closing them, and the one call per engine step.
//!
//! * A step has two halves. First every row's new tokens are taken in, in the order the rows were
//!   opened; then every row drafts from the same trees and tables, on several threads where there
//!   are rows enough. So a draft depends neither on the order of rows in the batch nor on how many
//!   threads there are.
//! * Everything is learned from the verification of an earlier step, as it is delivered.

use crate::draft::{Draft, Drafted, Drafts, Draw, Independent};
use crate::error::{Result, TreeError};
use crate::forest::{Forest, SWEPT_PER_TOKEN, check_token_ids, token_ids};
use crate::origin::{Origin, PromptKey, RowId, SequenceId, TokenId};
use crate::propose::MIN_ROWS_PER_THREAD;
use crate::rng::{Rng, mix};
use crate::row::{Row, RowRequest};
use crate::soft::{MIN_PROBABILITY, SoftRow, SoftTarget};
use crate::stats::RowStats;
use crate::tables::Mode;
use crate::tree::Destination;

/// Most tokens a row may draft in one step.
pub const MAX_DRAFT_TOKENS: i32 = 128;

/// Probabilities may exceed 1 by rounding, not by more.
const MAX_PROBABILITY: f32 = 1.01;

/// What the rows of a batch sampled since their last step, and what they may draft.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Open rows, no duplicates.
    pub rows: &'a [u64],
    /// Row i sampled `new_tokens[new_offsets[i]..new_offsets[i + 1]]`.
    pub new_offsets: &'a [i32],
    /// Sampled tokens, row after row.
    pub new_tokens: &'a [i32],
    /// Positions of each row's last draft that were verified.
    pub num_verified: &'a [i32],
    /// `sum(min(p, q))` at each verified position, NaN after the first rejected one; or empty.
    pub overlap: &'a [f32],
    /// Soft targets of new token n are entries `soft_offsets[n]..soft_offsets[n + 1]`; or empty.
    pub soft_offsets: &'a [i32],
    /// Tokens of the soft targets.
    pub soft_token_ids: &'a [i32],
    /// Probabilities of the soft targets.
    pub soft_probs: &'a [f32],
    /// Upper bound of each row's draft; 0 for none.
    pub max_draft_tokens: &'a [i32],
    /// A draft ends before the position whose survival would fall below it.
    pub min_survival: f64,
}

impl Forest {
    /// Starts a sequence that decodes here.
    ///
    /// # Errors
    /// When tokens are out of range, the prompt is empty, or the sequence is held already.
    pub fn open_row(&mut self, request: &RowRequest<'_>) -> Result<RowId> {
        let prompt = token_ids("prompt_token_ids", request.prompt)?;
        let context = token_ids("context_token_ids", request.context)?;
        let stop_tokens = token_ids("stop_token_ids", request.stop_tokens)?;
        if prompt.is_empty() {
            return Err(TreeError::invalid("prompt_token_ids", "empty", "at least one token"));
        }
        let key = request.prompt_key;
        if self.held(key, request.sequence_id) > 0 {
            let value = request.sequence_id.0;
            return Err(TreeError::invalid("sequence_id", value, "new to its prompt"));
        }
        self.give_prompt(key, &prompt);
        let origin = Origin {
            policy_version: request.policy_version,
            lane: request.lane,
            engine_id: self.config.engine_id,
        };
        let previous = request.previous.filter(|&it| self.go_on(key, it, origin, &context));
        let id = previous.unwrap_or(request.sequence_id);
        let num_held = self.held(key, id);
        let mut row = Box::new(Row {
            prompt_key: key,
            tree: self.keys.get(&key).copied(),
            sequence_id: id,
            origin,
            mode: request.mode,
            is_kept: true,
            offset: num_held,
            tail: Vec::new(),
            stop_tokens,
            num_left: (request.max_new_tokens > 0).then_some(request.max_new_tokens),
            // A later turn of a sequence must not repeat the draws of an earlier one.
            rng: Rng::new(self.config.seed, mix(id.0).wrapping_add(num_held as u64)),
            draft: Draft::default(),
            stats: RowStats::default(),
            last_step: 0,
            place: 0,
        });
        row.extend_tail(&prompt);
        row.extend_tail(&context);
        if let Some(tree) = row.tree.and_then(|slot| self.trees[slot as usize].as_deref_mut()) {
            tree.num_open_rows += 1;
        }
        let fresh = &context[num_held..];
        self.keep(&mut row, fresh, &vec![SoftRow::EMPTY; fresh.len()], true);
        row.offset = context.len();
        let handle = RowId(self.next_row);
        self.next_row += 1;
        self.rows.insert(handle, row);
        Ok(handle)
    }

    /// Takes a sequence up again if it ended here and `context` begins with all of it.
    fn go_on(
        &mut self,
        key: PromptKey,
        id: SequenceId,
        origin: Origin,
        context: &[TokenId],
    ) -> bool {
        self.tree_mut(key).is_some_and(|tree| tree.reopen(id, origin, context))
    }

    /// The sequence that a row appends to.
    ///
    /// # Errors
    /// When the row is not open.
    pub fn row_sequence(&self, row: RowId) -> Result<SequenceId> {
        Ok(self.rows.get(&row).ok_or_else(|| unknown_row(row.0))?.sequence_id)
    }

    /// Changes how a row drafts.
    ///
    /// # Errors
    /// When the row is not open.
    pub fn set_row_mode(&mut self, row: RowId, mode: Mode) -> Result<()> {
        self.rows.get_mut(&row).ok_or_else(|| unknown_row(row.0))?.mode = mode;
        Ok(())
    }

    /// Ends a row. Its tokens stay.
    ///
    /// # Errors
    /// When the row is not open.
    pub fn close_row(&mut self, row: RowId) -> Result<RowStats> {
        let row = self.rows.remove(&row).ok_or_else(|| unknown_row(row.0))?;
        if let Some(slot) = row.tree
            && let Some(tree) = self.trees[slot as usize].as_deref_mut()
        {
            tree.num_open_rows -= 1;
            if row.is_kept && tree.sequence_end(row.sequence_id) == row.offset {
                tree.end(row.sequence_id);
            }
            self.recency.touch(slot);
        }
        Ok(row.stats)
    }

    /// One engine step: takes what rows sampled, learns from it, drafts what comes next.
    ///
    /// # Errors
    /// When the arrays do not fit together or hold what they may not.
    pub fn step(&mut self, step: &Step<'_>) -> Result<Drafts> {
        self.take_in_all(step)?;
        let num_drafting = step.max_draft_tokens.iter().filter(|&&it| it > 0).count();
        let num_threads = (num_drafting / MIN_ROWS_PER_THREAD).clamp(1, self.estimators.len());
        Ok(self.propose(step, &mut vec![Independent; num_threads]))
    }

    /// `step` with draws made by the caller, on one thread: for replays of recorded text, whose
    /// drafts are coupled with what was sampled.
    ///
    /// # Errors
    /// As `step`.
    pub fn step_with(&mut self, step: &Step<'_>, draw: &mut (impl Draw + Send)) -> Result<Drafts> {
        self.take_in_all(step)?;
        Ok(self.propose(step, std::slice::from_mut(draw)))
    }

    /// Checks rows and verified positions; marks the rows as part of this step, with their place.
    fn check_rows(&mut self, step: &Step<'_>) -> Result<()> {
        self.num_steps += 1;
        for (place, (&row, &num_verified)) in step.rows.iter().zip(step.num_verified).enumerate() {
            let open = self.rows.get_mut(&RowId(row)).ok_or_else(|| unknown_row(row))?;
            open.place = place;
            if std::mem::replace(&mut open.last_step, self.num_steps) == self.num_steps {
                return Err(TreeError::invalid("rows", row, "without duplicates"));
            }
            if usize::try_from(num_verified).is_ok_and(|it| it <= open.draft.len()) {
                continue;
            }
            let allowed = format!("from 0 to {}, the row's last draft", open.draft.len());
            return Err(TreeError::invalid("num_verified", num_verified, allowed));
        }
        Ok(())
    }

    // -- first half: taking in -------------------------------------------------------------------

    fn take_in_all(&mut self, step: &Step<'_>) -> Result<()> {
        step.check()?;
        self.check_rows(step)?;
        let mut order: Vec<usize> = (0..step.rows.len()).collect();
        order.sort_unstable_by_key(|&i| step.rows[i]);
        let verified_offsets = prefix_sums(step.num_verified);
        for i in order {
            self.take_in(step, i, verified_offsets[i]);
        }
        self.sweep(step.new_tokens.len() * SWEPT_PER_TOKEN);
        Ok(())
    }

    fn take_in(&mut self, step: &Step<'_>, i: usize, verified_offset: usize) {
        let id = RowId(step.rows[i]);
        let Some(mut row) = self.rows.remove(&id) else { return };
        let start = step.new_offsets[i] as usize;
        let new_tokens = &step.new_tokens[start..step.new_offsets[i + 1] as usize];
        let new_tokens = &new_tokens[..row.num_kept(new_tokens)];
        let tokens: Vec<_> = new_tokens.iter().map(|&token| token as TokenId).collect();
        let num_verified = step.num_verified[i] as usize;
        let overlap = step.overlap.get(verified_offset..verified_offset + num_verified);
        self.learn(&mut row, &tokens, num_verified, overlap.unwrap_or_default());
        let soft: Vec<_> = (start..start + tokens.len()).map(|n| step.soft_row(n)).collect();
        self.keep(&mut row, &tokens, &soft, false);
        row.advance(&tokens);
        self.rows.insert(id, row);
    }

    /// Learns from what became of a row's last draft, and forgets it.
    fn learn(&mut self, row: &mut Row, tokens: &[TokenId], num_verified: usize, overlap: &[f32]) {
        let positions = &row.draft.positions;
        let is_accepted = |it: &(&Drafted, &TokenId)| it.0.token == Some(*it.1);
        let verified = positions[..num_verified].iter().zip(tokens);
        let num_accepted = verified.take_while(is_accepted).count();
        for (n, (drafted, &token)) in
            positions.iter().zip(tokens).take(num_accepted + 1).enumerate()
        {
            self.tables.learn_mixing(row.draft.recall.shares(&drafted.basis, token));
            if n < num_verified {
                let accept_bit = f32::from(u8::from(n < num_accepted));
                let accepted = overlap.get(n).copied().unwrap_or(accept_bit);
                if !accepted.is_nan() {
                    self.tables.learn_acceptance(drafted.cell, accepted.min(1.0));
                }
            }
        }
        let mut stats = verification_stats(&positions[..num_verified], num_accepted);
        if let Some(match_length) = row.draft.lookup {
            stats.num_lookups = 1;
            stats.num_hits = u64::from(num_verified > 0);
            stats.sum_match_length = stats.num_hits * match_length as u64;
        }
        for drafted in &row.draft.positions[..num_accepted] {
            let Some(supplier) = drafted.supplier else { continue };
            if let Some(tree) = self.trees[supplier.tree as usize].as_deref_mut()
                && let Some((id, offset)) = tree.mark_used(supplier.position)
            {
                self.used.push(tree.key, id, offset);
            }
        }
        row.draft.clear();
        row.stats.add(&stats);
        self.totals.add(&stats);
    }

    /// Appends a row's tokens to its tree, if that still takes them, and to the outbox.
    fn keep(&mut self, row: &mut Row, tokens: &[TokenId], soft: &[SoftRow], is_observation: bool) {
        if tokens.is_empty() {
            return;
        }
        let (key, id, origin) = (row.prompt_key, row.sequence_id, row.origin);
        let pairs = tokens.iter().copied().zip(soft);
        self.outbox.append((key, id), row.offset, origin, is_observation, pairs.clone());
        row.is_kept &= row.tree.is_some() && self.held(key, id) == row.offset;
        if !row.is_kept {
            return;
        }
        let num_targets = soft.iter().map(|row| row.as_slice().len()).sum();
        let to = Destination { id, origin, offset: row.offset, is_observation };
        let items = pairs.map(|(token, row)| (token, *row));
        row.is_kept = self.append(key, to, items, num_targets);
    }
}

impl Step<'_> {
    /// Decoding passes that a row's news took: without a verified draft each token took its own.
    pub(crate) fn num_passes(&self, at: usize) -> u64 {
        let num_new = self.new_offsets[at + 1] - self.new_offsets[at];
        if self.num_verified[at] > 0 { 1 } else { u64::from(num_new.max(1).unsigned_abs()) }
    }

    /// Checks everything that can be said without knowing the rows.
    fn check(&self) -> Result<()> {
        let num_rows = self.rows.len();
        check_len("new_offsets", self.new_offsets.len(), num_rows + 1)?;
        check_len("num_verified", self.num_verified.len(), num_rows)?;
        check_len("max_draft_tokens", self.max_draft_tokens.len(), num_rows)?;
        check_offsets("new_offsets", self.new_offsets, self.new_tokens.len())?;
        check_token_ids("new_tokens", self.new_tokens)?;
        let within = |&&it: &&i32| !(0..=MAX_DRAFT_TOKENS).contains(&it);
        if let Some(value) = self.max_draft_tokens.iter().find(within) {
            return Err(TreeError::invalid("max_draft_tokens", value, "from 0 to 128"));
        }
        if let Some(value) = self.num_verified.iter().find(within) {
            return Err(TreeError::invalid("num_verified", value, "from 0 to 128"));
        }
        if !(0.0..=1.0).contains(&self.min_survival) {
            return Err(TreeError::invalid("min_survival", self.min_survival, "from 0 to 1"));
        }
        self.check_soft()?;
        self.check_overlap()
    }

    fn check_soft(&self) -> Result<()> {
        let num_targets = self.soft_token_ids.len();
        check_len("soft_probs", self.soft_probs.len(), num_targets)?;
        if !self.soft_offsets.is_empty() {
            check_len("soft_offsets", self.soft_offsets.len(), self.new_tokens.len() + 1)?;
            check_offsets("soft_offsets", self.soft_offsets, num_targets)?;
        } else if num_targets > 0 {
            let allowed = "one more than new_tokens, as soft_token_ids holds some";
            return Err(TreeError::invalid("soft_offsets", "empty", allowed));
        }
        check_token_ids("soft_token_ids", self.soft_token_ids)?;
        check_probabilities("soft_probs", self.soft_probs)
    }

    fn check_overlap(&self) -> Result<()> {
        if self.overlap.is_empty() {
            return Ok(());
        }
        let num_verified: i32 = self.num_verified.iter().sum();
        check_len("overlap", self.overlap.len(), num_verified as usize)?;
        self.overlap
            .iter()
            .filter(|value| !value.is_nan())
            .try_for_each(|&value| check_probabilities("overlap", &[value]))
    }

    /// The soft targets of new token `n`: the most probable ones, largest first.
    fn soft_row(&self, n: usize) -> SoftRow {
        if self.soft_offsets.is_empty() {
            return SoftRow::EMPTY;
        }
        let range = self.soft_offsets[n] as usize..self.soft_offsets[n + 1] as usize;
        let ids = &self.soft_token_ids[range.clone()];
        let pairs = ids.iter().zip(&self.soft_probs[range]);
        let mut targets: Vec<_> =
            pairs.filter(|(_, probability)| **probability >= MIN_PROBABILITY).collect();
        targets.sort_by(|a, b| b.1.total_cmp(a.1));
        SoftRow::from_targets(
            targets.into_iter().map(|(&id, &p)| SoftTarget::from_probability(id as TokenId, p)),
        )
    }
}

fn verification_stats(verified: &[Drafted], num_accepted: usize) -> RowStats {
    let mut stats = RowStats {
        num_draft_tokens: verified.len() as u64,
        num_accepted_tokens: num_accepted as u64,
        num_remote_draft_tokens: verified.iter().filter(|it| it.is_remote).count() as u64,
        ..RowStats::default()
    };
    for drafted in &verified[..num_accepted] {
        stats.accepted_by_source[drafted.source as usize] += 1;
    }
    stats
}

fn unknown_row(row: u64) -> TreeError {
    TreeError::invalid("row", row, "an open row")
}

fn prefix_sums(counts: &[i32]) -> Vec<usize> {
    let sums = counts.iter().scan(0, |sum, &count| {
        let before = *sum;
        *sum += count as usize;
        Some(before)
    });
    sums.collect()
}

fn check_len(field: &'static str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(TreeError::invalid(field, format!("of length {found}"), format!("of length {wanted}")))
}

fn check_offsets(field: &'static str, offsets: &[i32], end: usize) -> Result<()> {
    let is_whole = offsets.first() == Some(&0) && offsets.last() == Some(&(end as i32));
    if is_whole && offsets.is_sorted() {
        return Ok(());
    }
    Err(TreeError::invalid(field, "broken", format!("ascending from 0 to {end}")))
}

fn check_probabilities(field: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| !(0.0..=MAX_PROBABILITY).contains(*value)) {
        Some(value) => Err(TreeError::invalid(field, value, "from 0 to 1")),
        None => Ok(()),
    }
}
