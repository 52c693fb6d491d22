//! Hash indexes: from a key to the slot where the key and all else is kept. Nothing can iterate over an index, so no hash
//! ever shows in an outcome.

use crate::pool::{NONE, Pool};

const EMPTY: u64 = 0;
const SEGMENT_BITS: u32 = 8;
const CELLS_MIN: usize = 16;

/// An index from the hash of a key to a slot.
///
/// Open addressing with linear probing; a cell is the upper half of the hash and the slot, so a probe touches the slot
/// itself only when 32 bits of hash agree. The first of these bits choose one of 256 segments, which grow one by one: no
/// command ever waits for more than a 256th of the index to be moved.
pub struct Index {
    segments: Vec<Segment>,
}

struct Segment {
    cells: Vec<u64>,
    used: usize,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self { segments: (0..1 << SEGMENT_BITS).map(|_| Segment { cells: vec![EMPTY; CELLS_MIN], used: 0 }).collect() }
    }

    #[inline]
    fn segment(&self, hash: u64) -> &Segment {
        &self.segments[(hash >> (64 - SEGMENT_BITS)) as usize]
    }

    #[inline]
    fn segment_mut(&mut self, hash: u64) -> &mut Segment {
        &mut self.segments[(hash >> (64 - SEGMENT_BITS)) as usize]
    }

    /// The slot under `hash` for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.segment(hash).find(hash >> 32, is_it)
    }

    /// Fetches the memory in which a look-up under `hash` will start; what it returns means nothing.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        let segment = self.segment(hash);
        segment.cells[segment.home(hash >> 32)]
    }

    /// Adds a slot that is not in the index yet.
    #[inline]
    pub fn insert(&mut self, hash: u64, slot: u32) {
        self.segment_mut(hash).insert(cell(hash, slot));
    }

    /// Takes out a slot that is in the index.
    #[inline]
    pub fn remove(&mut self, hash: u64, slot: u32) {
        self.segment_mut(hash).remove(cell(hash, slot));
    }
}

/// Upper half: the tag; lower half: the slot + 1, so that no cell in use is empty.
#[inline]
fn cell(hash: u64, slot: u32) -> u64 {
    hash >> 32 << 32 | (u64::from(slot) + 1)
}

impl Segment {
    /// Where a cell with this tag wants to be.
    #[inline]
    fn home(&self, tag: u64) -> usize {
        tag as usize & (self.cells.len() - 1)
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }

    #[inline]
    fn find(&self, tag: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
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
            at = self.after(at);
        }
    }

    #[inline]
    fn insert(&mut self, cell: u64) {
        self.used += 1;
        if self.used * 4 > self.cells.len() * 3 {
            self.double();
        }
        self.put(cell);
    }

    #[inline]
    fn put(&mut self, cell: u64) {
        let mut at = self.home(cell >> 32);
        while self.cells[at] != EMPTY {
            at = self.after(at);
        }
        self.cells[at] = cell;
    }

    #[cold]
    fn double(&mut self) {
        let larger = vec![EMPTY; self.cells.len() * 2];
        for cell in std::mem::replace(&mut self.cells, larger) {
            if cell != EMPTY {
                self.put(cell);
            }
        }
    }

    /// Later cells of the run move up, so no tombstones are left.
    fn remove(&mut self, gone: u64) {
        let mut hole = self.home(gone >> 32);
        while self.cells[hole] != gone {
            assert!(self.cells[hole] != EMPTY, "index: slot {} is not there", gone as u32 - 1);
            hole = self.after(hole);
        }
        let mut at = self.after(hole);
        while self.cells[at] != EMPTY {
            let distance = |from: usize| at.wrapping_sub(from) & (self.cells.len() - 1);
            if distance(self.home(self.cells[at] >> 32)) >= distance(hole) {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.cells[hole] = EMPTY;
        self.used -= 1;
    }
}

const BLOCK_BITS: u32 = 4;

/// An index from order ids to slots. Ids are given out one after the other, so sixteen neighbours share a block and one
/// cell of a hash index: a new order finds its block where the order before it was put.
pub struct OrderIndex {
    blocks: Pool<Block>,
    by_number: Index,
}

#[derive(Clone, Copy)]
struct Block {
    number: i64,
    used: u32,
    slots: [u32; 1 << BLOCK_BITS],
}

#[inline]
fn place(order_id: i64) -> (i64, usize) {
    (order_id >> BLOCK_BITS, order_id as usize & ((1 << BLOCK_BITS) - 1))
}

/// Order ids are ours to choose: spreading them is enough.
#[inline]
fn spread(number: i64) -> u64 {
    let product = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ product << 32
}

impl OrderIndex {
    /// An empty index that will hold about `capacity` ids.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { blocks: Pool::with_capacity(capacity >> BLOCK_BITS), by_number: Index::new() }
    }

    #[inline]
    fn block(&self, number: i64) -> Option<u32> {
        self.by_number.find(spread(number), |block| self.blocks[block].number == number)
    }

    /// The slot under an order id.
    #[inline]
    pub fn find(&self, order_id: i64) -> Option<u32> {
        let (number, at) = place(order_id);
        let slot = self.blocks[self.block(number)?].slots[at];
        (slot != NONE).then_some(slot)
    }

    /// Adds an order id that is not in the index yet.
    #[inline]
    pub fn insert(&mut self, order_id: i64, slot: u32) {
        let (number, at) = place(order_id);
        let block = self.block(number).unwrap_or_else(|| {
            let block = self.blocks.take(Block { number, used: 0, slots: [NONE; 1 << BLOCK_BITS] });
            self.by_number.insert(spread(number), block);
            block
        });
        let block = &mut self.blocks[block];
        assert!(block.slots[at] == NONE, "index: order {order_id} is there already");
        block.slots[at] = slot;
        block.used += 1;
    }

    /// Takes out an order id that is in the index.
    pub fn remove(&mut self, order_id: i64) {
        let (number, at) = place(order_id);
        let slot = self.block(number).expect("index: an order id that is not there");
        let block = &mut self.blocks[slot];
        assert!(block.slots[at] != NONE, "index: order {order_id} is not there");
        block.slots[at] = NONE;
        block.used -= 1;
        if block.used == 0 {
            self.by_number.remove(spread(number), slot);
            self.blocks.give_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed_however_the_index_grows_and_hashes_collide() {
        let mut index = Index::new();
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
        Index::new().remove(1 << 32, 1);
    }

    #[test]
    fn order_ids_are_found_until_they_are_removed_and_their_blocks_are_used_again() {
        let mut index = OrderIndex::with_capacity(4_000);
        let ids: Vec<i64> =
            (0..4).flat_map(|instrument| (1..1_000).map(move |counter| instrument << 40 | counter)).collect();
        for (slot, &id) in ids.iter().enumerate() {
            index.insert(id, slot as u32);
        }
        for &id in ids.iter().step_by(2) {
            index.remove(id);
        }
        for (slot, &id) in ids.iter().enumerate() {
            assert_eq!(index.find(id), (slot % 2 == 1).then_some(slot as u32));
        }
        ids.iter().skip(1).step_by(2).for_each(|&id| index.remove(id));
        assert_eq!(index.blocks.used(), 0);
    }
}
