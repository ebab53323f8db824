//! The trees of one engine, or of one tree cache replica: sequences in, readings out.
//!
//! * Extending is idempotent by (sequence, offset); updates ahead of their offset wait. Only where
//!   this forest has evicted the prompt they do not, as what they wait for will not come again: the
//!   sequence goes on without its beginning. Should that come after all, both are joined.
//! * Everything is checked before anything changes: a call that fails changed nothing.
//! * What memory cannot take is refused quietly and counted; drafting goes on.

use std::collections::HashSet;
use std::thread;

use hashbrown::HashMap as CountedMap;

use crate::early::{Early, Waiting};
use crate::error::{Result, TreeError};
use crate::estimate::Estimator;
use crate::evicted::Evicted;
use crate::heads::MAX_CHAIN_ORDER;
use crate::index::{GlobalIndex, Trees};
use crate::origin::{
    Lane, MAX_SEQUENCE_TOKENS, Origin, PromptKey, RowId, SequenceId, TOKEN_LIMIT, TokenId,
};
use crate::outbox::{Outbox, OwnedUpdate, UsedLog};
use crate::packed::Packed;
use crate::recency::Recency;
use crate::rng::mix;
use crate::row::Row;
use crate::snapshot::{FLAG_OBSERVATION, runs};
use crate::soft::SoftRow;
use crate::stats::{ForestStats, PromptStats, RowStats};
use crate::tables::Tables;
use crate::tree::{Destination, IdHasher, Tree};

/// Nodes of the index swept for each token that comes in: faster than they can become stale.
pub(crate) const SWEPT_PER_TOKEN: usize = 32;

const MAX_THREADS: usize = 64;

/// Settings of a forest.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// This engine's id, stamped on what its rows append.
    pub engine_id: u32,
    /// Bound on the bytes of trees and index.
    pub max_bytes: usize,
    /// Of the draws that make sampled drafts.
    pub seed: u64,
    /// Whether drafts follow recorded probabilities; otherwise each sampled token counts once.
    pub soft_targets: bool,
    /// Positions read per chain, 1 to 1024.
    pub max_recent_positions: usize,
    /// Threads that draft for a large batch; 0: a quarter of the cores that this process may use, at
    /// most 8. What is drafted does not depend on it.
    pub num_threads: usize,
    /// Bound on tokens that wait for the ones before them.
    pub max_early_tokens: usize,
    /// Bound on own tokens waiting to be drained, and on used positions waiting.
    pub max_outbox_tokens: usize,
}

/// Packed tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Names the tree.
    pub prompt_key: PromptKey,
    /// Names the sequence.
    pub sequence_id: SequenceId,
    /// Where in the sequence the tokens begin.
    pub offset: u64,
    /// Where the sequence was sampled.
    pub origin: Origin,
    /// Whether the environment wrote the tokens: context only, never drafted.
    pub is_observation: bool,
    /// Packed tokens.
    pub tokens: &'a [u8],
    /// Packed soft targets.
    pub soft: &'a [u8],
}

/// The trees of one engine.
#[derive(Debug)]
pub struct Forest {
    pub(crate) config: Config,
    pub(crate) keys: CountedMap<PromptKey, u32, IdHasher>,
    pub(crate) trees: Trees,
    pub(crate) free_slots: Vec<u32>,
    pub(crate) retired_slots: Vec<u32>,
    /// How many of them the sweep going on makes free.
    pub(crate) num_swept_slots: usize,
    pub(crate) recency: Recency,
    pub(crate) index: GlobalIndex,
    /// Bytes of the trees.
    pub(crate) tree_bytes: usize,
    pub(crate) early: Early,
    pub(crate) outbox: Outbox,
    pub(crate) used: UsedLog,
    pub(crate) rows: CountedMap<RowId, Box<Row>, IdHasher>,
    pub(crate) next_row: u64,
    pub(crate) num_steps: u64,
    pub(crate) tables: Tables,
    /// One for each thread that may draft.
    pub(crate) estimators: Vec<Estimator>,
    pub(crate) totals: RowStats,
    pub(crate) num_refused: u64,
    pub(crate) num_evicted: u64,
    pub(crate) evicted: Evicted,
}

