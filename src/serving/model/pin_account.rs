//! The account of pins: how much of the memory those who are pinned take, and
//! what changed about them. It knows entries by their numbers only.

/// What the memory, in bytes, is divided by for the most that those who are pinned may take:
/// half of it, and the rest is for everybody else.
const PINNED_DIVISOR: usize = 2;

/// Somebody, or a dialog, that is held until it is unpinned. Void once everything
/// is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Its number among users, or among dialogs, for as long as it is not void.
    pub number: u32,
    serial: u64,
}

impl Pin {
    /// Tells whether this is one of the pins on an entry.
    pub(super) fn is_on(self, pinned: Option<Pinned>) -> bool {
        pinned.is_some_and(|pinned| pinned.serial == self.serial)
    }
}

/// Explains why somebody is not pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPinned {
    /// They are not held: to be loaded first.
    NotHeld,
    /// Those who are pinned have their share of the memory.
    NoRoom,
}

/// What changed about those who are pinned, by their numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The users, each with the dialog in which something changed for them.
    pub users: Vec<(u32, u32)>,
    /// The dialogs whose own counters changed.
    pub dialogs: Vec<u32>,
}

/// The pins on one entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pinned {
    serial: u64,
    times: u32,
    weight: usize,
}

/// The account of all pins: how much they hold, and what changed about them.
#[derive(Debug, Default)]
pub(super) struct Pins {
    serial: u64,
    entries: usize,
    bytes: usize,
    /// What changed about those who are pinned since this was last asked.
    pub(super) touched: Touched,
    /// Whether pins have become void since this was last asked.
    pub(super) lost: bool,
}

impl Pins {
    /// Notes that one that was pinned is no longer held.
    pub(super) fn lose(&mut self, pinned: Option<Pinned>) {
        if let Some(pinned) = pinned {
            self.entries -= 1;
            self.bytes -= pinned.weight;
            self.lost = true;
        }
    }

    /// Notes that nothing is held any more.
    pub(super) fn lose_all(&mut self) -> Self {
        Self {
            serial: self.serial,
            lost: self.lost || self.entries > 0,
            ..Self::default()
        }
    }

    /// Tells whether nothing is pinned.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Pins the entry under a number. `weight` is what it takes of the memory, in
    /// bytes; `most_bytes` is the memory that there is for everybody.
    ///
    /// # Errors
    /// [`NotPinned::NoRoom`]: it has no pin yet, and those that have take their part.
    pub(super) fn pin(
        &mut self,
        number: u32,
        pinned: &mut Option<Pinned>,
        weight: usize,
        most_bytes: usize,
    ) -> Result<Pin, NotPinned> {
        let serial = match pinned {
            Some(present) => {
                present.times += 1;
                present.serial
            }
            none => {
                let first = self.first(weight, most_bytes)?;
                none.insert(first).serial
            }
        };
        Ok(Pin { number, serial })
    }

    /// Makes the first pin of an entry.
    fn first(&mut self, weight: usize, most_bytes: usize) -> Result<Pinned, NotPinned> {
        if self.bytes + weight > most_bytes / PINNED_DIVISOR {
            return Err(NotPinned::NoRoom);
        }
        self.serial += 1;
        self.entries += 1;
        self.bytes += weight;
        Ok(Pinned {
            serial: self.serial,
            times: 1,
            weight,
        })
    }

    /// Takes a pin off an entry. Returns `true` when it was the last.
    pub(super) fn unpin(&mut self, pinned: &mut Option<Pinned>, pin: Pin) -> bool {
        let Some(present) = pinned.as_mut().filter(|pinned| pin.is_on(Some(**pinned))) else {
            return false;
        };
        present.times -= 1;
        if present.times > 0 {
            return false;
        }
        self.entries -= 1;
        self.bytes -= present.weight;
        *pinned = None;
        true
    }
}
