//! Reads of the store that are under way, and the records that came meanwhile.
//!
//! A record that is applied while somebody is read concerns them, and nobody
//! knows yet whether what is read has it. So it is kept until the read ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::{DialogId, TenantId, UserId};
use crate::store::commit_log::Cut;
use crate::store::commit_log::Record;
use crate::store::read::{DialogRow, MembershipRow};
use crate::store::rebuild::fence::WriterId;

use super::memory::{self, heap, room_for, text};

/// The users and dialogs that a load is to read.
#[derive(Debug, Clone, Default)]
pub struct LoadKeys {
    /// The users to read, with all their shares and the dialogs of these.
    pub users: Vec<UserId>,
    /// The dialogs to read by themselves.
    pub dialogs: Vec<DialogId>,
}

/// The rows that a load has read, all as of one moment.
#[derive(Debug, Clone, Default)]
pub struct LoadedRows {
    /// All shares of each user; of a user who has none, none. A user who is not
    /// here was not read.
    pub users: Vec<(UserId, Vec<MembershipRow>)>,
    /// The dialogs of those shares, and those wanted by themselves, as far as
    /// there are any.
    pub dialogs: Vec<(DialogId, DialogRow)>,
}

/// Names a load that is under way, to be ended or abandoned.
#[derive(Debug)]
#[must_use = "what is kept for it stays until it is ended or abandoned"]
pub struct LoadTicket {
    pub(super) number: u64,
}

/// The outcome of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEnd {
    /// All that was wanted is held.
    Complete,
    /// Some is not held: it was not read, or there is no room for it. Whoever
    /// waits for it can be answered from what was read.
    Without(LoadKeys),
    /// What was read is of another time than what is known: of before the load
    /// began, or of after all that was applied. To be read again.
    OutOfStep,
    /// What was known when it began, or what came meanwhile, was forgotten. To
    /// be read again.
    Void,
}

impl LoadKeys {
    /// Tells whether it names nobody.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.dialogs.is_empty()
    }

    /// Splits the keys into parts that take little time each to put in.
    pub fn apart(self) -> Vec<Self> {
        let dialogs = Self {
            dialogs: self.dialogs,
            ..Self::default()
        };
        let users = self.users.into_iter().map(|user| Self {
            users: vec![user],
            ..Self::default()
        });
        let parts = users.chain([dialogs]);
        parts.filter(|part| !part.is_empty()).collect()
    }

    /// Adds the keys of another load.
    pub fn join(&mut self, other: Self) {
        self.users.extend(other.users);
        self.dialogs.extend(other.dialogs);
    }
}

/// Equal by whom it names.
impl PartialEq for LoadKeys {
    fn eq(&self, other: &Self) -> bool {
        (&self.users, &self.dialogs) == (&other.users, &other.dialogs)
    }
}

impl Eq for LoadKeys {}

/// A load that is under way.
#[derive(Debug)]
pub(super) struct PendingLoad {
    pub(super) tenant: TenantId,
    pub(super) wanted: LoadKeys,
    /// Where the model stood when it began.
    pub(super) began_at: Cut,
    /// The first record that came after that.
    from: u64,
    bytes: usize,
}

/// A record that was applied while loads were under way.
#[derive(Debug)]
pub(super) struct RetainedRecord {
    pub(super) writer: WriterId,
    pub(super) number: i64,
    pub(super) record: Arc<Record>,
    bytes: usize,
}

/// All loads, by number; a later one has a higher number.
#[derive(Debug, Default)]
pub(super) struct PendingLoads {
    next: u64,
    pending: BTreeMap<u64, PendingLoad>,
    kept: VecDeque<RetainedRecord>,
    /// Records that were kept and no longer are.
    dropped: u64,
    retained_bytes: usize,
    bytes: usize,
}

