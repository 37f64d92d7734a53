//! The read model: counters of the users and dialogs that are asked for, moved
//! on by commit records, in so many bytes. Pure: it asks nobody, and knows no
//! time.
//!
//! # What is held
//!
//! Users with all their shares and the totals of these, and dialogs with their
//! counters and who of the users held has a share. So a user is a look-up,
//! whatever the number of dialogs; and a record costs those who are held in the
//! dialogs that changed, never members.
//!
//! Everything held stands at one [`Cut`]. To move on takes all records up to
//! the next one, each once: most say by how much a share changed.
//!
//! # What is not held
//!
//! It is read from the store, as of a moment that has a cut of its own. The
//! read is announced before it begins ([`Model::begin_load`]); from then on
//! records are kept, and when it ends those after the read's cut are applied to
//! what is new. Without that a record that came between the read and its end
//! would be lost for good.
//!
//! # What is forgotten
//!
//! Who was asked for longest ago, when there is no room; a tenant of which a
//! record does not tell; and everything, when something is missing. Those who
//! are watched are [pinned](Model::pin_user): they do not make room.

mod answers;
mod apply;
mod consumed;
mod dialog;
mod entries;
mod loads;
mod lru;
mod memory;
mod orders;
mod pin_account;
mod pins;
mod put_in;
mod ranks;
mod share;
mod table;
mod totals;
mod types;
mod user;
mod visible;

#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use crate::event::TenantId;
use crate::store::commit_log::Record;
use crate::store::rebuild::fence::WriterId;

use crate::store::commit_log::Cut;
use apply::AppliedTo;
use entries::Entries;
use loads::PendingLoads;

pub(crate) use loads::{LoadEnd, LoadKeys, LoadTicket, LoadedRows};
pub(crate) use pin_account::{NotPinned, Pin, Touched};

/// Of the memory, one in so many parts is for the records kept for loads.
const RETAINED_SHARE: usize = 8;
/// The same for the names of senders' types: with more, there is an end to them.
const TYPES_SHARE: usize = 8;
/// The same for one user with all dialogs.
const USER_SHARE: usize = 4;

/// The counters that are kept ready: see the module.
#[derive(Debug)]
pub struct Model {
    most_bytes: usize,
    cut: Cut,
    entries: Entries,
    loads: PendingLoads,
    evictions: u64,
}

/// The users, dialogs and bytes that a model holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// The number of users.
    pub users: usize,
    /// The number of dialogs, of these users or by themselves.
    pub dialogs: usize,
    /// The bytes that all of it takes, with what is kept for loads.
    pub bytes: usize,
    /// The number of users, and of dialogs by themselves, that were evicted for want of
    /// room.
    pub evictions: u64,
}

