//! Which positions speak about a context: the newest of each chain, compared backwards with it.
//!
//! * A search reads one chain after another, longest order first, and only as far down as its
//!   caller asks: at most `max_recent` live positions a chain.
//! * Its positions lie longest match first, and among equals most recent first.
//! * While a draft goes on, those that continue with the drafted token are the next positions.
//!   Only when none does are chains read again.

use crate::arena::split;
use crate::block::Block;
use crate::heads::{CHAIN_ORDERS, ContextHashes, NONE};
use crate::index::{GlobalIndex, Trees};
use crate::origin::TokenId;
use crate::tree::Tree;

/// Longest match looked for in the prompt's own tree.
pub(crate) const MAX_LOCAL_ORDER: usize = 16;
/// Longest match looked for in all trees.
pub(crate) const MAX_GLOBAL_ORDER: usize = 8;

/// A position whose context agrees with the one asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) tree: u32,
    pub(crate) position: u32,
    /// Tokens of context that agree.
    pub(crate) matched: u8,
}

impl Candidate {
    /// The block that holds it, and its index there.
    pub(crate) fn place<'a>(&self, trees: &'a Trees) -> Option<(&'a Block, usize)> {
        let (number, index) = split(self.position);
        let block = trees[self.tree as usize].as_deref()?.arena.get(number)?;
        Some((block, index))
    }

    /// The position after it, if the token there is `token` and what follows was sampled.
    fn after(self, trees: &Trees, token: TokenId, max_order: usize) -> Option<Self> {
        let tree = trees[self.tree as usize].as_deref()?;
        let (number, index) = split(self.position);
        if tree.arena.get(number)?.tokens[index] != token {
            return None;
        }
        let matched = (self.matched + 1).min(max_order as u8);
        Some(Self { position: tree.sampled_after(self.position)?, matched, ..self })
    }
}

/// A context to find in the trees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) context: &'a [TokenId],
    pub(crate) hashes: ContextHashes,
    /// Positions to read a chain, at most.
    pub(crate) max_recent: usize,
}

impl Question<'_> {
    /// The chain that tells matches of `order` tokens, if the context is long enough for it.
    fn chain_for(&self, order: usize) -> Option<(usize, u32)> {
        self.hashes.chains(0).rev().find(|&(chain, _)| CHAIN_ORDERS[chain] <= order)
    }
}

/// The search for a draft's contexts in one scope: the prompt's own tree, or all trees.
#[derive(Debug)]
pub(crate) struct Search {
    max_order: usize,
    /// Matches shorter than this have not been looked for and may be.
    floor: usize,
    /// Longest match first.
    pub(crate) found: Vec<Candidate>,
}

impl Search {
    pub(crate) fn new(max_order: usize) -> Self {
        Self { max_order, floor: max_order + 1, found: Vec::new() }
    }

    /// Forgets everything: another row's draft begins.
    pub(crate) fn start(&mut self) {
        self.found.clear();
        self.floor = self.max_order + 1;
    }

    /// Whether matches of this many tokens are told apart here.
    pub(crate) fn reaches(&self, order: usize) -> bool {
        order <= self.max_order
    }

    /// Whether matches of `order` tokens are still to be looked for.
    pub(crate) fn wants(&self, order: usize) -> bool {
        order < self.floor
    }

    /// Moves on by one token of the draft. Chains may be read again only if nothing is left.
    pub(crate) fn carry_on(&mut self, trees: &Trees, token: TokenId) {
        let max_order = self.max_order;
        self.found.retain_mut(|it| {
            it.after(trees, token, max_order).is_some_and(|next| {
                *it = next;
                true
            })
        });
        self.floor = if self.found.is_empty() { max_order + 1 } else { 0 };
    }

    /// Reads the chain of the prompt's own tree that tells matches of `order` tokens.
    pub(crate) fn read_local(&mut self, tree: &Tree, order: usize, asked: &Question<'_>) {
        let Some((chain, fragment)) = asked.chain_for(order) else { return };
        let mut num_left = asked.max_recent;
        let mut position = tree.heads[chain].get(fragment);
        while position != NONE && num_left > 0 {
            let next = tree.arena.next(chain, position);
            if tree.arena.is_live(position) {
                num_left -= self.accept(tree, position, chain, asked.context);
            }
            position = next;
        }
        self.floor = CHAIN_ORDERS[chain];
    }

    /// Reads the chain of all trees that tells matches of `order` tokens.
    pub(crate) fn read_global(
        &mut self,
        (index, trees): (&GlobalIndex, &Trees),
        order: usize,
        asked: &Question<'_>,
    ) {
        let Some((chain, fragment)) = asked.chain_for(order) else { return };
        let mut num_left = asked.max_recent;
        for node in index.chain(chain, fragment) {
            if num_left == 0 {
                break;
            }
            if let Some(holder) = trees[node.tree as usize].as_deref()
                && holder.arena.is_live(node.position)
            {
                num_left -= self.accept(holder, node.position, chain, asked.context);
            }
        }
        self.floor = CHAIN_ORDERS[chain];
    }

    /// Takes a position up if it belongs to the chain and was not in the one read before it.
    /// Returns 1 if it belongs, else 0: then it only shares the hash.
    fn accept(&mut self, tree: &Tree, position: u32, chain: usize, context: &[TokenId]) -> usize {
        let limit = self.floor.min(self.max_order);
        let matched = tree.arena.match_length(position, context, limit);
        if matched < CHAIN_ORDERS[chain] {
            return 0;
        }
        if matched < self.floor {
            let matched = matched as u8;
            let at = self.found.partition_point(|it| it.matched >= matched);
            self.found.insert(at, Candidate { tree: tree.slot, position, matched });
        }
        1
    }
}
