//! A run of up to 32 consecutive positions of one sequence: the unit in which a tree hands out
//! numbers.

use crate::heads::{NONE, NUM_CHAINS};
use crate::origin::TokenId;
use crate::soft::{SoftRow, SoftTarget};

/// Positions of a block. Block number and index within it make a position's number.
pub(crate) const BLOCK_TOKENS: usize = 32;

/// Soft targets are allocated in steps of this many.
const TARGET_STEP: usize = 16;

/// What a block is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// Removed; kept until no chain runs through it.
    Dead,
    /// Nothing: its place waits for another block.
    Free,
}

/// Consecutive positions of one sequence. All blocks of a sequence but its last are full.
///
/// Laid out so that what drafting reads of a position lies in few cache lines: what is said of the
/// whole block in the first, then tokens, then links.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Block {
    targets: Vec<SoftTarget>,
    /// Slot of the sequence in its tree.
    pub(crate) sequence: u32,
    /// Which block of the sequence this is, from 0.
    pub(crate) ordinal: u32,
    /// Block before this one: of the same sequence, or the prompt's last; `NONE` without one.
    pub(crate) previous: u32,
    /// What an observation of one of these positions counts.
    pub(crate) weight: f32,
    /// Bit i: the environment wrote position i.
    observations: u32,
    /// Bit i: position i supplied an accepted draft token.
    used: u32,
    len: u8,
    pub(crate) state: State,
    /// Lets tokens begin a cache line.
    _padding: u64,
    pub(crate) tokens: [TokenId; BLOCK_TOKENS],
    /// Per chain the position before this one with the same context; `NONE` at the end.
    pub(crate) links: [[u32; NUM_CHAINS]; BLOCK_TOKENS],
    /// Where the soft targets of each position end in `targets`.
    row_ends: [u16; BLOCK_TOKENS],
}

const _: () = assert!(std::mem::offset_of!(Block, tokens) == 64);

impl Block {
    pub(crate) fn new(sequence: u32, ordinal: usize, previous: u32, weight: f32) -> Self {
        Self {
            tokens: [0; BLOCK_TOKENS],
            links: [[NONE; NUM_CHAINS]; BLOCK_TOKENS],
            row_ends: [0; BLOCK_TOKENS],
            targets: Vec::new(),
            sequence,
            ordinal: ordinal as u32,
            previous,
            weight,
            len: 0,
            observations: 0,
            used: 0,
            state: State::Live,
            _padding: 0,
        }
    }

    /// What a purged block leaves in its place.
    pub(crate) fn free() -> Self {
        Self { state: State::Free, ..Self::new(0, 0, NONE, 0.0) }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Adds a position; returns its index. The block is not full.
    pub(crate) fn push(&mut self, token: TokenId, row: &SoftRow, is_observation: bool) -> usize {
        let index = self.len();
        self.tokens[index] = token;
        let targets = row.as_slice();
        if self.targets.len() + targets.len() > self.targets.capacity() {
            self.targets.reserve_exact(TARGET_STEP);
        }
        self.targets.extend_from_slice(targets);
        self.row_ends[index] = self.targets.len() as u16;
        self.observations |= u32::from(is_observation) << index;
        self.len += 1;
        if self.len() == BLOCK_TOKENS {
            self.targets.shrink_to_fit();
        }
        index
    }

    /// The soft targets of a position; empty where it has none.
    pub(crate) fn soft_row(&self, index: usize) -> &[SoftTarget] {
        if self.targets.is_empty() {
            return &[]; // without a look at another cache line
        }
        let start = if index == 0 { 0 } else { self.row_ends[index - 1] };
        &self.targets[usize::from(start)..usize::from(self.row_ends[index])]
    }

    pub(crate) fn is_observation(&self, index: usize) -> bool {
        self.observations >> index & 1 == 1
    }

    /// Marks a position used; returns whether it was not.
    pub(crate) fn mark_used(&mut self, index: usize) -> bool {
        let is_new = self.used >> index & 1 == 0;
        self.used |= 1 << index;
        is_new
    }

    pub(crate) fn num_used(&self) -> usize {
        self.used.count_ones() as usize
    }

    /// Bytes of its soft targets, which lie elsewhere.
    pub(crate) fn target_bytes(&self) -> usize {
        self.targets.capacity() * size_of::<SoftTarget>()
    }

    /// Bytes that `num_targets` soft targets may add at most, in `num_blocks` blocks and the one
    /// before them.
    pub(crate) fn target_growth_bytes(num_targets: usize, num_blocks: usize) -> usize {
        (num_targets + (num_blocks + 1) * TARGET_STEP) * size_of::<SoftTarget>()
    }
}
