//! Slots in one block of memory, named by index.

use std::ops::{Index, IndexMut};

use crate::memory::advise_large_pages;

/// The name of no slot.
pub const NONE: u32 = u32::MAX;

/// Slots for which address space is reserved at most.
const RESERVED_MAX: usize = 1 << 22;

/// A block of slots. Address space for `capacity` slots is reserved at once, but a page of it (a large one, if the
/// system has them) costs memory only when its first slot is used. A freed slot is the next to be used again.
pub struct Pool<T> {
    slots: Vec<T>,
    free: Vec<u32>,
}

impl<T: Copy> Pool<T> {
    /// An empty pool that will hold about `capacity` slots; it grows beyond that if it must.
    pub fn with_capacity(capacity: usize) -> Self {
        let slots = Vec::with_capacity(capacity.min(RESERVED_MAX));
        advise_large_pages(&slots);
        Self { slots, free: Vec::new() }
    }

    /// Stores a value and returns the name of its slot.
    #[inline]
    pub fn take(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = value;
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("pool: more than 2^32 slots");
        assert!(slot != NONE, "pool: out of names");
        self.slots.push(value);
        slot
    }

    /// Gives a slot back. Its value must not be used again.
    #[inline]
    pub fn give_back(&mut self, slot: u32) {
        debug_assert!((slot as usize) < self.slots.len());
        self.free.push(slot);
    }

    /// Slots in use.
    pub fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl<T> Index<u32> for Pool<T> {
    type Output = T;

    #[inline]
    fn index(&self, slot: u32) -> &T {
        &self.slots[slot as usize]
    }
}

impl<T> IndexMut<u32> for Pool<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.slots[slot as usize]
    }
}
