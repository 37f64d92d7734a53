//! Where a state stands among all commits.

use std::collections::BTreeMap;

use super::Position;
use crate::store::rebuild::fence::WriterId;

/// For each writer the number of its last commit: all of each commit up to it,
/// nothing of any after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// Never 0: that is what absent ones have.
    commits: BTreeMap<WriterId, i64>,
}

impl Cut {
    /// Returns the number of a writer's last commit; 0 before its first one.
    pub(crate) fn of(&self, writer: WriterId) -> i64 {
        self.commits.get(&writer).copied().unwrap_or(0)
    }

    /// Returns whether every commit of the other cut is in this one.
    pub fn covers(&self, other: &Cut) -> bool {
        other.iter().all(|(writer, last)| self.of(writer) >= last)
    }

    /// Takes a commit in, and all of its writer before it.
    pub(crate) fn raise(&mut self, writer: WriterId, number: i64) {
        if number > self.of(writer) {
            self.commits.insert(writer, number);
        }
    }

    /// Takes in all of the other.
    pub fn join(&mut self, other: &Cut) {
        for (writer, last) in other.iter() {
            self.raise(writer, last);
        }
    }

    /// Returns the writers that have committed, with the number of their last commit.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WriterId, i64)> + '_ {
        self.commits.iter().map(|(writer, last)| (*writer, *last))
    }

    /// Returns the commits that are in `to` and not in this cut, as a range for each writer
    /// that has any: the writer, and the numbers of the first and the last of these commits,
    /// both included.
    pub(crate) fn until<'c>(
        &'c self,
        to: &'c Cut,
    ) -> impl Iterator<Item = (WriterId, i64, i64)> + 'c {
        let ahead = to.iter().map(|(w, last)| (w, self.of(w) + 1, last));
        ahead.filter(|(_, first, last)| first <= last)
    }

    /// Returns how many writers have committed.
    pub fn len(&self) -> usize {
        self.commits.len()
    }

    /// Returns whether nobody has committed anything.
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }
}

impl From<&Position> for Cut {
    fn from(position: &Position) -> Self {
        let mut cut = Self::default();
        for (writer, number) in &position.commits {
            cut.raise(*writer, *number);
        }
        cut
    }
}

impl FromIterator<(WriterId, i64)> for Cut {
    fn from_iter<I: IntoIterator<Item = (WriterId, i64)>>(commits: I) -> Self {
        let mut cut = Self::default();
        for (writer, number) in commits {
            cut.raise(writer, number);
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_covers_another_in_every_writer_or_not_at_all() {
        let (a, b) = (WriterId::unique(), WriterId::unique());
        let one = Cut::from_iter([(a, 3), (b, 0)]);
        let other = Cut::from_iter([(a, 2), (b, 1)]);
        assert_eq!((one.of(a), one.of(b), one.len()), (3, 0, 1));
        assert!(!one.covers(&other) && !other.covers(&one));
        assert!(one.covers(&Cut::default()) && one.covers(&one));
        let mut both = one.clone();
        both.join(&other);
        assert!(both.covers(&one) && both.covers(&other));
        assert_eq!(both, Cut::from_iter([(b, 1), (a, 3)]));
    }

    #[test]
    fn it_does_not_go_back() {
        let a = WriterId::unique();
        let mut cut = Cut::from_iter([(a, 3)]);
        cut.raise(a, 2);
        assert_eq!(cut.of(a), 3);
    }

    #[test]
    fn what_lies_between_is_named_by_writer() {
        let (a, b) = (WriterId::unique(), WriterId::unique());
        let from = Cut::from_iter([(a, 3)]);
        let to = Cut::from_iter([(a, 3), (b, 2)]);
        assert_eq!(from.until(&to).collect::<Vec<_>>(), [(b, 1, 2)]);
        assert_eq!(to.until(&from).count(), 0);
    }
}
