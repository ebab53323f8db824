//! The tree of one prompt: every sequence sampled for it, and the chains that find contexts there.
//!
//! * Sequences lie in blocks of an arena; dropping the tree drops it whole.
//! * The prompt is a sequence of low weight that every other one continues: comparing backwards
//!   from a response crosses into it.
//! * A position that was sampled is in the chain of order k exactly once if k tokens stand before
//!   it. An observation is in none: context, never a continuation.
//! * A sequence whose beginning was evicted goes on without it: it begins at an offset above 0 and
//!   continues nothing.
//! * Removed blocks stay, dead, until a quarter of the tree is: removal costs what goes.

use hashbrown::HashMap;

use crate::arena::{Arena, join, split};
use crate::block::{BLOCK_TOKENS, Block};
use crate::heads::{
    ContextHashes, Heads, MAX_CHAIN_ORDER, NONE, NUM_CHAINS, table_growth_bytes, touch, vec_bytes,
    vec_growth_bytes,
};
use crate::index::GlobalIndex;
use crate::origin::{Lane, Origin, PromptKey, SequenceId, TokenId};
use crate::soft::SoftRow;
use crate::stats::PromptStats;

/// What an observation of prompt text counts, a sampled token being 1.
const PROMPT_WEIGHT: f32 = 0.3;

/// Deterministic hashing of ids, which are digests or random already.
pub(crate) type IdHasher = foldhash::fast::FixedState;

/// One sequence of a tree.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// None for the prompt.
    pub(crate) origin: Option<Origin>,
    /// Block numbers in order; all but the last are full.
    pub(crate) blocks: Vec<u32>,
    /// Offset of the first token held; 0 unless what came before was evicted.
    pub(crate) start: usize,
    /// Tokens held.
    pub(crate) len: usize,
    /// Nodes of the global index that refer to it.
    pub(crate) num_nodes: usize,
    /// Its row ended here, with every token kept: another may go on with it.
    is_ended: bool,
}

impl Sequence {
    /// Offset of the next token.
    pub(crate) fn end(&self) -> usize {
        self.start + self.len
    }

    fn is_run_ahead(&self) -> bool {
        self.origin.is_some_and(|origin| origin.lane == Lane::RunAhead)
    }
}

/// Where tokens go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    pub(crate) id: SequenceId,
    /// Used when the sequence starts.
    pub(crate) origin: Origin,
    /// Offset of the tokens; the sequence's own where it starts with them.
    pub(crate) offset: usize,
    pub(crate) is_observation: bool,
}

/// The tree of one prompt.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) key: PromptKey,
    /// Slot of this tree in its forest, as the global index names it.
    pub(crate) slot: u32,
    /// Rows decoding here; they keep the tree from being evicted.
    pub(crate) num_open_rows: usize,
    pub(crate) arena: Arena,
    pub(crate) heads: [Heads; NUM_CHAINS],
    sequences: Vec<Option<Sequence>>,
    free_sequences: Vec<u32>,
    ids: HashMap<SequenceId, u32, IdHasher>,
    prompt: Option<u32>,
    /// Bytes of the sequences' block lists.
    list_bytes: usize,
    pub(crate) num_tokens: usize,
    pub(crate) num_run_ahead_tokens: usize,
    pub(crate) num_run_ahead_tokens_used: usize,
}

impl Tree {
    pub(crate) fn new(key: PromptKey, slot: u32) -> Self {
        Self {
            key,
            slot,
            num_open_rows: 0,
            arena: Arena::default(),
            heads: Default::default(),
            sequences: Vec::new(),
            free_sequences: Vec::new(),
            ids: HashMap::default(),
            prompt: None,
            list_bytes: 0,
            num_tokens: 0,
            num_run_ahead_tokens: 0,
            num_run_ahead_tokens_used: 0,
        }
    }

    // -- reading ---------------------------------------------------------------------------------

