//! Every invariant, one function each: for tests and debug endpoints.

use std::collections::HashSet;

use crate::arena::{join, split};
use crate::block::{BLOCK_TOKENS, Block};
use crate::error::{Result, TreeError};
use crate::forest::Forest;
use crate::heads::{CHAIN_ORDERS, MAX_CHAIN_ORDER, NONE, NUM_CHAINS};
use crate::index::is_live;
use crate::origin::{Lane, TokenId};
use crate::tree::{Sequence, Tree};

impl Forest {
    /// Verifies every invariant. O(size of the forest).
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<()> {
        self.check_slots()?;
        self.check_open_rows()?;
        self.check_memory()?;
        self.check_waiting()?;
        for tree in self.trees.iter().flatten() {
            check_sequences(tree)?;
            check_counters(tree)?;
            self.check_local_chains(tree)?;
        }
        self.check_global_chains()
    }

    fn check_slots(&self) -> Result<()> {
        let listed: Vec<u32> = self.recency.iter().collect();
        let distinct: HashSet<u32> = listed.iter().copied().collect();
        ensure(listed.len() == distinct.len(), || "a slot is listed twice".into())?;
        ensure(listed.len() == self.keys.len(), || "recency misses a tree".into())?;
        for (key, &slot) in &self.keys {
            let tree = self.trees[slot as usize].as_deref();
            let is_right = tree.is_some_and(|tree| tree.key == *key && tree.slot == slot);
            ensure(is_right && distinct.contains(&slot), || format!("slot of {key}"))?;
        }
        let num_empty = self.free_slots.len() + self.retired_slots.len();
        let adds_up = self.keys.len() + num_empty == self.trees.len();
        ensure(adds_up, || "an empty slot is lost".into())
    }

