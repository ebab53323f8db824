//! The memory of a forest: counted exactly, bounded always.
//!
//! * Before anything grows, the most it can grow by is added up; trees that were used least
//!   recently and have no open row go until it fits, and what still does not fit is refused.
//! * So `memory_bytes <= max_bytes` holds after every call.

use crate::forest::Forest;
use crate::heads::{table_growth_bytes, vec_bytes, vec_growth_bytes};
use crate::index::{GlobalIndex, is_live};
use crate::origin::PromptKey;
use crate::tree::Tree;

/// Nodes of the index that one call sweeps: a fraction of a millisecond.
const SLICE: usize = 1024;

impl Forest {
    /// Bytes of the trees and of the index over them: capacities, not lengths.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tree_bytes
            + self.index.memory_bytes()
            + self.keys.allocation_size()
            + vec_bytes(&self.trees)
            + vec_bytes(&self.free_slots)
            + vec_bytes(&self.retired_slots)
            + self.recency.memory_bytes()
    }

    /// The slot of a prompt's tree, planted if need be; none if there is no room for one.
    pub(crate) fn plant(&mut self, key: PromptKey) -> Option<u32> {
        if let Some(&slot) = self.keys.get(&key) {
            return Some(slot);
        }
        let table = table_growth_bytes::<(PromptKey, u32)>(
            self.keys.len(),
            self.keys.capacity(),
            self.keys.allocation_size(),
            1,
        );
        let lists = vec_growth_bytes(&self.trees, 1) + self.recency.growth_bytes();
        if !self.make_room(None, |_| size_of::<Tree>() + table + lists) {
            return None;
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.trees.push(None);
            self.trees.len() as u32 - 1
        });
        let tree = Box::new(Tree::new(key, slot));
        self.tree_bytes += tree.memory_bytes();
        self.trees[slot as usize] = Some(tree);
        self.keys.insert(key, slot);
        self.recency.insert(slot);
        Some(slot)
    }

    /// Makes room for positions of one sequence of a tree.
    pub(crate) fn reserve(&mut self, slot: u32, num_tokens: usize, num_targets: usize) -> bool {
        let grows = |forest: &Self| {
            let tree = forest.trees[slot as usize].as_deref();
            tree.map_or(0, |tree| tree.growth_bytes(num_tokens, num_targets))
                + forest.index.growth_bytes(num_tokens)
        };
        self.index.has_room(num_tokens) && self.make_room(Some(slot), grows)
    }

    /// Evicts until `grows` more bytes fit; `keep` stays. Returns whether they do.
    fn make_room(&mut self, keep: Option<u32>, grows: impl Fn(&Self) -> usize) -> bool {
        while self.memory_bytes() + grows(self) > self.config.max_bytes {
            if !self.evict_one(keep) {
                return false;
            }
        }
        true
    }

    /// Frees something: a tree, or else what removed ones left in the index.
    fn evict_one(&mut self, keep: Option<u32>) -> bool {
        let victim = self.recency.iter().find(|&slot| {
            let tree = self.trees[slot as usize].as_deref();
            Some(slot) != keep && tree.is_some_and(|tree| tree.num_open_rows == 0)
        });
        if let Some(slot) = victim {
            if let Some(tree) = self.trees[slot as usize].as_deref() {
                self.evicted.note(tree.key);
            }
            self.fell(slot);
            self.num_evicted += 1;
            self.sweep(SLICE);
            return true;
        }
        let has_waste = self.index.num_stale() > 0 || !self.retired_slots.is_empty();
        if has_waste {
            self.go_on_sweeping(usize::MAX);
            self.start_sweep();
            self.go_on_sweeping(usize::MAX);
        }
        has_waste
    }

    /// Changes a tree, keeping count of its bytes.
    pub(crate) fn change_tree<T>(
        &mut self,
        slot: u32,
        change: impl FnOnce(&mut Tree, &mut GlobalIndex) -> T,
    ) -> Option<T> {
        let tree = self.trees[slot as usize].as_deref_mut()?;
        let before = tree.memory_bytes();
        let result = change(tree, &mut self.index);
        self.tree_bytes = self.tree_bytes + tree.memory_bytes() - before;
        Some(result)
    }

    /// Drops a tree whole.
    pub(crate) fn fell(&mut self, slot: u32) {
        let Some(tree) = self.trees[slot as usize].take() else { return };
        self.tree_bytes -= tree.memory_bytes();
        self.index.forget(tree.num_nodes());
        self.keys.remove(&tree.key);
        self.recency.remove(slot);
        self.retired_slots.push(slot);
    }

    /// Cleans up after removals, where that pays or memory asks for it.
    pub(crate) fn settle(&mut self) {
        self.sweep(SLICE);
        while self.memory_bytes() > self.config.max_bytes && self.evict_one(None) {}
    }

    /// Takes stale nodes out of the index, where that pays: so much of the work that no caller
    /// waits long.
    pub(crate) fn sweep(&mut self, num_nodes: usize) {
        if !self.index.is_sweeping() {
            if !self.index.wants_sweep() {
                return;
            }
            self.start_sweep();
        }
        self.go_on_sweeping(num_nodes);
    }

    fn start_sweep(&mut self) {
        self.index.start_sweep();
        self.num_swept_slots = self.retired_slots.len();
        for tree in self.trees.iter_mut().flatten() {
            tree.arena.start_sweep();
        }
    }

    fn go_on_sweeping(&mut self, num_nodes: usize) {
        if !self.index.is_sweeping() || !self.index.go_on_sweeping(&self.trees, num_nodes) {
            return;
        }
        for drafted in self.rows.values_mut().flat_map(|row| &mut row.draft.positions) {
            let trees = &self.trees;
            drafted.supplier = drafted.supplier.filter(|it| is_live(trees, it.tree, it.position));
        }
        self.free_slots.extend(self.retired_slots.drain(..self.num_swept_slots));
        for tree in self.trees.iter_mut().flatten() {
            let before = tree.memory_bytes();
            tree.arena.reuse_retired();
            self.tree_bytes = self.tree_bytes + tree.memory_bytes() - before;
        }
    }
}