impl Model {
    /// One that holds nothing, and never more than so many bytes.
    pub fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            cut: Cut::default(),
            entries: Entries::default(),
            loads: PendingLoads::default(),
            evictions: 0,
        }
    }

    /// Returns the cut up to which everything is applied.
    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    /// Whether nothing is held and nothing is being read: then moving on takes
    /// no records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.loads.is_empty()
    }

    /// Returns the bytes that all of it takes.
    pub fn bytes(&self) -> usize {
        self.entries.bytes() + self.loads.bytes()
    }

    /// Returns how much is held.
    pub fn held(&self) -> MemoryUse {
        MemoryUse {
            users: self.entries.users.len(),
            dialogs: self.entries.dialogs.len(),
            bytes: self.bytes(),
            evictions: self.evictions,
        }
    }

    /// Moves on to a later cut. The records are all of those between, in any
    /// order; others among them are passed over. `false` when one is missing:
    /// then everything was forgotten.
    ///
    /// A writer that `to` does not know stays in this cut, and no load as of a
    /// cut without it ends well: when writers are gone for good, [`Model::reset`].
    pub(crate) fn advance(
        &mut self,
        to: &Cut,
        mut records: Vec<(WriterId, i64, Arc<Record>)>,
    ) -> bool {
        if self.is_empty() {
            self.cut.join(to);
            return true;
        }
        records.retain(|(writer, number, _)| {
            (self.cut.of(*writer) + 1..=to.of(*writer)).contains(number)
        });
        records.sort_by_key(|(writer, number, _)| (*writer, *number));
        records.dedup_by_key(|(writer, number, _)| (*writer, *number));
        let between = self.cut.until(to).map(|(_, first, last)| last - first + 1);
        if between.sum::<i64>() != records.len() as i64 {
            let mut to = to.clone();
            to.join(&self.cut);
            self.reset(to);
            return false;
        }
        for tenant in records.iter().flat_map(|(_, _, record)| &record.untold) {
            self.forget_tenant(tenant);
        }
        for (writer, number, record) in &records {
            self.loads.keep(*writer, *number, record);
        }
        let of_all = records.iter().map(|(_, _, record)| &**record);
        let changes = self.entries.pick(of_all, AppliedTo::All);
        self.entries.apply(changes, AppliedTo::All);
        self.cut.join(to);
        self.settle();
        true
    }

    /// Stands at another cut, and forgets everything; loads under way are void.
    pub fn reset(&mut self, to: Cut) {
        self.entries.clear();
        self.loads.void_all();
        self.cut = to;
    }

    /// Forgets all of a tenant; loads of it under way are void.
    pub fn forget_tenant(&mut self, tenant: &TenantId) {
        self.entries.forget_tenant(tenant);
        self.loads.void_of(tenant);
    }

    /// Says who is to be read from the store. To be called before the read
    /// begins: from now on records are kept for it.
    pub fn begin_load(&mut self, tenant: &TenantId, wanted: LoadKeys) -> LoadTicket {
        let load = self.loads.begin(tenant, wanted, self.cut.clone());
        self.settle();
        load
    }

    /// Puts in what was read as of `at`. That must be no later than where this
    /// stands, and no earlier than where it stood when the load began.
    pub fn end_load(&mut self, load: LoadTicket, at: &Cut, loaded: LoadedRows) -> LoadEnd {
        let Some(load) = self.loads.end(&load) else {
            return LoadEnd::Void;
        };
        let in_step = self.cut.covers(at) && at.covers(&load.began_at);
        if in_step {
            self.entries.put_in(&load, at, loaded, &self.loads);
            self.drop_too_large(&load);
        }
        self.loads.trim();
        self.settle();
        match in_step {
            true => self.held_of(load),
            false => LoadEnd::OutOfStep,
        }
    }

    /// Says that a read came to nothing.
    pub fn abandon_load(&mut self, load: LoadTicket) {
        self.loads.end(&load);
        self.loads.trim();
    }

    /// One user would push everybody else out.
    fn drop_too_large(&mut self, load: &loads::PendingLoad) {
        for user in &load.wanted.users {
            if let Some(user) = self.entries.user(&load.tenant, user)
                && self.entries.weight(user) > self.most_bytes / USER_SHARE
            {
                self.entries.remove_user(user);
                self.evictions += 1;
            }
        }
    }

    fn held_of(&self, load: loads::PendingLoad) -> LoadEnd {
        let mut missing = load.wanted;
        let tenant = &load.tenant;
        missing
            .users
            .retain(|id| self.entries.user(tenant, id).is_none());
        missing
            .dialogs
            .retain(|id| self.entries.dialog(tenant, id).is_none());
        match missing.is_empty() {
            true => LoadEnd::Complete,
            false => LoadEnd::Without(missing),
        }
    }

    /// Lets go of what there is no room for.
    fn settle(&mut self) {
        while self.loads.retained_bytes() > self.most_bytes / RETAINED_SHARE
            && self.loads.void_oldest()
        {}
        if self.entries.types.bytes() > self.most_bytes / TYPES_SHARE {
            self.evictions += self.entries.users.len() as u64;
            self.entries.clear();
        }
        while self.bytes() > self.most_bytes {
            if self.entries.evict() {
                self.evictions += 1;
            } else if !self.loads.void_oldest() {
                // Only empty tables are left.
                self.entries.clear();
                return;
            }
        }
    }
}