    fn check_open_rows(&self) -> Result<()> {
        for tree in self.trees.iter().flatten() {
            let num_open = self.rows.values().filter(|row| row.tree == Some(tree.slot)).count();
            ensure(num_open == tree.num_open_rows, || format!("open rows of {}", tree.key))?;
        }
        for row in self.rows.values() {
            let tree = row.tree.map(|slot| self.trees[slot as usize].as_deref());
            let is_right = tree.is_none_or(|it| it.is_some_and(|it| it.key == row.prompt_key));
            ensure(is_right, || format!("tree of a row of {}", row.prompt_key))?;
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<()> {
        let recounted: usize = self.trees.iter().flatten().map(|tree| tree.recount_bytes()).sum();
        let counted = self.tree_bytes;
        ensure(recounted == counted, || format!("{counted} bytes counted, {recounted} held"))?;
        let (held, max) = (self.memory_bytes(), self.config.max_bytes);
        ensure(held <= max || self.keys.is_empty(), || format!("{held} bytes held, {max} allowed"))
    }

    fn check_waiting(&self) -> Result<()> {
        ensure(self.early.recount() == self.early.counted(), || "count of early tokens".into())?;
        let is_right = self.early.num_tokens() <= self.config.max_early_tokens
            && self.outbox.num_tokens() <= self.config.max_outbox_tokens;
        ensure(is_right, || "bound on waiting tokens".into())?;
        ensure(self.outbox.recount() == self.outbox.num_tokens(), || "outbox tokens".into())
    }

    fn check_local_chains(&self, tree: &Tree) -> Result<()> {
        for (chain, order) in CHAIN_ORDERS.into_iter().enumerate() {
            ensure(tree.heads[chain].is_whole(), || format!("heads {chain} of {}", tree.key))?;
            let mut expected = HashSet::new();
            for_positions(tree, |position, text, block, index| {
                if !block.is_observation(index) && text.len() >= order {
                    expected.insert(position);
                }
            });
            for (fragment, mut position) in tree.heads[chain].iter() {
                while position != NONE {
                    if tree.arena.is_live(position) {
                        let place = || format!("chain {chain} of {} at {position}", tree.key);
                        ensure(expected.remove(&position), place)?;
                        let text = text_before(tree, position);
                        let hashes = self.index.hashes(&text);
                        ensure(hashes.chains(0).any(|it| it == (chain, fragment)), place)?;
                    }
                    position = tree.arena.next(chain, position);
                }
            }
            ensure(expected.is_empty(), || format!("a chain of {} lost positions", tree.key))?;
        }
        Ok(())
    }

    fn check_global_chains(&self) -> Result<()> {
        let mut num_live_nodes = 0;
        for tree in self.trees.iter().flatten() {
            num_live_nodes += tree.num_nodes();
        }
        let counted = num_live_nodes + self.index.num_stale();
        ensure(counted == self.index.num_nodes(), || "count of stale nodes".into())?;
        for chain in 0..NUM_CHAINS {
            ensure(self.index.heads(chain).is_whole(), || format!("global heads {chain}"))?;
            let mut expected = self.globally_linked(chain);
            for (fragment, _) in self.index.heads(chain).iter() {
                for node in self.index.chain(chain, fragment) {
                    if is_live(&self.trees, node.tree, node.position) {
                        let place = || format!("global chain {chain} at {node:?}");
                        ensure(expected.remove(&(node.tree, node.position)), place)?;
                    }
                }
            }
            ensure(expected.is_empty(), || "a global chain lost positions".into())?;
        }
        Ok(())
    }

    /// Positions that should be in a global chain: sampled, with enough text before them.
    fn globally_linked(&self, chain: usize) -> HashSet<(u32, u32)> {
        let mut expected = HashSet::new();
        for tree in self.trees.iter().flatten() {
            for_positions(tree, |position, text, block, index| {
                let is_sampled = tree.at(block.sequence).is_some_and(|it| it.origin.is_some())
                    && !block.is_observation(index);
                if is_sampled && text.len() >= CHAIN_ORDERS[chain] {
                    expected.insert((tree.slot, position));
                }
            });
        }
        expected
    }
}

fn check_sequences(tree: &Tree) -> Result<()> {
    let prompt_end = tree.prompt().and_then(|prompt| prompt.blocks.last().copied());
    for sequence in tree.sorted_sequences().into_iter().chain(tree.prompt()) {
        let place = || format!("sequence {} of {}", sequence.id.0, tree.key);
        let blocks: Vec<_> = tree.blocks_of(sequence).collect();
        let len: usize = blocks.iter().map(|block| block.len()).sum();
        ensure(len == sequence.len && len > 0, place)?;
        ensure(blocks.len() == sequence.blocks.len(), place)?;
        let goes_on_from_prompt = sequence.origin.is_some() && sequence.start == 0;
        let mut previous = prompt_end.filter(|_| goes_on_from_prompt).unwrap_or(NONE);
        for (n, (block, &number)) in blocks.iter().zip(&sequence.blocks).enumerate() {
            let is_full = block.len() == BLOCK_TOKENS;
            ensure(is_full || n + 1 == blocks.len(), place)?;
            ensure(block.previous == previous && block.ordinal as usize == n, place)?;
            previous = number;
        }
    }
    Ok(())
}

fn check_counters(tree: &Tree) -> Result<()> {
    let sequences = tree.sorted_sequences();
    let is_run_ahead = |it: &&&Sequence| it.origin.is_some_and(|it| it.lane == Lane::RunAhead);
    let run_ahead = || sequences.iter().filter(is_run_ahead);
    let num_tokens: usize = sequences.iter().map(|it| it.len).sum();
    let num_run_ahead: usize = run_ahead().map(|it| it.len).sum();
    let num_used: usize = run_ahead().flat_map(|it| tree.blocks_of(it)).map(Block::num_used).sum();
    ensure(num_tokens == tree.num_tokens, || format!("tokens of {}", tree.key))?;
    let is_right =
        num_run_ahead == tree.num_run_ahead_tokens && num_used == tree.num_run_ahead_tokens_used;
    ensure(is_right, || format!("run-ahead tokens of {}", tree.key))?;
    let num_live = num_tokens + tree.prompt().map_or(0, |prompt| prompt.len);
    ensure(num_live == tree.arena.num_live(), || format!("live positions of {}", tree.key))
}

/// Calls `visit` with (position, text before it, block, index in it) for all live positions.
fn for_positions(tree: &Tree, mut visit: impl FnMut(u32, &[TokenId], &Block, usize)) {
    for sequence in tree.sorted_sequences().into_iter().chain(tree.prompt()) {
        for (block, &number) in tree.blocks_of(sequence).zip(&sequence.blocks) {
            for index in 0..block.len() {
                let position = join(number, index);
                visit(position, &text_before(tree, position), block, index);
            }
        }
    }
}

fn text_before(tree: &Tree, position: u32) -> Vec<TokenId> {
    let (number, index) = split(position);
    tree.arena.text_before(number, index, MAX_CHAIN_ORDER)
}

fn ensure(holds: bool, invariant: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(TreeError::Broken { invariant: invariant() }) }
}
