//! From a context to the newest position after it: the entry point of every recency chain.
//!
//! * A head stores 32 bits of the context's hash. Two contexts may share them; then their positions
//!   share a chain, and readers tell them apart by comparing text.
//! * Hashes are salted, so colliding contexts cannot be prepared from outside.
//! * Heads lie in buckets of one cache line. The table grows by one bucket at a time, splitting the
//!   next one in turn (linear hashing), so no insertion waits for a table to be moved.

use std::hint::black_box;

use crate::origin::TokenId;
use crate::paged::Paged;
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

/// Heads of a bucket; with its length and overflow they fill a cache line.
const SLOTS: usize = 7;
/// A bucket more is added when there are more heads than this for each two.
const HEADS_OF_TWO: usize = 9;
/// Buckets of a page: 8 KiB.
const PAGE: usize = 128;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    fragments: [u32; SLOTS],
    len: u32,
    newest: [u32; SLOTS],
    /// Bucket among the overflow ones that goes on with this one; only a full one has one.
    overflow: u32,
}

const EMPTY: Bucket =
    Bucket { fragments: [0; SLOTS], len: 0, newest: [NONE; SLOTS], overflow: NONE };

impl Bucket {
    /// Compares all slots at once: two vector instructions and no branch to guess.
    fn find(&self, fragment: u32) -> Option<usize> {
        let is_same = |(slot, &its): (usize, &u32)| u32::from(its == fragment) << slot;
        let same = self.fragments.iter().enumerate().map(is_same).fold(0, |a, b| a | b);
        let held = same & ((1 << self.len) - 1);
        (held != 0).then(|| held.trailing_zeros() as usize)
    }

    fn entries(&self) -> impl Iterator<Item = (u32, u32)> {
        let len = self.len as usize;
        self.fragments[..len].iter().copied().zip(self.newest[..len].iter().copied())
    }
}

/// The heads of one order.
#[derive(Debug)]
pub(crate) struct Heads {
    buckets: Paged<Bucket, PAGE>,
    /// Buckets that go on with full ones; those not in use are linked through `overflow`.
    spill: Paged<Bucket, PAGE>,
    /// The first bucket of `spill` not in use.
    first_spare: u32,
    num_spare: usize,
    len: usize,
}

impl Default for Heads {
    fn default() -> Self {
        let (buckets, spill) = (Paged::default(), Paged::default());
        Self { buckets, spill, first_spare: NONE, num_spare: 0, len: 0 }
    }
}

impl Heads {
    pub(crate) fn get(&self, fragment: u32) -> u32 {
        let found = self.chain(self.address(fragment)).find_map(|bucket| {
            let slot = bucket.find(fragment)?;
            Some(bucket.newest[slot])
        });
        found.unwrap_or(NONE)
    }

    /// Makes `newest` the head of a chain; returns the head before it.
    pub(crate) fn replace(&mut self, fragment: u32, newest: u32) -> u32 {
        let (address, mut overflow) = (self.address(fragment), NONE);
        while let Some(bucket) = self.bucket_mut(address, overflow) {
            if let Some(slot) = bucket.find(fragment) {
                return std::mem::replace(&mut bucket.newest[slot], newest);
            }
            overflow = bucket.overflow;
            if overflow == NONE {
                break;
            }
        }
        self.len += 1;
        if self.len * 2 > self.buckets.len() * HEADS_OF_TWO {
            self.split();
        }
        self.place(self.address(fragment), (fragment, newest));
        NONE
    }

    /// The bucket that heads of this hash begin in.
    fn address(&self, fragment: u32) -> usize {
        let num_buckets = self.buckets.len();
        let mask = num_buckets.next_power_of_two() - 1;
        let address = fragment as usize & mask;
        if address < num_buckets { address } else { fragment as usize & (mask >> 1) }
    }

    /// A bucket and those that go on with it.
    fn chain(&self, address: usize) -> impl Iterator<Item = &Bucket> {
        std::iter::successors(self.buckets.get(address), |bucket| {
            self.spill.get(bucket.overflow as usize)
        })
    }

    /// The same for changing: the bucket itself, or the one that `overflow` names.
    fn bucket_mut(&mut self, address: usize, overflow: u32) -> Option<&mut Bucket> {
        if overflow == NONE {
            self.buckets.get_mut(address)
        } else {
            self.spill.get_mut(overflow as usize)
        }
    }

    /// Adds a head, which is not there yet, at the end of a bucket's chain.
    fn place(&mut self, address: usize, (fragment, newest): (u32, u32)) {
        let mut overflow = NONE;
        while let Some(bucket) = self.bucket_mut(address, overflow) {
            let slot = bucket.len as usize;
            if slot < SLOTS {
                bucket.fragments[slot] = fragment;
                bucket.newest[slot] = newest;
                bucket.len += 1;
                return;
            }
            let mut next = bucket.overflow;
            if next == NONE {
                next = self.take_overflow();
                if let Some(bucket) = self.bucket_mut(address, overflow) {
                    bucket.overflow = next;
                }
            }
            overflow = next;
        }
    }

    /// An empty overflow bucket.
    fn take_overflow(&mut self) -> u32 {
        let number = self.first_spare;
        if let Some(spare) = self.spill.get_mut(number as usize) {
            self.first_spare = spare.overflow;
            self.num_spare -= 1;
            *spare = EMPTY;
            return number;
        }
        self.spill.push(EMPTY);
        self.spill.len() as u32 - 1
    }

