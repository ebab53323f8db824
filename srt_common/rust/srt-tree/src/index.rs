//! The global index: recency chains over the sampled positions of all trees.
//!
//! * Tokens and soft targets stay in the trees; a node refers to a position there.
//! * Nodes of what was removed are stale: readers skip them. When they are a quarter of all, a
//!   sweep takes them out, slice by slice, and only then may the numbers of slots and blocks be
//!   reused. So a number in a node never names another position than the one it was made for.
//! * Chains run from newer nodes to older ones.

use crate::arena::split;
use crate::heads::{ContextHashes, Heads, NONE, NUM_CHAINS, touch};
use crate::origin::TokenId;
use crate::paged::Paged;
use crate::tree::Tree;

/// The trees of a forest, by slot.
pub(crate) type Trees = Vec<Option<Box<Tree>>>;

/// A link that was not made: the position is not in that chain through this node.
const UNLINKED: u32 = NONE - 1;

/// Fewer stale nodes than this are not worth a sweep.
const MIN_STALE: usize = 1024;

/// Most nodes that one link of a sweep passes at a time.
const MAX_PASSED: usize = 8;

/// Set in a node's `tree` while a sweep takes the node out.
const GOING: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) tree: u32,
    pub(crate) position: u32,
    /// The first link of a free node names the next free one.
    links: [u32; NUM_CHAINS],
}

/// Nodes of a page: 80 KiB.
const PAGE: usize = 4096;

type Nodes = Paged<Node, PAGE>;

/// How far a sweep has come: the next node to mark, to link past marked ones, or to free; or the
/// next bucket of a chain's heads, or the chain whose heads shrink.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sweep {
    Idle,
    Mark(usize),
    Link(usize),
    Heads { chain: usize, bucket: usize },
    Shrink { chain: usize },
    Free(usize),
}

/// Chains over all trees.
#[derive(Debug)]
pub(crate) struct GlobalIndex {
    salt: u64,
    nodes: Nodes,
    heads: [Heads; NUM_CHAINS],
    num_stale: usize,
    first_free: u32,
    num_free: usize,
    sweep: Sweep,
}

impl GlobalIndex {
    pub(crate) fn new(salt: u64) -> Self {
        Self {
            salt,
            nodes: Nodes::default(),
            heads: Default::default(),
            num_stale: 0,
            first_free: NONE,
            num_free: 0,
            sweep: Sweep::Idle,
        }
    }

    /// Hashes of a context, for chains here and in trees.
    pub(crate) fn hashes(&self, context: &[TokenId]) -> ContextHashes {
        ContextHashes::new(self.salt, context)
    }

    /// See `heads::touch`.
    pub(crate) fn touch(&self, hashes: &ContextHashes) {
        touch(&self.heads, hashes);
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
        let number =
            if self.first_free == NONE { self.nodes.len() as u32 } else { self.first_free };
        for (chain, fragment) in hashes.chains(above) {
            let newest = self.heads[chain].replace(fragment, number);
            links[chain] = first_staying(&self.nodes, chain, newest);
        }
        if links == [UNLINKED; NUM_CHAINS] {
            return 0;
        }
        let node = Node { tree, position, links };
        if let Some(free) = self.nodes.get_mut(number as usize) {
            self.first_free = free.links[0];
            self.num_free -= 1;
            *free = node;
        } else {
            self.nodes.push(node);
        }
        1
    }

