//! Lets what drafts begin with be on its way from memory for several rows at once.
//!
//! The positions of a chain lie apart and each names the next one, so whoever follows one chain
//! waits at every step. Here the chains of several rows are followed in turn and wait side by side
//! (asynchronous memory access chaining, Kocberber et al., VLDB 2015). Nothing is kept: drafting
//! finds in the cache what it reads right after.

use std::hint::black_box;

use crate::arena::split;
use crate::estimate::{View, rarely};
use crate::heads::{NONE, NUM_CHAINS, touch};
use crate::origin::TokenId;
use crate::tables::Mode;
use crate::tree::Tree;

/// Rows that wait side by side: their lines fit into the fastest cache but one.
pub(crate) const ROWS_AT_ONCE: usize = 8;

/// Matches are mostly not longer.
const MOSTLY_MATCHED: usize = 4;

/// Positions of a chain that are fetched, at most.
const MAX_HOPS: usize = 16;

/// A row that is to draft.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) context: &'a [TokenId],
    pub(crate) mode: Mode,
}

/// Fetches the chains that the first estimates of some rows read.
pub(crate) fn fetch<'a>(view: &View<'a>, rows: impl Iterator<Item = Asking<'a>>) {
    let rows: Vec<_> = rows.map(|row| (row, view.index.hashes(row.context))).collect();
    for (row, hashes) in &rows {
        touch(&row.tree.heads, hashes);
        view.index.touch(hashes);
    }
    let mut walks = Vec::with_capacity(rows.len() * NUM_CHAINS);
    let mut global = Vec::with_capacity(rows.len() * NUM_CHAINS);
    let mut num_hops = 0;
    for (row, hashes) in &rows {
        let max_recent = view.max_recent_for(row.mode).min(MAX_HOPS);
        num_hops = num_hops.max(max_recent);
        for (chain, fragment) in hashes.chains(0) {
            let position = row.tree.heads[chain].get(fragment);
            walks.push(Walk { tree: row.tree, chain, position, num_left: max_recent });
            let nodes = view.index.chain(chain, fragment);
            global.push((chain, nodes.take(rarely(max_recent))));
        }
    }
    for _ in 0..num_hops {
        for (chain, nodes) in &mut global {
            let Some(node) = nodes.next() else { continue };
            if let Some(tree) = view.trees[node.tree as usize].as_deref() {
                look(tree, node.position, *chain);
            }
        }
        walks.iter_mut().for_each(Walk::go_on);
    }
}

/// A chain of a prompt's own tree that is being followed.
#[derive(Debug)]
struct Walk<'a> {
    tree: &'a Tree,
    chain: usize,
    /// Where it has come to.
    position: u32,
    num_left: usize,
}

impl Walk<'_> {
    fn go_on(&mut self) {
        if self.position != NONE && self.num_left > 0 {
            self.position = look(self.tree, self.position, self.chain);
            self.num_left -= 1;
        }
    }
}

/// Asks for what estimates read of a position. Returns the one before it in a chain.
fn look(tree: &Tree, position: u32, chain: usize) -> u32 {
    let (number, index) = split(position);
    let Some(block) = tree.arena.get(number) else { return NONE };
    black_box(block.tokens[index.saturating_sub(MOSTLY_MATCHED)]);
    black_box(block.tokens[index]);
    black_box(block.soft_row(index).first());
    block.links[index][chain]
}