impl Forest {
    /// An empty forest.
    ///
    /// # Errors
    /// When `max_recent_positions` or `num_threads` is out of range.
    pub fn new(config: Config) -> Result<Self> {
        if !(1..=1024).contains(&config.max_recent_positions) {
            let value = config.max_recent_positions;
            return Err(TreeError::invalid("max_recent_positions", value, "from 1 to 1024"));
        }
        if config.num_threads > MAX_THREADS {
            return Err(TreeError::invalid("num_threads", config.num_threads, "from 0 to 64"));
        }
        let num_threads = match config.num_threads {
            0 => thread::available_parallelism().map_or(1, |it| (it.get() / 4).clamp(1, 8)),
            given => given,
        };
        Ok(Self {
            config,
            keys: CountedMap::default(),
            trees: Vec::new(),
            free_slots: Vec::new(),
            retired_slots: Vec::new(),
            num_swept_slots: 0,
            recency: Recency::new(),
            index: GlobalIndex::new(mix(config.seed)),
            tree_bytes: 0,
            early: Early::new(config.max_early_tokens),
            outbox: Outbox::new(config.max_outbox_tokens),
            used: UsedLog::new(config.max_outbox_tokens),
            rows: CountedMap::default(),
            next_row: 1,
            num_steps: 0,
            tables: Tables::new(),
            estimators: (0..num_threads).map(|_| Estimator::new()).collect(),
            totals: RowStats::default(),
            num_refused: 0,
            num_evicted: 0,
            evicted: Evicted::default(),
        })
    }

    // -- sequences -------------------------------------------------------------------------------

    /// Gives a prompt its text: context of its responses, indexed once at low weight. Idempotent.
    ///
    /// # Errors
    /// When there is no token, or one is out of range.
    pub fn set_prompt(&mut self, key: PromptKey, tokens: &[i32]) -> Result<()> {
        let tokens = token_ids("token_ids", tokens)?;
        if tokens.is_empty() {
            return Err(TreeError::invalid("token_ids", "empty", "at least one token"));
        }
        self.give_prompt(key, &tokens);
        Ok(())
    }

    /// Appends packed tokens; those already held are skipped. Returns how many are new, those
    /// included that waited for these.
    ///
    /// # Errors
    /// When a packed form is malformed or the sequence would become too long.
    pub fn extend(&mut self, update: &Update<'_>) -> Result<usize> {
        self.extend_from(update, self.evicted.contains(update.prompt_key))
    }

    /// `extend`; with `goes_on_alone` a sequence that lacks what comes before goes on without it.
    pub(crate) fn extend_from(
        &mut self,
        update: &Update<'_>,
        goes_on_alone: bool,
    ) -> Result<usize> {
        let packed = Packed::parse(update.tokens, update.soft)?;
        let end = update.offset.saturating_add(packed.len() as u64);
        if end > u64::from(MAX_SEQUENCE_TOKENS) {
            return Err(TreeError::invalid("offset", update.offset, "below 2^28 with all tokens"));
        }
        if packed.is_empty() {
            return Ok(0);
        }
        let (key, id, offset) = (update.prompt_key, update.sequence_id, update.offset as usize);
        if offset > self.held(key, id) && goes_on_alone {
            self.change(key, |tree, index| tree.remove(id, index));
        } else if offset > self.held(key, id) {
            let waiting = Waiting {
                offset,
                origin: update.origin,
                is_observation: update.is_observation,
                num_tokens: packed.len(),
                tokens: update.tokens.into(),
                soft: update.soft.into(),
            };
            self.early.insert(key, id, waiting);
            return Ok(0);
        }
        self.make_way(key, id, offset);
        let (origin, is_observation) = (update.origin, update.is_observation);
        let to = Destination { id, origin, offset, is_observation };
        let mut num_new = self.extend_by(key, to, &packed);
        while let Some(waiting) = self.early.take_ready(key, id, self.held(key, id)) {
            let packed = Packed::parse(&waiting.tokens, &waiting.soft)?;
            let (origin, is_observation) = (waiting.origin, waiting.is_observation);
            let to = Destination { id, origin, offset: waiting.offset, is_observation };
            num_new += self.extend_by(key, to, &packed);
        }
        self.sweep(num_new * SWEPT_PER_TOKEN);
        Ok(num_new)
    }

    /// Lets a sequence that went on without its beginning wait for it, as it comes after all.
    fn make_way(&mut self, key: PromptKey, id: SequenceId, offset: usize) {
        let Some(tree) = self.tree(key) else { return };
        let Some(sequence) = tree.sequence(id).filter(|it| offset < it.start) else { return };
        let (mut at, origin) = (sequence.start, sequence.origin);
        let runs = runs(tree, sequence);
        self.change(key, |tree, index| tree.remove(id, index));
        for (flags, run) in runs {
            let Some(origin) = origin else { return };
            let waiting = Waiting {
                offset: at,
                origin,
                is_observation: flags == FLAG_OBSERVATION,
                num_tokens: run.len(),
                tokens: run.tokens.into(),
                soft: run.soft.into(),
            };
            at += waiting.num_tokens;
            self.early.insert(key, id, waiting);
        }
    }