    pub(crate) fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.at(*self.ids.get(&id)?)
    }

    /// The sequence of a slot, as blocks name it.
    pub(crate) fn at(&self, slot: u32) -> Option<&Sequence> {
        self.sequences.get(slot as usize)?.as_ref()
    }

    pub(crate) fn prompt(&self) -> Option<&Sequence> {
        self.prompt.and_then(|slot| self.at(slot))
    }

    /// Offset of the next token of a sequence.
    pub(crate) fn sequence_end(&self, id: SequenceId) -> usize {
        self.sequence(id).map_or(0, Sequence::end)
    }

    pub(crate) fn num_sequences(&self) -> usize {
        self.ids.len()
    }

    /// The sequences without the prompt, by id.
    pub(crate) fn sorted_sequences(&self) -> Vec<&Sequence> {
        let mut sequences: Vec<_> = self.sampled().collect();
        sequences.sort_unstable_by_key(|sequence| sequence.id);
        sequences
    }

    fn sampled(&self) -> impl Iterator<Item = &Sequence> {
        self.sequences.iter().flatten().filter(|sequence| sequence.origin.is_some())
    }

    /// The blocks of a sequence, in order.
    pub(crate) fn blocks_of(&self, sequence: &Sequence) -> impl Iterator<Item = &Block> {
        sequence.blocks.iter().filter_map(|&number| self.arena.live(number))
    }

    /// The tokens of a sequence, in order.
    pub(crate) fn tokens_of(&self, sequence: &Sequence) -> Vec<TokenId> {
        let mut tokens = Vec::with_capacity(sequence.len);
        for block in self.blocks_of(sequence) {
            tokens.extend_from_slice(&block.tokens[..block.len()]);
        }
        tokens
    }

    pub(crate) fn stats(&self) -> PromptStats {
        let origins = || self.sampled().filter_map(|sequence| sequence.origin);
        PromptStats {
            num_sequences: self.ids.len(),
            num_tokens: self.num_tokens,
            num_run_ahead_tokens: self.num_run_ahead_tokens,
            num_run_ahead_tokens_used: self.num_run_ahead_tokens_used,
            num_run_ahead_sequences: self.sampled().filter(|it| it.is_run_ahead()).count(),
            min_policy_version: origins().map(|it| it.policy_version).min().unwrap_or(0),
            max_policy_version: origins().map(|it| it.policy_version).max().unwrap_or(0),
            memory_bytes: self.memory_bytes(),
        }
    }

    // -- growing ---------------------------------------------------------------------------------

    /// Appends to a sequence, starting it where it is new. O(1) per token.
    pub(crate) fn append(
        &mut self,
        to: Destination,
        items: impl Iterator<Item = (TokenId, SoftRow)>,
        index: &mut GlobalIndex,
    ) -> usize {
        let known = self.ids.get(&to.id).copied();
        let slot = known.unwrap_or_else(|| self.start(to.id, Some(to.origin), to.offset));
        let last = self.last_block_before(slot);
        let mut text = self.arena.text_before(last, BLOCK_TOKENS, MAX_CHAIN_ORDER);
        let num_before = text.len();
        // A position is linked while what the next one needs is on its way from memory.
        let mut waiting = None;
        for (token, row) in items {
            let position = self.push(slot, token, &row, to.is_observation);
            if !to.is_observation {
                let hashes = index.hashes(&text);
                touch(&self.heads, &hashes);
                index.touch(&hashes);
                if let Some((position, hashes)) = waiting.replace((position, hashes)) {
                    self.link_everywhere(slot, position, &hashes, 0, index);
                }
            }
            text.push(token);
        }
        if let Some((position, hashes)) = waiting {
            self.link_everywhere(slot, position, &hashes, 0, index);
        }
        let num_new = text.len() - num_before;
        self.num_tokens += num_new;
        if self.at(slot).is_some_and(Sequence::is_run_ahead) {
            self.num_run_ahead_tokens += num_new;
        }
        num_new
    }

    /// Gives the tree its prompt, once: later calls change nothing. Positions whose context reaches
    /// into it become part of the longer chains.
    pub(crate) fn set_prompt(&mut self, tokens: &[TokenId], index: &mut GlobalIndex) {
        if self.prompt.is_some() || tokens.is_empty() {
            return;
        }
        let prompt = self.start(SequenceId(u64::MAX), None, 0);
        self.prompt = Some(prompt);
        for (offset, &token) in tokens.iter().enumerate() {
            let position = self.push(prompt, token, &SoftRow::EMPTY, false);
            let hashes = index.hashes(&tokens[offset.saturating_sub(MAX_CHAIN_ORDER)..offset]);
            self.link(position, &hashes, 0);
        }
        let mut waiting: Vec<_> = self.ids.iter().map(|(&id, &slot)| (id, slot)).collect();
        waiting.sort_unstable();
        for (_, slot) in waiting {
            self.continue_prompt(slot, index);
        }
    }

    /// Makes a sequence continue the prompt, which came after it.
    fn continue_prompt(&mut self, slot: u32, index: &mut GlobalIndex) {
        let previous = self.last_block_of_prompt();
        let Some(sequence) = self.at(slot).filter(|it| it.start == 0) else { return };
        let (first, num_short) = (sequence.blocks[0], sequence.len.min(MAX_CHAIN_ORDER));
        if let Some(block) = self.arena.get_mut(first) {
            block.previous = previous;
        }
        for offset in 0..num_short {
            if self.arena.live(first).is_some_and(|block| !block.is_observation(offset)) {
                let text = self.arena.text_before(first, offset, MAX_CHAIN_ORDER);
                let (position, hashes) = (join(first, offset), index.hashes(&text));
                self.link_everywhere(slot, position, &hashes, offset, index);
            }
        }
    }

    /// Links a position here and in the global index.
    fn link_everywhere(
        &mut self,
        slot: u32,
        position: u32,
        hashes: &ContextHashes,
        above: usize,
        index: &mut GlobalIndex,
    ) {
        self.link(position, hashes, above);
        let num_nodes = index.push(self.slot, position, hashes, above);
        if let Some(sequence) = &mut self.sequences[slot as usize] {
            sequence.num_nodes += num_nodes;
        }
    }

    /// Puts a position at the head of the chains of orders above `above` that its context reaches.
    fn link(&mut self, position: u32, hashes: &ContextHashes, above: usize) {
        for (chain, fragment) in hashes.chains(above) {
            let previous = self.heads[chain].replace(fragment, position);
            let previous = self.arena.first_live(chain, previous);
            self.arena.set_next(chain, position, previous);
        }
    }

    fn start(&mut self, id: SequenceId, origin: Option<Origin>, start: usize) -> u32 {
        let (blocks, is_ended) = (Vec::new(), false);
        let it = Sequence { id, origin, blocks, start, len: 0, num_nodes: 0, is_ended };
        let slot = if let Some(slot) = self.free_sequences.pop() {
            self.sequences[slot as usize] = Some(it);
            slot
        } else {
            self.sequences.push(Some(it));
            self.sequences.len() as u32 - 1
        };
        if origin.is_some() {
            self.ids.insert(id, slot);
        }
        slot
    }

    /// Adds a position at the end of a sequence; returns its number.
    fn push(&mut self, slot: u32, token: TokenId, row: &SoftRow, is_observation: bool) -> u32 {
        let number = self.writable_block(slot);
        if let Some(sequence) = &mut self.sequences[slot as usize] {
            sequence.len += 1;
        }
        self.arena.push(number, |block| block.push(token, row, is_observation))
    }

    /// The last block of a sequence if it has room, else a new one.
    fn writable_block(&mut self, slot: u32) -> u32 {
        let known = self.at(slot).map(|sequence| sequence.blocks.as_slice()).unwrap_or_default();
        let (last, ordinal) = (known.last().copied(), known.len());
        if let Some(number) = last
            && self.arena.live(number).is_some_and(|block| block.len() < BLOCK_TOKENS)
        {
            return number;
        }
        let weight = if self.prompt == Some(slot) { PROMPT_WEIGHT } else { 1.0 };
        let previous = self.last_block_before(slot);
        let number = self.arena.add(Block::new(slot, ordinal, previous, weight));
        if let Some(sequence) = &mut self.sequences[slot as usize] {
            self.list_bytes -= vec_bytes(&sequence.blocks);
            sequence.blocks.push(number);
            self.list_bytes += vec_bytes(&sequence.blocks);
        }
        number
    }

    /// The block that the next token of a sequence comes after.
    fn last_block_before(&self, slot: u32) -> u32 {
        let Some(sequence) = self.at(slot) else { return NONE };
        let first = if sequence.start == 0 { self.last_block_of_prompt() } else { NONE };
        sequence.blocks.last().copied().unwrap_or(first)
    }

    fn last_block_of_prompt(&self) -> u32 {
        self.prompt().and_then(|prompt| prompt.blocks.last().copied()).unwrap_or(NONE)
    }

    // -- turns -----------------------------------------------------------------------------------

    /// Notes that the row of a sequence ended with every token kept.
    pub(crate) fn end(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequence_mut(id) {
            sequence.is_ended = true;
        }
    }

    /// Takes an ended sequence of this origin up again if `context` begins with all of it.
    pub(crate) fn reopen(&mut self, id: SequenceId, origin: Origin, context: &[TokenId]) -> bool {
        let Some(sequence) = self.sequence(id) else { return false };
        if !sequence.is_ended || sequence.origin != Some(origin) || sequence.end() > context.len() {
            return false;
        }
        let parts = context[sequence.start..sequence.end()].chunks(BLOCK_TOKENS);
        let is_same = |(block, part): (&Block, &[TokenId])| block.tokens[..block.len()] == *part;
        if !self.blocks_of(sequence).zip(parts).all(is_same) {
            return false;
        }
        self.sequence_mut(id).is_some_and(|sequence| std::mem::take(&mut sequence.is_ended))
    }

    fn sequence_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.sequences[*self.ids.get(&id)? as usize].as_mut()
    }

    // -- use -------------------------------------------------------------------------------------

    /// The position of an offset of a sequence.
    pub(crate) fn position(&self, id: SequenceId, offset: usize) -> Option<u32> {
        let sequence = self.sequence(id)?;
        let at = offset.checked_sub(sequence.start)?;
        let number = *sequence.blocks.get(at / BLOCK_TOKENS)?;
        (at < sequence.len).then(|| join(number, at % BLOCK_TOKENS))
    }

    /// The position after one of a live block, if it was sampled.
    pub(crate) fn sampled_after(&self, position: u32) -> Option<u32> {
        let (number, index) = split(position);
        let mut block = self.arena.get(number)?;
        let mut next = position + 1;
        if index + 1 == BLOCK_TOKENS {
            let blocks = &self.at(block.sequence)?.blocks;
            let number = *blocks.get(block.ordinal as usize + 1)?;
            (block, next) = (self.arena.get(number)?, join(number, 0));
        }
        let (_, index) = split(next);
        (index < block.len() && !block.is_observation(index)).then_some(next)
    }

    /// Notes that a position supplied an accepted draft token. Returns its sequence and offset
    /// when that is new and the position was sampled.
    pub(crate) fn mark_used(&mut self, position: u32) -> Option<(SequenceId, usize)> {
        let (number, index) = split(position);
        let block = self.arena.get_mut(number).filter(|block| block.is_live())?;
        let sequence = self.sequences[block.sequence as usize].as_ref()?;
        if sequence.origin.is_none() || !block.mark_used(index) {
            return None;
        }
        if sequence.is_run_ahead() {
            self.num_run_ahead_tokens_used += 1;
        }
        let at = block.ordinal as usize * BLOCK_TOKENS + index;
        Some((sequence.id, sequence.start + at))
    }

    // -- shrinking -------------------------------------------------------------------------------

    /// Drops a sequence; returns its tokens, or none when it is not held.
    pub(crate) fn remove(&mut self, id: SequenceId, index: &mut GlobalIndex) -> Option<usize> {
        let slot = self.ids.remove(&id)?;
        let sequence = self.sequences[slot as usize].take()?;
        self.free_sequences.push(slot);
        self.list_bytes -= vec_bytes(&sequence.blocks);
        let num_used: usize = sequence.blocks.iter().map(|&it| self.arena.kill(it)).sum();
        if sequence.is_run_ahead() {
            self.num_run_ahead_tokens -= sequence.len;
            self.num_run_ahead_tokens_used -= num_used;
        }
        self.num_tokens -= sequence.len;
        index.forget(sequence.num_nodes);
        if self.arena.num_dead() * 4 > self.arena.num_live() {
            self.purge();
        }
        Some(sequence.len)
    }

    /// Drops every sequence of a policy version; returns their tokens.
    pub(crate) fn remove_policy_version(
        &mut self,
        policy_version: u32,
        index: &mut GlobalIndex,
    ) -> usize {
        let is_meant = |origin: Origin| origin.policy_version == policy_version;
        let meant = self.sampled().filter(|it| it.origin.is_some_and(is_meant));
        let ids: Vec<_> = meant.map(|sequence| sequence.id).collect();
        ids.into_iter().filter_map(|id| self.remove(id, index)).sum()
    }

    /// The sequences to drop so that `max_sequences` stay: least used first, of those the ones of
    /// the oldest policy version. Never what is decoding, nor, while others can go, what the newest
    /// policy version sampled: it had no time to be of use.
    pub(crate) fn least_useful(
        &self,
        max_sequences: usize,
        is_decoding: impl Fn(SequenceId) -> bool,
    ) -> Vec<SequenceId> {
        let version = |it: &Sequence| it.origin.map_or(0, |origin| origin.policy_version);
        let newest = self.sampled().map(version).max().unwrap_or(0);
        let num_used = |it: &Sequence| self.blocks_of(it).map(Block::num_used).sum::<usize>();
        let rank = |it: &Sequence| (version(it) == newest, num_used(it), version(it), it.id);
        let mut ranks: Vec<_> = self.sampled().map(rank).collect();
        ranks.sort_unstable();
        let excess = ranks.len().saturating_sub(max_sequences);
        let ids = ranks.into_iter().map(|(_, _, _, id)| id);
        ids.filter(|&id| !is_decoding(id)).take(excess).collect()
    }

    /// Takes dead positions out of every chain and frees their blocks. O(size of the tree).
    fn purge(&mut self) {
        for (chain, heads) in self.heads.iter_mut().enumerate() {
            heads.renew(|newest| self.arena.relink(chain, newest));
        }
        self.arena.purge();
    }

    /// Nodes of the global index that refer to live positions here.
    pub(crate) fn num_nodes(&self) -> usize {
        self.sampled().map(|sequence| sequence.num_nodes).sum()
    }

    // -- memory ----------------------------------------------------------------------------------

    /// Bytes held, capacities not lengths.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.arena.memory_bytes() + self.list_bytes + self.table_bytes()
    }

    fn table_bytes(&self) -> usize {
        size_of::<Self>()
            + vec_bytes(&self.sequences)
            + vec_bytes(&self.free_sequences)
            + self.ids.allocation_size()
            + self.heads.iter().map(Heads::memory_bytes).sum::<usize>()
    }

    /// `memory_bytes` counted anew.
    pub(crate) fn recount_bytes(&self) -> usize {
        let lists: usize = self.sequences.iter().flatten().map(|it| vec_bytes(&it.blocks)).sum();
        self.arena.recount_bytes() + lists + self.table_bytes()
    }

    /// Bytes that appending to one sequence, or setting the prompt, may add at most.
    pub(crate) fn growth_bytes(&self, num_tokens: usize, num_targets: usize) -> usize {
        let lists = (num_tokens / BLOCK_TOKENS + 1).max(4) * 2 * size_of::<u32>();
        let heads: usize = self.heads.iter().map(|heads| heads.growth_bytes(num_tokens)).sum();
        let ids = table_growth_bytes::<(SequenceId, u32)>(
            self.ids.len(),
            self.ids.capacity(),
            self.ids.allocation_size(),
            1,
        );
        self.arena.growth_bytes(num_tokens, num_targets)
            + vec_growth_bytes(&self.sequences, 1)
            + lists
            + heads
            + ids
    }
}
