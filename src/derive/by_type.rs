//! Counts by the sender's type, of which a dialog has a handful.

use crate::event::SenderType;

/// Messages by their sender's type. A handful of types at most, so a list.
#[derive(Debug, Clone, Default)]
pub struct ByType(Vec<(SenderType, i64)>);

impl ByType {
    /// Adds to one type's count.
    pub fn add(&mut self, sender_type: &SenderType, count: i64) {
        match self.0.iter_mut().find(|(known, _)| known == sender_type) {
            Some((_, total)) => *total += count,
            None => self.0.push((sender_type.clone(), count)),
        }
    }

    /// Adds the other counts, type by type.
    pub fn add_all(&mut self, other: &ByType) {
        for (sender_type, count) in &other.0 {
            self.add(sender_type, *count);
        }
    }

    /// Returns these counts less the others, type by type; any may be negative.
    pub fn minus(&self, other: &ByType) -> ByType {
        let mut difference = self.clone();
        for (sender_type, count) in &other.0 {
            difference.add(sender_type, -count);
        }
        difference
    }

    /// The count of one type.
    pub fn get(&self, sender_type: &SenderType) -> i64 {
        self.iter()
            .find(|(known, _)| *known == sender_type)
            .map_or(0, |(_, count)| count)
    }

    /// Every type with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (&SenderType, i64)> {
        self.0
            .iter()
            .map(|(sender_type, count)| (sender_type, *count))
    }
}

impl FromIterator<(SenderType, i64)> for ByType {
    fn from_iter<I: IntoIterator<Item = (SenderType, i64)>>(counts: I) -> Self {
        let mut by_type = Self::default();
        for (sender_type, count) in counts {
            by_type.add(&sender_type, count);
        }
        by_type
    }
}

/// Equal when every type has the same count: a type with zero is a type that is
/// not there.
impl PartialEq for ByType {
    fn eq(&self, other: &Self) -> bool {
        self.minus(other).iter().all(|(_, count)| count == 0)
    }
}

impl Eq for ByType {}
