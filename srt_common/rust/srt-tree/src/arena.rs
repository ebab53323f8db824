//! The blocks of one tree, and the walks over them: backwards through text, along chains.
//!
//! * A position's number is its block's number times 32 plus its index in the block.
//! * Blocks lie in pages, which go with the tree: dropping it frees few pieces of memory. What a
//!   purge frees waits there for the tree's next blocks.
//! * Dead blocks stay until `purge`; the numbers of purged ones are reused only after
//!   `reuse_retired`, when a sweep that began later has made the global index forget them.

use crate::block::{BLOCK_TOKENS, Block, State};
use crate::heads::{NONE, vec_bytes};
use crate::origin::TokenId;
use crate::paged::Paged;

/// Blocks of a page: 5 KiB, 256 tokens.
const PAGE: usize = 8;

/// The blocks of one tree.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    blocks: Paged<Block, PAGE>,
    free: Vec<u32>,
    retired: Vec<u32>,
    /// How many of them a sweep of the index makes free.
    num_swept: usize,
    num_live: usize,
    num_dead: usize,
    /// Bytes of the blocks' soft targets.
    target_bytes: usize,
}

impl Arena {
    /// A block that no purge has freed, dead or alive.
    pub(crate) fn get(&self, number: u32) -> Option<&Block> {
        self.blocks.get(number as usize).filter(|block| block.state != State::Free)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Block> {
        self.blocks.get_mut(number as usize).filter(|block| block.state != State::Free)
    }

    pub(crate) fn live(&self, number: u32) -> Option<&Block> {
        self.blocks.get(number as usize).filter(|block| block.is_live())
    }

    /// Takes a block in that has no position yet; returns its number.
    pub(crate) fn add(&mut self, block: Block) -> u32 {
        if let Some(number) = self.free.pop() {
            if let Some(place) = self.blocks.get_mut(number as usize) {
                *place = block;
            }
            return number;
        }
        self.blocks.push(block);
        self.blocks.len() as u32 - 1
    }

    /// Changes a block by adding a position to it.
    pub(crate) fn push(&mut self, number: u32, add: impl FnOnce(&mut Block) -> usize) -> u32 {
        let Some(block) = self.blocks.get_mut(number as usize) else { return NONE };
        let before = block.target_bytes();
        let index = add(block);
        self.target_bytes = self.target_bytes + block.target_bytes() - before;
        self.num_live += 1;
        join(number, index)
    }

    /// Declares a block dead; returns how many of its positions had been used.
    pub(crate) fn kill(&mut self, number: u32) -> usize {
        let Some(block) = self.get_mut(number) else { return 0 };
        block.state = State::Dead;
        let (len, num_used) = (block.len(), block.num_used());
        self.num_live -= len;
        self.num_dead += len;
        num_used
    }

    pub(crate) fn num_live(&self) -> usize {
        self.num_live
    }

    pub(crate) fn num_dead(&self) -> usize {
        self.num_dead
    }

    // Neither text nor chains run through free blocks.

    // -- text ------------------------------------------------------------------------------------

    /// How many tokens before a position agree with the end of `context`, up to `limit`.
    pub(crate) fn match_length(&self, position: u32, context: &[TokenId], limit: usize) -> usize {
        let (mut number, mut index) = split(position);
        let mut wanted = context.iter().rev().take(limit);
        let mut matched = 0;
        while let Some(block) = self.blocks.get(number as usize) {
            for token in block.tokens[..index.min(block.len())].iter().rev() {
                if wanted.next() != Some(token) {
                    return matched;
                }
                matched += 1;
            }
            (number, index) = (block.previous, BLOCK_TOKENS);
        }
        matched
    }

    /// Up to `limit` tokens before index `index` of a block (or before its end), in order.
    pub(crate) fn text_before(
        &self,
        mut number: u32,
        mut index: usize,
        limit: usize,
    ) -> Vec<TokenId> {
        let mut text = Vec::with_capacity(limit);
        while let Some(block) = self.blocks.get(number as usize) {
            let tokens = block.tokens[..index.min(block.len())].iter().rev();
            text.extend(tokens.take(limit - text.len()));
            (number, index) = (block.previous, BLOCK_TOKENS);
        }
        text.reverse();
        text
    }

    // -- chains ----------------------------------------------------------------------------------

    /// The position before this one in a chain.
    pub(crate) fn next(&self, chain: usize, position: u32) -> u32 {
        let (number, index) = split(position);
        self.blocks.get(number as usize).map_or(NONE, |block| block.links[index][chain])
    }

    pub(crate) fn set_next(&mut self, chain: usize, position: u32, next: u32) {
        let (number, index) = split(position);
        if let Some(block) = self.blocks.get_mut(number as usize) {
            block.links[index][chain] = next;
        }
    }

    pub(crate) fn is_live(&self, position: u32) -> bool {
        self.live(split(position).0).is_some()
    }

    /// The first live position of a chain from `position` on.
    pub(crate) fn first_live(&self, chain: usize, mut position: u32) -> u32 {
        while position != NONE && !self.is_live(position) {
            position = self.next(chain, position);
        }
        position
    }

    /// Takes dead positions out of the chain that begins at `newest`; returns its first live one.
    pub(crate) fn relink(&mut self, chain: usize, newest: u32) -> u32 {
        let first = self.first_live(chain, newest);
        let mut last = first;
        while last != NONE {
            let next = self.first_live(chain, self.next(chain, last));
            self.set_next(chain, last, next);
            last = next;
        }
        first
    }

    // -- memory ----------------------------------------------------------------------------------

    /// Frees the dead blocks, which no chain runs through any more.
    pub(crate) fn purge(&mut self) {
        for (number, block) in self.blocks.iter_mut().enumerate() {
            if block.state == State::Dead {
                self.target_bytes -= block.target_bytes();
                *block = Block::free();
                self.retired.push(number as u32);
            }
        }
        self.num_dead = 0;
    }

    /// A sweep of the index begins: it will forget what is retired now.
    pub(crate) fn start_sweep(&mut self) {
        self.num_swept = self.retired.len();
    }

    /// The sweep is done: numbers retired before it may be given out again.
    pub(crate) fn reuse_retired(&mut self) {
        if self.num_swept > 0 {
            self.free.extend(self.retired.drain(..self.num_swept));
            self.retired.shrink_to_fit();
            self.num_swept = 0;
        }
    }

    /// Bytes held, capacities not lengths.
    pub(crate) fn memory_bytes(&self) -> usize {
        let lists = vec_bytes(&self.free) + vec_bytes(&self.retired);
        self.blocks.memory_bytes() + self.target_bytes + lists
    }

    /// `memory_bytes` counted anew.
    pub(crate) fn recount_bytes(&self) -> usize {
        let targets: usize = self.blocks.iter().map(Block::target_bytes).sum();
        self.memory_bytes() - self.target_bytes + targets
    }

    /// Bytes that `num_tokens` positions of one sequence may add at most.
    pub(crate) fn growth_bytes(&self, num_tokens: usize, num_targets: usize) -> usize {
        let num_blocks = num_tokens / BLOCK_TOKENS + 1;
        Block::target_growth_bytes(num_targets, num_blocks) + self.blocks.growth_bytes(num_blocks)
    }
}

/// Block number and index of a position.
pub(crate) fn split(position: u32) -> (u32, usize) {
    (position / BLOCK_TOKENS as u32, position as usize % BLOCK_TOKENS)
}

/// The position at an index of a block.
pub(crate) fn join(number: u32, index: usize) -> u32 {
    number * BLOCK_TOKENS as u32 + index as u32
}
