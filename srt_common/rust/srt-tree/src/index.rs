//! The global index: recency chains over the sampled positions of all trees.
//!
//! * Tokens and soft targets stay in the trees; a node refers to a position there.
//! * Nodes of what was removed are stale: readers skip them. When they are a quarter of all,
//!   `purge` takes them out, and only then may the numbers of slots and blocks be reused. So a
//!   number in a node never names another position than the one it was made for.
//! * Chains run from newer nodes to older ones: a link points to a smaller node number.

use crate::arena::split;
use crate::heads::{ContextHashes, Heads, NONE, NUM_CHAINS, vec_bytes};
use crate::origin::TokenId;
use crate::tree::Tree;

/// The trees of a forest, by slot.
pub(crate) type Trees = Vec<Option<Box<Tree>>>;

/// A link that was not made: the position is not in that chain through this node.
const UNLINKED: u32 = NONE - 1;

/// Fewer stale nodes than this are not worth a purge.
const MIN_STALE: usize = 1024;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) tree: u32,
    pub(crate) position: u32,
    links: [u32; NUM_CHAINS],
}

/// Chains over all trees.
#[derive(Debug)]
pub(crate) struct GlobalIndex {
    salt: u64,
    nodes: Vec<Node>,
    heads: [Heads; NUM_CHAINS],
    num_stale: usize,
}

impl GlobalIndex {
    pub(crate) fn new(salt: u64) -> Self {
        Self { salt, nodes: Vec::new(), heads: Default::default(), num_stale: 0 }
    }

    /// Hashes of a context, for chains here and in trees.
    pub(crate) fn hashes(&self, context: &[TokenId]) -> ContextHashes {
        ContextHashes::new(self.salt, context)
    }

    /// Puts a position at the head of the chains of orders above `above` that its context reaches;
    /// returns how many nodes that took.
    pub(crate) fn push(
        &mut self,
        tree: u32,
        position: u32,
        hashes: &ContextHashes,
        above: usize,
    ) -> usize {
        let mut links = [UNLINKED; NUM_CHAINS];
        let number = self.nodes.len() as u32;
        for (chain, fragment) in hashes.chains(above) {
            links[chain] = self.heads[chain].replace(fragment, number);
        }
        if links == [UNLINKED; NUM_CHAINS] {
            return 0;
        }
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact(grown(self.nodes.capacity(), 1) - self.nodes.capacity());
        }
        self.nodes.push(Node { tree, position, links });
        1
    }

    /// The nodes of one chain, newest first, stale ones included.
    pub(crate) fn chain(&self, chain: usize, fragment: u32) -> impl Iterator<Item = &Node> {
        let mut number = self.heads[chain].get(fragment);
        std::iter::from_fn(move || {
            let node = self.nodes.get(number as usize)?;
            number = node.links[chain];
            Some(node)
        })
    }

    // -- removal ---------------------------------------------------------------------------------

    /// Notes that `num_nodes` nodes have become stale.
    pub(crate) fn forget(&mut self, num_nodes: usize) {
        self.num_stale += num_nodes;
    }

    pub(crate) fn num_stale(&self) -> usize {
        self.num_stale
    }

    /// Whether a purge pays for itself.
    pub(crate) fn wants_purge(&self) -> bool {
        self.num_stale >= MIN_STALE && self.num_stale * 4 > self.nodes.len()
    }

    /// Takes stale nodes out. O(number of nodes).
    pub(crate) fn purge(&mut self, trees: &Trees) {
        let mut renumbered = vec![NONE; self.nodes.len()];
        let mut num_live = 0;
        for number in 0..self.nodes.len() {
            let Node { tree, position, links } = self.nodes[number];
            self.nodes[number].links =
                std::array::from_fn(|chain| renew(&self.nodes, &renumbered, chain, links[chain]));
            if is_live(trees, tree, position) {
                renumbered[number] = num_live;
                num_live += 1;
            }
        }
        for (chain, heads) in self.heads.iter_mut().enumerate() {
            heads.renew(|newest| renew(&self.nodes, &renumbered, chain, newest));
        }
        let mut numbers = renumbered.iter();
        self.nodes.retain(|_| numbers.next() != Some(&NONE));
        self.nodes.shrink_to(self.nodes.len() + self.nodes.len() / 4);
        self.num_stale = 0;
    }

    // -- memory and checks -----------------------------------------------------------------------

    pub(crate) fn memory_bytes(&self) -> usize {
        vec_bytes(&self.nodes) + self.heads.iter().map(Heads::memory_bytes).sum::<usize>()
    }

    /// Bytes that `num_tokens` positions may add at most.
    pub(crate) fn growth_bytes(&self, num_tokens: usize) -> usize {
        let heads: usize = self.heads.iter().map(|heads| heads.growth_bytes(num_tokens)).sum();
        let (len, capacity) = (self.nodes.len(), self.nodes.capacity());
        if len + num_tokens <= capacity {
            return heads;
        }
        heads + (grown(capacity, len + num_tokens - capacity) - capacity) * size_of::<Node>()
    }

    /// Whether `num_tokens` more nodes can be numbered.
    pub(crate) fn has_room(&self, num_tokens: usize) -> bool {
        self.nodes.len() + num_tokens < UNLINKED as usize
    }

    pub(crate) fn num_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Every (chain, fragment, newest node number), for checks.
    pub(crate) fn heads(&self, chain: usize) -> &Heads {
        &self.heads[chain]
    }
}

/// Capacity after growing so that `additional` more nodes fit: by a quarter at least.
fn grown(capacity: usize, additional: usize) -> usize {
    let mut target = capacity;
    while target < capacity + additional {
        target += (target / 4).max(16);
    }
    target
}

/// What a link becomes: the new number of the first live node from `link` on. All older nodes have
/// been renewed already.
fn renew(nodes: &[Node], renumbered: &[u32], chain: usize, link: u32) -> u32 {
    if link >= UNLINKED {
        return link;
    }
    match renumbered[link as usize] {
        NONE => nodes[link as usize].links[chain],
        number => number,
    }
}

/// Whether a node's position is still held.
pub(crate) fn is_live(trees: &Trees, tree: u32, position: u32) -> bool {
    let tree = trees.get(tree as usize).and_then(Option::as_deref);
    tree.is_some_and(|tree| tree.arena.live(split(position).0).is_some())
}