impl PendingLoad {
    fn weigh(&self) -> usize {
        let LoadKeys { users, dialogs } = &self.wanted;
        let users: usize = users.iter().map(|id| 16 + text(id.as_str())).sum();
        let dialogs: usize = dialogs.iter().map(|id| 16 + text(id.as_str())).sum();
        let cut = self.began_at.len() * 2 * size_of::<(WriterId, i64)>();
        2 * size_of::<Self>() + users + dialogs + cut
    }
}

impl PendingLoads {
    /// Tells whether no load is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the bytes that loads and the records kept for them take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.retained_bytes()
    }

    /// Returns the bytes that the retained records take.
    pub(super) fn retained_bytes(&self) -> usize {
        self.retained_bytes + room_for::<RetainedRecord>(self.kept.capacity())
    }

    /// Begins a load of these keys, with the model at this cut.
    pub(super) fn begin(
        &mut self,
        tenant: &TenantId,
        wanted: LoadKeys,
        began_at: Cut,
    ) -> LoadTicket {
        let mut load = PendingLoad {
            tenant: tenant.clone(),
            wanted,
            began_at,
            from: self.dropped + self.kept.len() as u64,
            bytes: 0,
        };
        load.bytes = load.weigh();
        self.bytes += load.bytes;
        let number = self.next;
        self.next += 1;
        self.pending.insert(number, load);
        LoadTicket { number }
    }

    /// Keeps a record that is applied, if a load is under way.
    pub(super) fn keep(&mut self, writer: WriterId, number: i64, record: &Arc<Record>) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = heap(2 * size_of::<usize>()) + memory::record(record);
        self.retained_bytes += bytes;
        self.kept.push_back(RetainedRecord {
            writer,
            number,
            record: record.clone(),
            bytes,
        });
    }

    /// Takes a load out, with the records that came since it began; `None` when
    /// it is void. What is kept for nobody else is to be dropped later.
    pub(super) fn end(&mut self, load: &LoadTicket) -> Option<PendingLoad> {
        let load = self.pending.remove(&load.number)?;
        self.bytes -= load.bytes;
        Some(load)
    }

    /// Returns the records that came since a load began.
    pub(super) fn since(
        &self,
        load: &PendingLoad,
    ) -> impl Iterator<Item = &RetainedRecord> + Clone {
        let skipped = load.from - self.dropped;
        self.kept.range(skipped as usize..)
    }

    /// Drops records that are kept for nobody.
    pub(super) fn trim(&mut self) {
        let end = self.dropped + self.kept.len() as u64;
        // Loads begin one after another: the first one needs most.
        let first = self.pending.values().next();
        let needed = first.map_or(end, |load| load.from);
        for kept in self.kept.drain(..(needed - self.dropped) as usize) {
            self.retained_bytes -= kept.bytes;
        }
        self.dropped = needed;
        if self.kept.len() < self.kept.capacity() / 4 {
            self.kept.shrink_to(self.kept.len() * 2);
        }
    }

    /// Makes the load void that needs most records; `false` when there is none.
    pub(super) fn void_oldest(&mut self) -> bool {
        let oldest = self.pending.pop_first();
        self.bytes -= oldest.as_ref().map_or(0, |(_, load)| load.bytes);
        self.trim();
        oldest.is_some()
    }

    /// Makes all loads of a tenant void.
    pub(super) fn void_of(&mut self, tenant: &TenantId) {
        let bytes = &mut self.bytes;
        self.pending.retain(|_, load| {
            let stays = load.tenant != *tenant;
            *bytes -= if stays { 0 } else { load.bytes };
            stays
        });
        self.trim();
    }

    /// Makes all loads void, for everything was forgotten.
    pub(super) fn void_all(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::default()
        };
    }

    /// What the records alone take, after all sums were summed up.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let loads: usize = self.pending.values().map(|load| load.bytes).sum();
        let kept: usize = self.kept.iter().map(|kept| kept.bytes).sum();
        assert_eq!((self.bytes, self.retained_bytes), (loads, kept));
        kept
    }
}