    /// Extends by what a sequence does not hold yet; the offset is within what it holds, or it
    /// starts there.
    fn extend_by(&mut self, key: PromptKey, to: Destination, packed: &Packed<'_>) -> usize {
        let skip = self.held(key, to.id).saturating_sub(to.offset);
        let num_new = packed.len().saturating_sub(skip);
        if num_new == 0 || !self.append(key, to, packed.iter().skip(skip), packed.num_targets()) {
            return 0;
        }
        num_new
    }

    /// Appends to a sequence of a tree if memory allows.
    pub(crate) fn append(
        &mut self,
        key: PromptKey,
        to: Destination,
        items: impl Iterator<Item = (TokenId, SoftRow)>,
        num_targets: usize,
    ) -> bool {
        let items: Vec<_> = items.collect();
        let slot = self.plant(key);
        let Some(slot) = slot.filter(|&slot| self.reserve(slot, items.len(), num_targets)) else {
            self.num_refused += items.len() as u64;
            return false;
        };
        self.change_tree(slot, |tree, index| tree.append(to, items.into_iter(), index));
        self.recency.touch(slot);
        true
    }

    pub(crate) fn give_prompt(&mut self, key: PromptKey, tokens: &[TokenId]) {
        let Some(slot) = self.plant(key) else { return };
        let Some(tree) = self.trees[slot as usize].as_deref() else { return };
        let num_positions = tokens.len() + MAX_CHAIN_ORDER * tree.num_sequences();
        if tree.prompt().is_none() && self.reserve(slot, num_positions, 0) {
            self.change_tree(slot, |tree, index| tree.set_prompt(tokens, index));
        }
    }

    /// Notes that positions supplied an accepted draft token; returns how many were not known to
    /// have. What is not held is passed over.
    ///
    /// # Errors
    /// When an offset is negative.
    pub fn mark_used(&mut self, key: PromptKey, id: SequenceId, offsets: &[i32]) -> Result<usize> {
        if let Some(offset) = offsets.iter().find(|&&offset| offset < 0) {
            return Err(TreeError::invalid("offsets", offset, "not negative"));
        }
        let Some(tree) = self.tree_mut(key) else { return Ok(0) };
        let mut num_new = 0;
        for &offset in offsets {
            let position = tree.position(id, offset as usize);
            num_new += usize::from(position.is_some_and(|it| tree.mark_used(it).is_some()));
        }
        Ok(num_new)
    }

    /// Drops sequences of a prompt, least useful first, until at most `max_rollouts` are left, or
    /// only such as are decoding here; returns how many went.
    pub fn retain_rollouts(&mut self, key: PromptKey, max_rollouts: usize) -> usize {
        let Some(tree) = self.tree(key) else { return 0 };
        let decoding: HashSet<_> = self
            .rows
            .values()
            .filter(|row| row.prompt_key == key)
            .map(|row| row.sequence_id)
            .collect();
        let going = tree.least_useful(max_rollouts, |id| decoding.contains(&id));
        for &id in &going {
            self.change(key, |tree, index| tree.remove(id, index));
        }
        self.settle();
        going.len()
    }

    /// Changes the tree of a prompt, if there is one.
    fn change<T>(
        &mut self,
        key: PromptKey,
        change: impl FnOnce(&mut Tree, &mut GlobalIndex) -> T,
    ) -> Option<T> {
        let slot = *self.keys.get(&key)?;
        self.change_tree(slot, change)
    }

    /// Drops a sequence; returns whether it was held. What waits for it is dropped too.
    pub fn remove_sequence(&mut self, key: PromptKey, id: SequenceId) -> bool {
        self.early.remove_sequence(key, id);
        let removed = self.change(key, |tree, index| tree.remove(id, index)).flatten();
        self.settle();
        removed.is_some()
    }

    /// Drops every sequence of a policy version; returns tokens dropped.
    pub fn remove_policy_version(&mut self, policy_version: u32) -> usize {
        self.early.remove_where(|_, origin| origin.policy_version == policy_version);
        let slots: Vec<_> = self.keys.values().copied().collect();
        let mut num_tokens = 0;
        for slot in slots {
            let removed = self
                .change_tree(slot, |tree, index| tree.remove_policy_version(policy_version, index));
            num_tokens += removed.unwrap_or(0);
        }
        self.settle();
        num_tokens
    }

