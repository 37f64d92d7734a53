//! Who was asked for last: an exact list, each step of it O(1).

use slab::Slab;

use super::memory::room_for;

/// Stands for no node.
const NO_NODE: u32 = u32::MAX;

/// What can be evicted, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evictable {
    User(u32),
    Dialog(u32),
}

/// An entry in the list, with its neighbours.
#[derive(Debug)]
struct Node {
    entry: Evictable,
    newer: u32,
    older: u32,
}

/// A list of entries, the most recently used first.
#[derive(Debug)]
pub(super) struct LruList {
    nodes: Slab<Node>,
    newest: u32,
    oldest: u32,
}

impl Default for LruList {
    fn default() -> Self {
        Self {
            nodes: Slab::new(),
            newest: NO_NODE,
            oldest: NO_NODE,
        }
    }
}

impl LruList {
    /// Puts an entry first; the number is its place for as long as it is in.
    pub(super) fn add(&mut self, entry: Evictable) -> u32 {
        let node = Node {
            entry,
            newer: NO_NODE,
            older: NO_NODE,
        };
        let place = self.nodes.insert(node) as u32;
        self.link(place);
        place
    }

    /// Moves an entry to the front: it was asked for.
    pub(super) fn touch(&mut self, place: u32) {
        if place != self.newest {
            self.unlink(place);
            self.link(place);
        }
    }

    /// Takes an entry out of the list.
    pub(super) fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.nodes.remove(place as usize);
    }

    /// Returns the least recently used entry.
    pub(super) fn oldest(&self) -> Option<Evictable> {
        self.nodes.get(self.oldest as usize).map(|node| node.entry)
    }

    /// Returns the bytes that the list takes.
    pub(super) fn bytes(&self) -> usize {
        room_for::<(usize, Node)>(self.nodes.capacity())
    }

    fn link(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let node = &mut self.nodes[place as usize];
        (node.newer, node.older) = (NO_NODE, before);
        match self.nodes.get_mut(before as usize) {
            Some(before) => before.newer = place,
            None => self.oldest = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Node { newer, older, .. } = self.nodes[place as usize];
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(mut lru: LruList, places: &[u32]) -> Vec<Evictable> {
        let mut order = Vec::new();
        while let Some(entry) = lru.oldest() {
            let (Evictable::User(n) | Evictable::Dialog(n)) = entry;
            lru.remove(places[n as usize]);
            order.push(entry);
        }
        order
    }

    #[test]
    fn the_one_asked_for_longest_ago_goes_first() {
        let mut lru = LruList::default();
        let entries = [
            Evictable::User(0),
            Evictable::Dialog(1),
            Evictable::User(2),
            Evictable::User(3),
        ];
        let places: Vec<u32> = entries.iter().map(|entry| lru.add(*entry)).collect();
        lru.touch(places[0]);
        lru.touch(places[0]);
        lru.touch(places[2]);
        lru.remove(places[3]);
        let order = in_order(lru, &places);
        assert_eq!(
            order,
            [Evictable::Dialog(1), Evictable::User(0), Evictable::User(2)]
        );
    }
}