    /// Adds a bucket and moves to it what now belongs there.
    fn split(&mut self) {
        let number = self.buckets.len();
        self.buckets.push(EMPTY);
        self.place_again(sibling_of(number));
    }

    /// Takes all heads out of a bucket's chain and places those that are one where they belong.
    fn place_again(&mut self, address: usize) {
        if let Some(bucket) = self.buckets.get_mut(address) {
            let taken = std::mem::replace(bucket, EMPTY);
            self.place_all(taken);
        }
    }

    /// Places the heads of a bucket that was taken out, and of those that go on with it. Needs no
    /// overflow bucket beyond those that it gives back.
    fn place_all(&mut self, mut taken: Bucket) {
        loop {
            for head in taken.entries() {
                if head.1 == NONE {
                    self.len -= 1;
                } else {
                    self.place(self.address(head.0), head);
                }
            }
            let Some(next) = self.give_back(taken.overflow) else { return };
            taken = next;
        }
    }

    /// Gives an overflow bucket back; returns what it was.
    fn give_back(&mut self, number: u32) -> Option<Bucket> {
        let spare = Bucket { overflow: self.first_spare, ..EMPTY };
        let taken = std::mem::replace(self.spill.get_mut(number as usize)?, spare);
        self.first_spare = number;
        self.num_spare += 1;
        Some(taken)
    }

    // -- shrinking -------------------------------------------------------------------------------

    /// Replaces each head of a bucket by `renew` of it; chains without one are forgotten.
    pub(crate) fn renew_bucket(&mut self, address: usize, mut renew: impl FnMut(u32) -> u32) {
        let (mut has_lost, mut overflow) = (false, NONE);
        while let Some(bucket) = self.bucket_mut(address, overflow) {
            for newest in &mut bucket.newest[..bucket.len as usize] {
                *newest = renew(*newest);
                has_lost |= *newest == NONE;
            }
            overflow = bucket.overflow;
            if overflow == NONE {
                break;
            }
        }
        if has_lost {
            self.place_again(address);
        }
    }

    /// Replaces each head by `renew` of it, and gives back what memory is not needed.
    pub(crate) fn renew(&mut self, mut renew: impl FnMut(u32) -> u32) {
        for address in 0..self.buckets.len() {
            self.renew_bucket(address, &mut renew);
        }
        while self.contract() {}
    }

    /// Takes the last bucket away if there are far more than the heads need; returns whether it
    /// did. Never takes memory.
    pub(crate) fn contract(&mut self) -> bool {
        if self.len == 0 {
            *self = Self::default();
        }
        let number = self.buckets.len().saturating_sub(1);
        if number == 0 || self.len * 4 > number * HEADS_OF_TWO {
            return false;
        }
        let sibling = sibling_of(number);
        let num_heads = |address| self.chain(address).map(|it| it.len as usize).sum::<usize>();
        let num_moved = num_heads(number);
        if num_heads(sibling) + num_moved > SLOTS && self.num_spare < num_moved {
            return false;
        }
        if let Some(taken) = self.buckets.pop() {
            self.place_all(taken);
        }
        true
    }

    /// Buckets, by which heads can be renewed one bucket at a time: in ascending order none is
    /// missed, as splitting moves heads to the end.
    pub(crate) fn num_buckets(&self) -> usize {
        self.buckets.len()
    }

    // -- memory and checks -----------------------------------------------------------------------

    /// All (hash, newest) pairs, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.buckets.len()).flat_map(|it| self.chain(it)).flat_map(Bucket::entries)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.buckets.memory_bytes() + self.spill.memory_bytes()
    }

    /// Bytes that `additional` more heads may add at most.
    ///
    /// Overflow buckets go on with full ones, so there are at most as many as full ones would hold
    /// all heads; splitting a chain needs none.
    pub(crate) fn growth_bytes(&self, additional: usize) -> usize {
        let num_heads = self.len + additional;
        let num_buckets = (num_heads * 2).div_ceil(HEADS_OF_TWO);
        let num_overflow = (self.spill.len() - self.num_spare + additional).min(num_heads / SLOTS);
        self.buckets.growth_bytes(num_buckets.saturating_sub(self.buckets.len()))
            + self.spill.growth_bytes(num_overflow.saturating_sub(self.spill.len()))
    }

    /// Whether the counts are right, and every head lies where it is looked for.
    pub(crate) fn is_whole(&self) -> bool {
        let mut num_heads = 0;
        let mut num_overflow = 0;
        for address in 0..self.buckets.len() {
            num_overflow += self.chain(address).count() - 1;
            for (fragment, newest) in self.chain(address).flat_map(Bucket::entries) {
                num_heads += 1;
                if self.address(fragment) != address || newest == NONE {
                    return false;
                }
            }
        }
        num_heads == self.len && num_overflow + self.num_spare == self.spill.len()
    }
}

/// Fetches the buckets of a context's chains and does not wait for them: they are looked at soon.
pub(crate) fn touch(heads: &[Heads; NUM_CHAINS], hashes: &ContextHashes) {
    for (chain, fragment) in hashes.chains(0) {
        let heads = &heads[chain];
        black_box(heads.buckets.get(heads.address(fragment)).map(|bucket| bucket.len));
    }
}

/// The bucket that holds what belongs into bucket `number` while there is none.
fn sibling_of(number: usize) -> usize {
    number - (number + 1).next_power_of_two() / 2
}

/// Bytes of a hash table's allocation beside its buckets, padding included, at most.
const TABLE_OVERHEAD: usize = 64;

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
