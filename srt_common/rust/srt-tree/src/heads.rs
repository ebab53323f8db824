//! From a context to the newest position after it: the entry point of every recency chain.
//!
//! * A head stores 32 bits of the context's hash. Two contexts may share them; then their positions
//!   share a chain, and readers tell them apart by comparing text.
//! * Hashes are salted, so colliding contexts cannot be prepared from outside.

use hashbrown::HashTable;

use crate::origin::TokenId;
use crate::rng::mix;

/// Context orders that have a chain.
pub const CHAIN_ORDERS: [usize; NUM_CHAINS] = [2, 4, 8];

/// Number of chains a position is part of.
pub(crate) const NUM_CHAINS: usize = 3;

/// Tokens that the longest chain looks back.
pub(crate) const MAX_CHAIN_ORDER: usize = 8;

/// "Nothing": ends a chain, stands for a block or node that is not there.
pub(crate) const NONE: u32 = u32::MAX;

/// Hashes of the last 2, 4 and 8 tokens of a context, as far as it reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContextHashes {
    fragments: [u32; NUM_CHAINS],
    len: usize,
}

impl ContextHashes {
    pub(crate) fn new(salt: u64, context: &[TokenId]) -> Self {
        let mut found = Self { fragments: [0; NUM_CHAINS], len: 0 };
        let mut hash = salt;
        for (distance, &token) in context.iter().rev().take(MAX_CHAIN_ORDER).enumerate() {
            hash = (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            if distance + 1 == CHAIN_ORDERS[found.len] {
                found.fragments[found.len] = (mix(hash) >> 32) as u32;
                found.len += 1;
            }
        }
        found
    }

    /// The (chain, hash) pairs of orders above `above` that the context is long enough for.
    pub(crate) fn chains(&self, above: usize) -> impl DoubleEndedIterator<Item = (usize, u32)> {
        let first = CHAIN_ORDERS.iter().filter(|&&order| order <= above).count();
        (first..self.len).map(|chain| (chain, self.fragments[chain]))
    }
}

/// Bytes of a hash table's allocation beside its buckets, padding included, at most.
const TABLE_OVERHEAD: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Head {
    fragment: u32,
    newest: u32,
}

/// The heads of one order.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    table: HashTable<Head>,
    /// How often entries may have moved between buckets.
    num_moves: u64,
}

impl Heads {
    pub(crate) fn get(&self, fragment: u32) -> u32 {
        self.table
            .find(bucket_hash(fragment), |head| head.fragment == fragment)
            .map_or(NONE, |head| head.newest)
    }

    /// Makes `newest` the head of a chain; returns the head before it.
    pub(crate) fn replace(&mut self, fragment: u32, newest: u32) -> u32 {
        self.num_moves += u64::from(self.table.len() == self.table.capacity());
        let mut entry = self
            .table
            .entry(
                bucket_hash(fragment),
                |head| head.fragment == fragment,
                |head| bucket_hash(head.fragment),
            )
            .or_insert(Head { fragment, newest: NONE });
        std::mem::replace(&mut entry.get_mut().newest, newest)
    }

    /// Replaces each head by `renew` of it; chains without one are forgotten.
    pub(crate) fn renew(&mut self, mut renew: impl FnMut(u32) -> u32) {
        self.table.retain(|head| {
            head.newest = renew(head.newest);
            head.newest != NONE
        });
        self.shrink();
    }

    /// Gives memory back when most of it is not needed.
    pub(crate) fn shrink(&mut self) {
        if self.table.len() * 4 < self.table.capacity() {
            self.num_moves += 1;
            self.table.shrink_to_fit(|head| bucket_hash(head.fragment));
        }
    }

    /// Buckets, by which heads can be visited one at a time as long as `num_moves` stays the same.
    pub(crate) fn num_buckets(&self) -> usize {
        self.table.num_buckets()
    }

    pub(crate) fn num_moves(&self) -> u64 {
        self.num_moves
    }

    /// The head in a bucket.
    pub(crate) fn at(&self, bucket: usize) -> Option<u32> {
        self.table.get_bucket(bucket).map(|head| head.newest)
    }

    /// Replaces the head in a bucket; `NONE` takes its chain out.
    pub(crate) fn set_at(&mut self, bucket: usize, newest: u32) {
        if newest == NONE {
            if let Ok(entry) = self.table.get_bucket_entry(bucket) {
                entry.remove();
            }
        } else if let Some(head) = self.table.get_bucket_mut(bucket) {
            head.newest = newest;
        }
    }

    /// All (hash, newest) pairs, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.table.iter().map(|head| (head.fragment, head.newest))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
    }

    /// Bytes that `additional` more heads may add at most.
    pub(crate) fn growth_bytes(&self, additional: usize) -> usize {
        table_growth_bytes::<Head>(
            self.table.len(),
            self.table.capacity(),
            self.table.allocation_size(),
            additional,
        )
    }
}

fn bucket_hash(fragment: u32) -> u64 {
    u64::from(fragment).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Bytes by which a hash table may grow when it takes `additional` more entries: to twice its
/// buckets, or to as many as the entries need.
pub(crate) fn table_growth_bytes<T>(
    len: usize,
    capacity: usize,
    allocated: usize,
    additional: usize,
) -> usize {
    let needed = len + additional;
    if needed <= capacity {
        return 0;
    }
    let doubled = allocated / (size_of::<T>() + 1) * 2;
    let buckets = (needed * 8 / 7 + 1).next_power_of_two().max(4).max(doubled);
    (buckets * (size_of::<T>() + 1) + TABLE_OVERHEAD).saturating_sub(allocated)
}

/// Bytes by which a vector may grow when it takes `additional` more elements.
pub(crate) fn vec_growth_bytes<T>(vec: &Vec<T>, additional: usize) -> usize {
    let needed = vec.len() + additional;
    if needed <= vec.capacity() {
        return 0;
    }
    (needed.max(vec.capacity() * 2).max(4) - vec.capacity()) * size_of::<T>()
}

/// Bytes that a vector holds.
pub(crate) fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}
