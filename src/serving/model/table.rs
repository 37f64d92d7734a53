//! From names to numbers, without the names.

use hashbrown::HashTable;

use super::memory::heap;

/// Numbers, found by the hash of what they stand for. A part of the hash is
/// kept: a table that grows would otherwise look at each thing again, and take
/// as long for it as for a thousand reads.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: HashTable<Slot>,
}

/// A number, and a part of the hash of what it stands for.
#[derive(Debug)]
struct Slot {
    hash: u32,
    number: u32,
}

/// The part that is kept.
fn part(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// As long as a table wants it, which looks at the highest and the lowest bits.
fn spread(part: u32) -> u64 {
    u64::from(part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    /// Returns the number with this hash of which `is_it` is true.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = part(hash);
        let found = self
            .slots
            .find(spread(hash), |slot| slot.hash == hash && is_it(slot.number));
        found.map(|slot| slot.number)
    }

    /// Puts in what is not in it.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        let hash = part(hash);
        let slot = Slot { hash, number };
        self.slots
            .insert_unique(spread(hash), slot, |slot| spread(slot.hash));
    }

    /// Takes a number out of the table.
    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let hash = spread(part(hash));
        if let Ok(slot) = self.slots.find_entry(hash, |slot| slot.number == number) {
            slot.remove();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the bytes that the table takes.
    pub(super) fn bytes(&self) -> usize {
        heap(self.slots.allocation_size())
    }

    /// Returns all numbers, in no order.
    pub(super) fn into_numbers(self) -> impl Iterator<Item = u32> {
        self.slots.into_iter().map(|slot| slot.number)
    }
}
