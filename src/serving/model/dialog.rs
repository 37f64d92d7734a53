//! A dialog that is held.

use crate::event::{DialogId, Micros, TenantId};
use crate::store::commit_log::DialogNow;
use crate::store::read::{Counts, DialogRow, DialogStats};

use super::memory::{heap, room_for, text};
use super::pin_account::Pinned;
use super::types::{TypeId, Types};

/// A point in time, or none: as small as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(i64);

impl Moment {
    /// Before all others, as `None` is.
    pub(super) const NONE: Self = Self(-1);

    /// Returns the point in time, if it is one.
    pub(super) fn get(self) -> Option<Micros> {
        Micros::new(self.0)
    }
}

impl From<Option<Micros>> for Moment {
    fn from(at: Option<Micros>) -> Self {
        at.map_or(Self::NONE, |at| Self(at.get()))
    }
}

/// The counters of a dialog, and who of those held has a share of it.
#[derive(Debug)]
pub(super) struct Dialog {
    /// The number of the tenant.
    pub(super) tenant: u32,
    pub(super) id: DialogId,
    /// Its place among what can be let go, while nobody who is held has a share.
    pub(super) place: Option<u32>,
    /// Whether it may be let go at all.
    pub(super) pinned: Option<Pinned>,
    /// Whether it was asked for by itself.
    pub(super) asked: bool,
    pub(super) deleted: bool,
    pub(super) version: i64,
    pub(super) messages: i64,
    pub(super) members: i64,
    pub(super) topics: i64,
    pub(super) last_message_at: Moment,
    pub(super) updated_at: Moment,
    /// By type of sender; shares count in this order. A type stays in it.
    pub(super) sequence: Vec<(TypeId, i64)>,
    /// The users held who have a share of the dialog.
    pub(super) sharers: Vec<Sharer>,
}

/// A user who is held and has a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sharer {
    /// The number of the user.
    pub(super) user: u32,
    /// Which of the user's shares.
    pub(super) share: u32,
}

impl Dialog {
    /// Makes a dialog of which nothing was ever heard.
    pub(super) fn new(tenant: u32, id: DialogId) -> Self {
        Self {
            tenant,
            id,
            place: None,
            pinned: None,
            asked: false,
            deleted: false,
            version: 0,
            messages: 0,
            members: 0,
            topics: 0,
            last_message_at: Moment::NONE,
            updated_at: Moment::NONE,
            sequence: Vec::new(),
            sharers: Vec::new(),
        }
    }

    /// Takes over what was read.
    pub(super) fn read(&mut self, row: &DialogRow, types: &mut Types) {
        self.version = row.version;
        self.messages = row.messages;
        self.members = row.members;
        self.topics = row.topics;
        self.last_message_at = row.last_message_at.into();
        self.deleted = row.deleted;
        self.updated_at = row.updated_at.into();
        self.sequence.reserve_exact(row.sequence.len());
        for (name, count) in &row.sequence {
            let place = self.place_of(name, types);
            self.sequence[place].1 = *count;
        }
    }

    /// Takes over what a commit made of it.
    pub(super) fn became(&mut self, now: &DialogNow, at: Micros, types: &mut Types) {
        self.version = now.version;
        self.messages = now.messages;
        self.members = now.members;
        self.topics = now.topics;
        self.last_message_at = now.last_message_at.into();
        self.deleted = now.deleted;
        self.updated_at = Some(at).into();
        for (_, count) in &mut self.sequence {
            *count = 0;
        }
        for (name, count) in now.sequence.iter() {
            let place = self.place_of(name.as_str(), types);
            self.sequence[place].1 = count;
        }
    }

    /// Returns the place of a type in the sequence.
    pub(super) fn place_of(&mut self, name: &str, types: &mut Types) -> usize {
        let mut known = self.sequence.iter();
        if let Some(place) = known.position(|(id, _)| types.name(*id) == name) {
            return place;
        }
        self.sequence.reserve_exact(1);
        self.sequence.push((types.id(name), 0));
        self.sequence.len() - 1
    }

    /// Returns the counters of the dialog.
    pub(super) fn stats(&self, tenant: &TenantId) -> DialogStats {
        let row = DialogRow {
            version: self.version,
            messages: self.messages,
            members: self.members,
            topics: self.topics,
            sequence: Counts::new(),
            last_message_at: self.last_message_at.get(),
            deleted: self.deleted,
            updated_at: self.updated_at.get(),
        };
        DialogStats::of(tenant, &self.id, Some(&row))
    }

    /// Returns the bytes that it takes, without its slots in tables.
    pub(super) fn bytes(&self) -> usize {
        heap(size_of::<Self>())
            + text(self.id.as_str())
            + room_for::<(TypeId, i64)>(self.sequence.capacity())
            + room_for::<Sharer>(self.sharers.capacity())
    }
}
