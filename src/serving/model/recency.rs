//! Who was asked for last: an exact list, each step of it O(1).

use slab::Slab;

use super::memory::room_for;

/// No node.
const NONE: u32 = u32::MAX;

/// What can be let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    User(u32),
    Dialog(u32),
}

#[derive(Debug)]
struct Node {
    entry: Entry,
    newer: u32,
    older: u32,
}

/// Entries, the one asked for last first.
#[derive(Debug)]
pub(super) struct Recency {
    nodes: Slab<Node>,
    newest: u32,
    oldest: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Self {
            nodes: Slab::new(),
            newest: NONE,
            oldest: NONE,
        }
    }
}

impl Recency {
    /// Puts an entry first; the number is its place for as long as it is in.
    pub(super) fn add(&mut self, entry: Entry) -> u32 {
        let node = Node {
            entry,
            newer: NONE,
            older: NONE,
        };
        let place = self.nodes.insert(node) as u32;
        self.link(place);
        place
    }

    /// The entry was asked for.
    pub(super) fn touch(&mut self, place: u32) {
        if place != self.newest {
            self.unlink(place);
            self.link(place);
        }
    }

    pub(super) fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.nodes.remove(place as usize);
    }

    /// The one that nobody asked for longest.
    pub(super) fn oldest(&self) -> Option<Entry> {
        self.nodes.get(self.oldest as usize).map(|node| node.entry)
    }

    pub(super) fn bytes(&self) -> usize {
        room_for::<(usize, Node)>(self.nodes.capacity())
    }

    fn link(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let node = &mut self.nodes[place as usize];
        (node.newer, node.older) = (NONE, before);
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

    fn in_order(mut recency: Recency, places: &[u32]) -> Vec<Entry> {
        let mut order = Vec::new();
        while let Some(entry) = recency.oldest() {
            let (Entry::User(n) | Entry::Dialog(n)) = entry;
            recency.remove(places[n as usize]);
            order.push(entry);
        }
        order
    }

    #[test]
    fn the_one_asked_for_longest_ago_goes_first() {
        let mut recency = Recency::default();
        let entries = [
            Entry::User(0),
            Entry::Dialog(1),
            Entry::User(2),
            Entry::User(3),
        ];
        let places: Vec<u32> = entries.iter().map(|entry| recency.add(*entry)).collect();
        recency.touch(places[0]);
        recency.touch(places[0]);
        recency.touch(places[2]);
        recency.remove(places[3]);
        let order = in_order(recency, &places);
        assert_eq!(order, [Entry::Dialog(1), Entry::User(0), Entry::User(2)]);
    }
}