    /// The nodes of one chain, newest first; stale ones too, unless a sweep takes them out.
    pub(crate) fn chain(&self, chain: usize, fragment: u32) -> impl Iterator<Item = &Node> {
        let mut number = self.heads[chain].get(fragment);
        std::iter::from_fn(move || {
            number = first_staying(&self.nodes, chain, number);
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

    /// Whether a sweep goes on.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep != Sweep::Idle
    }

    /// Whether a sweep pays for itself.
    pub(crate) fn wants_sweep(&self) -> bool {
        self.num_stale >= MIN_STALE && self.num_stale * 4 > self.num_nodes()
    }

    /// Begins to take out the nodes that are stale now.
    pub(crate) fn start_sweep(&mut self) {
        self.sweep = Sweep::Mark(0);
    }

    /// Goes on by `num_nodes` nodes, or heads; returns whether the sweep is done.
    pub(crate) fn go_on_sweeping(&mut self, trees: &Trees, num_nodes: usize) -> bool {
        for _ in 0..num_nodes {
            self.sweep = match self.sweep {
                Sweep::Idle => return true,
                Sweep::Mark(n) => self.mark(n, trees),
                Sweep::Link(n) => self.link_past_marked(n),
                Sweep::Heads { chain, bucket } => self.renew_heads(chain, bucket),
                Sweep::Shrink { chain } => self.shrink_heads(chain),
                Sweep::Free(n) => self.free(n),
            };
        }
        self.sweep == Sweep::Idle
    }

    fn mark(&mut self, n: usize, trees: &Trees) -> Sweep {
        let Some(node) = self.nodes.get_mut(n) else { return Sweep::Link(0) };
        if node.tree != NONE && !is_live(trees, node.tree, node.position) {
            node.tree |= GOING;
        }
        Sweep::Mark(n + 1)
    }

    fn link_past_marked(&mut self, n: usize) -> Sweep {
        let Some(&Node { tree, mut links, .. }) = self.nodes.get(n) else {
            return Sweep::Heads { chain: 0, bucket: 0 };
        };
        if tree == NONE {
            return Sweep::Link(n + 1);
        }
        let mut is_done = true;
        for (chain, link) in links.iter_mut().enumerate() {
            let (passed, is_staying) = pass_marked(&mut self.nodes, chain, *link);
            *link = passed;
            is_done &= is_staying;
        }
        if let Some(node) = self.nodes.get_mut(n) {
            node.links = links;
        }
        Sweep::Link(n + usize::from(is_done))
    }

    fn renew_heads(&mut self, chain: usize, bucket: usize) -> Sweep {
        let Some(heads) = self.heads.get_mut(chain) else { return Sweep::Free(0) };
        if bucket >= heads.num_buckets() {
            return Sweep::Shrink { chain };
        }
        heads.renew_bucket(bucket, |newest| first_staying(&self.nodes, chain, newest));
        Sweep::Heads { chain, bucket: bucket + 1 }
    }

    fn shrink_heads(&mut self, chain: usize) -> Sweep {
        if self.heads[chain].contract() {
            return Sweep::Shrink { chain };
        }
        Sweep::Heads { chain: chain + 1, bucket: 0 }
    }

    fn free(&mut self, n: usize) -> Sweep {
        let Some(node) = self.nodes.get_mut(n) else {
            if self.num_free == self.nodes.len() {
                (self.nodes, self.first_free, self.num_free) = (Nodes::default(), NONE, 0);
            }
            return Sweep::Idle;
        };
        if node.tree != NONE && node.tree & GOING != 0 {
            *node = Node { tree: NONE, position: 0, links: [self.first_free; NUM_CHAINS] };
            self.first_free = n as u32;
            self.num_free += 1;
            self.num_stale -= 1;
        }
        Sweep::Free(n + 1)
    }

    // -- memory and checks -----------------------------------------------------------------------

    pub(crate) fn memory_bytes(&self) -> usize {
        self.nodes.memory_bytes() + self.heads.iter().map(Heads::memory_bytes).sum::<usize>()
    }

    /// Bytes that `num_tokens` positions may add at most.
    pub(crate) fn growth_bytes(&self, num_tokens: usize) -> usize {
        let heads: usize = self.heads.iter().map(|heads| heads.growth_bytes(num_tokens)).sum();
        heads + self.nodes.growth_bytes(num_tokens.saturating_sub(self.num_free))
    }

    /// Whether `num_tokens` more nodes can be numbered.
    pub(crate) fn has_room(&self, num_tokens: usize) -> bool {
        self.nodes.len() + num_tokens < UNLINKED as usize
    }

    pub(crate) fn num_nodes(&self) -> usize {
        self.nodes.len() - self.num_free
    }

    /// Every (chain, fragment, newest node number), for checks.
    pub(crate) fn heads(&self, chain: usize) -> &Heads {
        &self.heads[chain]
    }
}

/// Goes on from `number` past at most `MAX_PASSED` nodes that a sweep takes out, and leaves a
/// shortcut at each, so that no node is passed often; returns where it came to, and whether that
/// node stays.
fn pass_marked(nodes: &mut Nodes, chain: usize, number: u32) -> (u32, bool) {
    let is_going = |nodes: &Nodes, number: u32| {
        nodes.get(number as usize).is_some_and(|node| node.tree & GOING != 0)
    };
    let next = |nodes: &Nodes, number: u32| {
        nodes.get(number as usize).map_or(NONE, |node| node.links[chain])
    };
    let mut end = number;
    for _ in 0..MAX_PASSED {
        if !is_going(nodes, end) {
            break;
        }
        end = next(nodes, end);
    }
    let mut passed = number;
    while passed != end {
        let after = next(nodes, passed);
        if let Some(node) = nodes.get_mut(passed as usize) {
            node.links[chain] = end;
        }
        passed = after;
    }
    (end, !is_going(nodes, end))
}

/// The first node of a chain from `number` on that no sweep takes out.
fn first_staying(nodes: &Nodes, chain: usize, mut number: u32) -> u32 {
    while let Some(node) = nodes.get(number as usize)
        && node.tree & GOING != 0
    {
        number = node.links[chain];
    }
    number
}

/// Whether a node's position is still held.
pub(crate) fn is_live(trees: &Trees, tree: u32, position: u32) -> bool {
    let tree = trees.get(tree as usize).and_then(Option::as_deref);
    tree.is_some_and(|tree| tree.arena.live(split(position).0).is_some())
}
