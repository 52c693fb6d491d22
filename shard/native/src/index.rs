//! A hash index: from the hash of a key to the slot where the key and all else is kept.
//!
//! Open addressing with linear probing; a cell is the upper half of the hash and the slot, so a probe touches the slot
//! itself only when 32 bits of hash agree. Cells are zeroed by the operating system: one that was never used costs no
//! memory. Nothing can iterate over an index, so the hash never shows in an outcome.

/// Slots for which cells are reserved at most; an index that gets fuller is built anew at twice the size.
const RESERVED_MAX: usize = 1 << 22;

/// An index of slots.
pub struct Index {
    cells: Vec<u64>,
    mask: usize,
    used: usize,
}

const EMPTY: u64 = 0;

#[inline]
fn tag(hash: u64) -> u64 {
    hash >> 32
}

impl Index {
    /// An empty index that will hold about `capacity` slots.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.min(RESERVED_MAX);
        Self::with_cells((capacity + capacity / 3 + 1).next_power_of_two())
    }

    fn with_cells(cells: usize) -> Self {
        Self { cells: vec![EMPTY; cells], mask: cells - 1, used: 0 }
    }

    #[inline]
    fn home(&self, tag: u64) -> usize {
        tag as usize & self.mask
    }

    /// The slot under `hash` for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let mut at = self.home(tag);
        loop {
            let cell = self.cells[at];
            if cell == EMPTY {
                return None;
            }
            if cell >> 32 == tag {
                let slot = cell as u32 - 1;
                if is_it(slot) {
                    return Some(slot);
                }
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds a slot that is not in the index yet. O(1) but for the one in a doubling that moves them all.
    #[inline]
    pub fn insert(&mut self, hash: u64, slot: u32) {
        self.used += 1;
        if self.used * 4 > self.cells.len() * 3 {
            self.double();
        }
        self.put(tag(hash) << 32 | (u64::from(slot) + 1));
    }

    #[inline]
    fn put(&mut self, cell: u64) {
        let mut at = self.home(cell >> 32);
        while self.cells[at] != EMPTY {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = cell;
    }

    #[cold]
    fn double(&mut self) {
        let larger = Self { used: self.used, ..Self::with_cells(self.cells.len() * 2) };
        for cell in std::mem::replace(self, larger).cells {
            if cell != EMPTY {
                self.put(cell);
            }
        }
    }

    /// Takes out a slot that is in the index; later cells of its run move up, so no tombstones are left.
    #[inline]
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let gone = tag(hash) << 32 | (u64::from(slot) + 1);
        let mut hole = self.home(tag(hash));
        while self.cells[hole] != gone {
            assert!(self.cells[hole] != EMPTY, "index: slot {slot} is not there");
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            let displacement = at.wrapping_sub(self.home(cell >> 32)) & self.mask;
            if displacement >= at.wrapping_sub(hole) & self.mask {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed_however_it_grows_and_hashes_collide() {
        let mut index = Index::with_capacity(10);
        let hash = |slot: u32| u64::from(slot % 7) << 32;
        for slot in 0..100 {
            index.insert(hash(slot), slot);
        }
        for slot in (0..100).step_by(3) {
            index.remove(hash(slot), slot);
        }
        for slot in 0..100 {
            let found = index.find(hash(slot), |other| other == slot);
            assert_eq!(found, (slot % 3 != 0).then_some(slot));
        }
    }

    #[test]
    #[should_panic(expected = "is not there")]
    fn removing_what_is_not_there_is_our_own_mistake() {
        Index::with_capacity(4).remove(1 << 32, 1);
    }
}
