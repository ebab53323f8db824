//! Which positions speak about a context: the newest of each chain, compared backwards with it.
//!
//! * At most `max_recent` live positions are read per chain; a position found by several counts
//!   once. Chains are read longest order first.
//! * Order of the result: longest match first, and among equals in the order of reading, which is
//!   most recent first.
//! * While a draft goes on, those candidates that continue with the drafted token are its next
//!   candidates; chains are read again once fewer than [`MIN_SURVIVORS`] do.

use std::cmp::Reverse;

use crate::arena::split;
use crate::block::Block;
use crate::heads::{CHAIN_ORDERS, ContextHashes, NONE};
use crate::index::{GlobalIndex, Node, Trees, is_live};
use crate::origin::TokenId;
use crate::tree::Tree;

/// Longest match looked for in the prompt's own tree.
pub(crate) const MAX_LOCAL_ORDER: usize = 16;
/// Longest match looked for in all trees.
pub(crate) const MAX_GLOBAL_ORDER: usize = 8;

/// Fewer candidates than this are not enough to go on with.
const MIN_SURVIVORS: usize = 2;

/// A position whose context agrees with the one asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) tree: u32,
    pub(crate) position: u32,
    /// Tokens of context that agree.
    pub(crate) matched: u8,
    /// Place in the order of reading.
    rank: u16,
}

/// Moves candidates on past `token`. Returns whether enough of them continue with it.
pub(crate) fn carry_on(
    trees: &Trees,
    token: TokenId,
    max_order: usize,
    found: &mut Vec<Candidate>,
) -> bool {
    found.retain_mut(|it| {
        let Some(tree) = trees[it.tree as usize].as_deref() else { return false };
        let is_next = |(block, index): (&Block, usize)| block.tokens[index] == token;
        if !it.place(trees).is_some_and(is_next) {
            return false;
        }
        it.matched = (it.matched + 1).min(max_order as u8);
        let next = tree.sampled_after(it.position);
        it.position = next.unwrap_or(it.position);
        next.is_some()
    });
    found.len() >= MIN_SURVIVORS
}

/// Finds the candidates of one tree.
pub(crate) fn find_local(
    tree: &Tree,
    context: &[TokenId],
    hashes: &ContextHashes,
    max_recent: usize,
    found: &mut Vec<Candidate>,
) {
    found.clear();
    for (chain, fragment) in hashes.chains(0).rev() {
        let mut num_left = max_recent;
        let mut position = tree.heads[chain].get(fragment);
        while position != NONE && num_left > 0 {
            if tree.arena.is_live(position) {
                let agree = || tree.arena.match_length(position, context, MAX_LOCAL_ORDER);
                num_left -= accept(found, (tree.slot, position), agree, chain);
            }
            position = tree.arena.next(chain, position);
        }
    }
    found.sort_unstable_by_key(|it| (Reverse(it.matched), it.rank));
}

/// Finds the candidates of all trees.
pub(crate) fn find_global(
    (index, trees): (&GlobalIndex, &Trees),
    context: &[TokenId],
    hashes: &ContextHashes,
    max_recent: usize,
    found: &mut Vec<Candidate>,
) {
    found.clear();
    for (chain, fragment) in hashes.chains(0).rev() {
        let mut num_left = max_recent;
        for &Node { tree, position, .. } in index.chain(chain, fragment) {
            if num_left == 0 {
                break;
            }
            if let Some(holder) = trees[tree as usize].as_deref()
                && is_live(trees, tree, position)
            {
                let agree = || holder.arena.match_length(position, context, MAX_GLOBAL_ORDER);
                num_left -= accept(found, (tree, position), agree, chain);
            }
        }
    }
    found.sort_unstable_by_key(|it| (Reverse(it.matched), it.rank));
}

/// Takes a position up if it belongs to the chain, once. Returns 1 if it belongs, else 0: then it
/// only shares the hash.
fn accept(
    found: &mut Vec<Candidate>,
    (tree, position): (u32, u32),
    agree: impl FnOnce() -> usize,
    chain: usize,
) -> usize {
    if found.iter().any(|it| it.position == position && it.tree == tree) {
        return 1;
    }
    let matched = agree();
    if matched < CHAIN_ORDERS[chain] {
        return 0;
    }
    let rank = found.len() as u16;
    found.push(Candidate { tree, position, matched: matched as u8, rank });
    1
}

impl Candidate {
    /// The block that holds it, and its index there.
    pub(crate) fn place<'a>(&self, trees: &'a Trees) -> Option<(&'a Block, usize)> {
        let (number, index) = split(self.position);
        let block = trees[self.tree as usize].as_deref()?.arena.get(number)?;
        Some((block, index))
    }
}