    /// Drops a whole tree, and what waits for it. Its open rows go on undrafted.
    pub fn remove_prompt(&mut self, key: PromptKey) -> bool {
        self.early.remove_where(|its, _| its == key);
        let Some(&slot) = self.keys.get(&key) else { return false };
        for row in self.rows.values_mut().filter(|row| row.tree == Some(slot)) {
            row.tree = None;
            row.is_kept = false;
        }
        self.fell(slot);
        self.settle();
        true
    }

    // -- what leaves -----------------------------------------------------------------------------

    /// Takes what rows appended since the last call, oldest first, until `max_tokens` tokens.
    pub fn drain(&mut self, max_tokens: usize) -> Vec<OwnedUpdate> {
        self.outbox.drain(max_tokens)
    }

    /// Takes (prompt, sequence, ascending offsets) of positions that supplied accepted tokens here
    /// since the last call.
    pub fn drain_used(&mut self) -> Vec<(PromptKey, SequenceId, Vec<u32>)> {
        self.used.drain()
    }

    // -- reading ---------------------------------------------------------------------------------

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A consistent reading.
    #[must_use]
    pub fn stats(&self) -> ForestStats {
        let mut stats = ForestStats {
            num_prompts: self.keys.len(),
            memory_bytes: self.memory_bytes(),
            max_bytes: self.config.max_bytes,
            num_early_tokens: self.early.num_tokens(),
            num_dropped_tokens: self.early.num_dropped(),
            num_refused_tokens: self.num_refused,
            num_evicted_prompts: self.num_evicted,
            num_outbox_tokens: self.outbox.num_tokens(),
            num_dropped_outbox_tokens: self.outbox.num_dropped(),
            rows: self.totals,
            ..ForestStats::default()
        };
        for tree in self.trees.iter().flatten() {
            stats.num_sequences += tree.num_sequences();
            stats.num_tokens += tree.num_tokens;
            stats.num_run_ahead_tokens += tree.num_run_ahead_tokens;
            stats.num_run_ahead_tokens_used += tree.num_run_ahead_tokens_used;
        }
        stats
    }

    /// Prompts held, least recently used first.
    pub fn prompt_keys(&self) -> impl Iterator<Item = PromptKey> {
        self.recency.iter().filter_map(|slot| Some(self.trees[slot as usize].as_deref()?.key))
    }

    /// Whether a prompt has a tree.
    #[must_use]
    pub fn has_prompt(&self, key: PromptKey) -> bool {
        self.keys.contains_key(&key)
    }

    /// Whether the bound on memory has cost a prompt its tree, as far as is remembered: what is held
    /// of it now may lack what came before.
    #[must_use]
    pub fn has_evicted(&self, key: PromptKey) -> bool {
        self.evicted.contains(key)
    }

    /// A reading of one tree.
    #[must_use]
    pub fn prompt_stats(&self, key: PromptKey) -> Option<PromptStats> {
        self.tree(key).map(Tree::stats)
    }

    /// Tokens held of a sequence.
    #[must_use]
    pub fn sequence_tokens(&self, key: PromptKey, id: SequenceId) -> Option<Vec<TokenId>> {
        let tree = self.tree(key)?;
        tree.sequence(id).map(|sequence| tree.tokens_of(sequence))
    }

    pub(crate) fn tree(&self, key: PromptKey) -> Option<&Tree> {
        self.trees[*self.keys.get(&key)? as usize].as_deref()
    }

    pub(crate) fn tree_mut(&mut self, key: PromptKey) -> Option<&mut Tree> {
        self.trees[*self.keys.get(&key)? as usize].as_deref_mut()
    }

    /// Offset of the next token of a sequence.
    pub(crate) fn held(&self, key: PromptKey, id: SequenceId) -> usize {
        self.tree(key).map_or(0, |tree| tree.sequence_end(id))
    }
}

/// Checks token ids as they come from arrays.
pub(crate) fn token_ids(field: &'static str, tokens: &[i32]) -> Result<Vec<TokenId>> {
    check_token_ids(field, tokens)?;
    Ok(tokens.iter().map(|&token| token as TokenId).collect())
}

pub(crate) fn check_token_ids(field: &'static str, tokens: &[i32]) -> Result<()> {
    match tokens.iter().find(|&&token| token as u32 >= TOKEN_LIMIT) {
        Some(token) => Err(TreeError::invalid(field, token, "token ids from 0 to 2^24 - 1")),
        None => Ok(()),
    }
}

impl Update<'_> {
    /// Where the sequence was sampled, from its parts.
    ///
    /// # Errors
    /// When the lane is unknown.
    pub fn origin(policy_version: u32, lane: u8, engine_id: u32) -> Result<Origin> {
        Ok(Origin { policy_version, lane: Lane::try_from(lane)?, engine_id })
    }
}
