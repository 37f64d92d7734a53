//! Which of a user's shares, in the order of their dialogs' ids, are such.

use super::memory::room_for;

/// A bit for each rank.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    words: Vec<u64>,
}

impl Ranks {
    /// Makes a set for so many ranks, none of which is in it.
    pub(super) fn none_of(ranks: usize) -> Self {
        Self {
            words: vec![0; ranks.div_ceil(64)],
        }
    }

    /// Says whether a rank is in it.
    pub(super) fn set(&mut self, rank: u32, is_in: bool) {
        let (word, bit) = (rank as usize / 64, 1 << (rank % 64));
        match is_in {
            true => self.words[word] |= bit,
            false => self.words[word] &= !bit,
        }
    }

    /// Makes room at a rank, which is not in it: all from there on move up.
    pub(super) fn open(&mut self, rank: u32, ranks_before: usize) {
        if ranks_before.is_multiple_of(64) {
            self.words.reserve_exact(1);
            self.words.push(0);
        }
        let (first, below) = (rank as usize / 64, (1 << (rank % 64)) - 1);
        let word = self.words[first];
        let mut carried = word >> 63;
        self.words[first] = word & below | (word & !below) << 1;
        for word in &mut self.words[first + 1..] {
            let next = *word >> 63;
            *word = *word << 1 | carried;
            carried = next;
        }
    }

    /// Returns the ranks in it from one on, in order.
    pub(super) fn from(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        let first = rank / 64;
        let words = self.words.iter().enumerate().skip(first);
        words.flat_map(move |(at, word)| {
            let hidden = if at == first { rank % 64 } else { 0 };
            let mut left = word >> hidden << hidden;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }

    /// Returns the bytes that the bits take.
    pub(super) fn bytes(&self) -> usize {
        room_for::<u64>(self.words.capacity())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a list of booleans would have it.
        #[test]
        fn ranks_are_set_and_moved_as_in_a_list(
            mut list in prop::collection::vec(any::<bool>(), 0..200),
            opened in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..90),
            from in any::<prop::sample::Index>(),
        ) {
            let mut ranks = Ranks::none_of(list.len());
            for (rank, is_in) in list.iter().enumerate() {
                ranks.set(rank as u32, *is_in);
            }
            for (at, is_in) in opened {
                let at = at.index(list.len() + 1);
                ranks.open(at as u32, list.len());
                ranks.set(at as u32, is_in);
                list.insert(at, is_in);
            }
            let from = from.index(list.len() + 1);
            let expected: Vec<usize> = (from..list.len()).filter(|rank| list[*rank]).collect();
            prop_assert_eq!(ranks.from(from).collect::<Vec<_>>(), expected);
        }
    }
}
