//! Least-recently-used order of tree slots: a doubly linked list in a vector, every operation O(1).

use crate::heads::{NONE, vec_bytes, vec_growth_bytes};

#[derive(Debug, Clone, Copy)]
struct Links {
    older: u32,
    newer: u32,
}

const APART: Links = Links { older: NONE, newer: NONE };

/// Slots from the least to the most recently used.
#[derive(Debug)]
pub(crate) struct Recency {
    links: Vec<Links>,
    oldest: u32,
    newest: u32,
}

impl Recency {
    pub(crate) fn new() -> Self {
        Self { links: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// Adds a slot, which is not in the list, as the most recent one.
    pub(crate) fn insert(&mut self, slot: u32) {
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, APART);
        }
        self.links[slot as usize] = Links { older: self.newest, newer: NONE };
        self.set_newer(self.newest, slot);
        self.newest = slot;
    }

    /// Takes a slot, which is in the list, out of it.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Links { older, newer } = self.links[slot as usize];
        self.set_newer(older, newer);
        match self.links.get_mut(newer as usize) {
            Some(links) => links.older = older,
            None => self.newest = older,
        }
    }

    /// Makes a slot of the list the most recent one.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.remove(slot);
            self.insert(slot);
        }
    }

    /// The slots, least recent first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let slot = next;
            next = self.links.get(slot as usize)?.newer;
            Some(slot)
        })
    }

    fn set_newer(&mut self, slot: u32, newer: u32) {
        match self.links.get_mut(slot as usize) {
            Some(links) => links.newer = newer,
            None => self.oldest = newer,
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        vec_bytes(&self.links)
    }

    pub(crate) fn growth_bytes(&self) -> usize {
        vec_growth_bytes(&self.links, 1)
    }
}
