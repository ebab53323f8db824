//! The global index: recency chains over the sampled positions of all trees.
//!
//! * Tokens and soft targets stay in the trees; a node refers to a position there.
//! * Nodes of what was removed are stale: readers skip them. When they are a quarter of all, a
//!   sweep takes them out, slice by slice, and only then may the numbers of slots and blocks be
//!   reused. So a number in a node never names another position than the one it was made for.
//! * Chains run from newer nodes to older ones.

use crate::arena::split;
use crate::heads::{ContextHashes, Heads, NONE, NUM_CHAINS, vec_bytes};
use crate::origin::TokenId;
use crate::tree::Tree;

/// The trees of a forest, by slot.
pub(crate) type Trees = Vec<Option<Box<Tree>>>;

/// A link that was not made: the position is not in that chain through this node.
const UNLINKED: u32 = NONE - 1;

/// Fewer stale nodes than this are not worth a sweep.
const MIN_STALE: usize = 1024;

/// Set in a node's `tree` while a sweep takes the node out.
const GOING: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) tree: u32,
    pub(crate) position: u32,
    /// The first link of a free node names the next free one.
    links: [u32; NUM_CHAINS],
}

/// How far a sweep has come: the next node to mark, to link past marked ones, or to free; or the
/// next bucket of a chain's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sweep {
    Idle,
    Mark(usize),
    Link(usize),
    Heads { chain: usize, bucket: usize, num_moves: u64 },
    Free(usize),
}

/// Chains over all trees.
#[derive(Debug)]
pub(crate) struct GlobalIndex {
    salt: u64,
    nodes: Vec<Node>,
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
            nodes: Vec::new(),
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
        let number = self.next_number();
        for (chain, fragment) in hashes.chains(above) {
            let newest = self.heads[chain].replace(fragment, number);
            links[chain] = self.first_staying(chain, newest);
        }
        if links == [UNLINKED; NUM_CHAINS] {
            return 0;
        }
        let node = Node { tree, position, links };
        if let Some(free) = self.nodes.get_mut(number as usize) {
            self.first_free = free.links[0];
            self.num_free -= 1;
            *free = node;
            return 1;
        }
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact(grown(self.nodes.capacity(), 1) - self.nodes.capacity());
        }
        self.nodes.push(node);
        1
    }

    /// Number of the next node: while a sweep goes on, one that it has yet to pass.
    fn next_number(&self) -> u32 {
        if self.sweep == Sweep::Idle && self.first_free != NONE {
            self.first_free
        } else {
            self.nodes.len() as u32
        }
    }

    /// The nodes of one chain, newest first; stale ones too, unless a sweep takes them out.
    pub(crate) fn chain(&self, chain: usize, fragment: u32) -> impl Iterator<Item = &Node> {
        let mut number = self.heads[chain].get(fragment);
        std::iter::from_fn(move || {
            number = self.first_staying(chain, number);
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
                Sweep::Heads { chain, bucket, num_moves } => {
                    self.renew_head(chain, bucket, num_moves)
                }
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
        let Some(&Node { tree, links, .. }) = self.nodes.get(n) else {
            return self.heads_of(0);
        };
        if tree != NONE {
            self.nodes[n].links =
                std::array::from_fn(|chain| self.first_staying(chain, links[chain]));
        }
        Sweep::Link(n + 1)
    }

    fn heads_of(&self, chain: usize) -> Sweep {
        let Some(heads) = self.heads.get(chain) else { return Sweep::Free(0) };
        Sweep::Heads { chain, bucket: 0, num_moves: heads.num_moves() }
    }

    fn renew_head(&mut self, chain: usize, bucket: usize, num_moves: u64) -> Sweep {
        if self.heads[chain].num_moves() != num_moves {
            return self.heads_of(chain);
        }
        if let Some(newest) = self.heads[chain].at(bucket) {
            let staying = self.first_staying(chain, newest);
            self.heads[chain].set_at(bucket, staying);
        }
        if bucket + 1 < self.heads[chain].num_buckets() {
            return Sweep::Heads { chain, bucket: bucket + 1, num_moves };
        }
        self.heads[chain].shrink();
        self.heads_of(chain + 1)
    }

    fn free(&mut self, n: usize) -> Sweep {
        let Some(node) = self.nodes.get_mut(n) else {
            if self.num_free == self.nodes.len() {
                (self.nodes, self.first_free, self.num_free) = (Vec::new(), NONE, 0);
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

    /// The first node of a chain from `number` on that no sweep takes out.
    fn first_staying(&self, chain: usize, mut number: u32) -> u32 {
        while let Some(node) = self.nodes.get(number as usize)
            && node.tree & GOING != 0
        {
            number = node.links[chain];
        }
        number
    }

    // -- memory and checks -----------------------------------------------------------------------

    pub(crate) fn memory_bytes(&self) -> usize {
        vec_bytes(&self.nodes) + self.heads.iter().map(Heads::memory_bytes).sum::<usize>()
    }

    /// Bytes that `num_tokens` positions may add at most.
    pub(crate) fn growth_bytes(&self, num_tokens: usize) -> usize {
        let heads: usize = self.heads.iter().map(|heads| heads.growth_bytes(num_tokens)).sum();
        let num_free = if self.sweep == Sweep::Idle { self.num_free } else { 0 };
        let (len, capacity) = (self.nodes.len() - num_free, self.nodes.capacity());
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
        self.nodes.len() - self.num_free
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

/// Whether a node's position is still held.
pub(crate) fn is_live(trees: &Trees, tree: u32, position: u32) -> bool {
    let tree = trees.get(tree as usize).and_then(Option::as_deref);
    tree.is_some_and(|tree| tree.arena.live(split(position).0).is_some())
}
