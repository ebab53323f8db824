//! A vector in pages: it grows and shrinks by one page at a time and never moves what it holds, so
//! no push waits for a copy of everything before it.
//!
//! * The first page starts small and grows by a quarter, so that small trees stay small.

use crate::heads::vec_bytes;

/// Items in pages of `PAGE` each.
#[derive(Debug)]
pub(crate) struct Paged<T, const PAGE: usize> {
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T, const PAGE: usize> Default for Paged<T, PAGE> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<T, const PAGE: usize> Paged<T, PAGE> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten()
    }

    pub(crate) fn get(&self, n: usize) -> Option<&T> {
        self.pages.get(n / PAGE)?.get(n % PAGE)
    }

    pub(crate) fn get_mut(&mut self, n: usize) -> Option<&mut T> {
        self.pages.get_mut(n / PAGE)?.get_mut(n % PAGE)
    }

    pub(crate) fn push(&mut self, item: T) {
        if self.len == self.pages.len() * PAGE {
            if self.pages.len() == self.pages.capacity() {
                self.pages.reserve_exact(list_growth(self.pages.capacity(), 1));
            }
            let capacity = if self.len == 0 { 1 } else { PAGE };
            self.pages.push(Vec::with_capacity(capacity));
        }
        let Some(page) = self.pages.last_mut() else { return };
        if page.len() == page.capacity() {
            page.reserve_exact(grown::<PAGE>(page.capacity(), 1) - page.capacity());
        }
        page.push(item);
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let page = self.pages.last_mut()?;
        let item = page.pop();
        self.len -= 1;
        if page.is_empty() {
            self.pages.pop();
        }
        item
    }

    /// Bytes held, capacities not lengths.
    pub(crate) fn memory_bytes(&self) -> usize {
        vec_bytes(&self.pages) + self.capacity() * size_of::<T>()
    }

    fn capacity(&self) -> usize {
        let Some(first) = self.pages.first() else { return 0 };
        first.capacity() + (self.pages.len() - 1) * PAGE
    }

    /// Bytes that `additional` more items may add at most.
    pub(crate) fn growth_bytes(&self, additional: usize) -> usize {
        let (capacity, needed) = (self.capacity(), self.len + additional);
        if needed <= capacity {
            return 0;
        }
        let num_pages = needed.div_ceil(PAGE);
        let target = if num_pages > 1 {
            num_pages * PAGE
        } else {
            grown::<PAGE>(capacity, needed - capacity)
        };
        let lists = num_pages.saturating_sub(self.pages.capacity());
        let lists = if lists > 0 { list_growth(self.pages.capacity(), lists) } else { 0 };
        (target - capacity) * size_of::<T>() + lists * size_of::<Vec<T>>()
    }
}

/// Capacity of the first page after growing so that `additional` more items fit.
fn grown<const PAGE: usize>(capacity: usize, additional: usize) -> usize {
    let mut target = capacity;
    while target < capacity + additional {
        target += (target / 4).max(1);
    }
    target.min(PAGE)
}

/// By how many entries a list of pages grows so that `additional` more fit.
fn list_growth(capacity: usize, additional: usize) -> usize {
    let mut target = capacity;
    while target < capacity + additional {
        target += (target / 2).max(1);
    }
    target - capacity
}
