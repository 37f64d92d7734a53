//! A store as simple as can be: every state that it ever had, and its records.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::derive::state::DialogKey;
use crate::event::{DialogId, Micros, SenderType, TenantId, UserId};
use crate::serving::model::{LoadKeys, LoadedRows};
use crate::store::commit_log::Cut;
use crate::store::commit_log::{
    ConsumedChanged, DialogChanged, DialogNow, Facts, Record, ShareChanged,
};
use crate::store::read::{
    Counts, DialogOrder, DialogRow, DialogStats, DialogsInOrder, DialogsOfUser, DialogsPage,
    MembershipRow, UserDialogStats, UserStats,
};
use crate::store::rebuild::fence::WriterId;

pub(in crate::serving) type Numbered = (WriterId, i64, Arc<Record>);

pub(in crate::serving) fn tenant(n: usize) -> TenantId {
    TenantId::new(&format!("t{n}")).unwrap()
}

pub(in crate::serving) fn user(n: usize) -> UserId {
    UserId::new(&format!("u{n}")).unwrap()
}

pub(in crate::serving) fn dialog(n: usize) -> DialogId {
    DialogId::new(&format!("d{n}")).unwrap()
}

pub(in crate::serving) fn micros(at: i64) -> Micros {
    Micros::new(at).unwrap()
}

/// What happens in a dialog by a user.
#[derive(Debug, Clone, Copy)]
pub(in crate::serving) enum What {
    Send(usize),
    Unsend(usize),
    Join,
    Leave,
    ReadAll,
    /// So many of a type, whether or not there are any.
    Read(usize, i64),
    DeleteDialog,
    Topic,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::serving) struct Happens {
    pub tenant: usize,
    pub user: usize,
    pub dialog: usize,
    pub what: What,
}

/// What a record leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::serving) enum Untold {
    Nothing,
    Of(usize),
}

#[derive(Debug, Clone, Default)]
pub(in crate::serving) struct State {
    pub cut: Cut,
    dialogs: BTreeMap<(TenantId, DialogId), DialogRow>,
    shares: BTreeMap<(TenantId, UserId), BTreeMap<DialogId, MembershipRow>>,
}

pub(in crate::serving) struct Store {
    writers: Vec<WriterId>,
    /// One more than records: the first one is empty.
    pub states: Vec<State>,
    pub records: Vec<Numbered>,
}

fn type_name(n: usize) -> String {
    format!("type{n}")
}

fn by_type(counts: &Counts) -> crate::derive::state::ByType {
    let counts = counts.iter();
    counts
        .map(|(name, count)| (SenderType::new(name).unwrap(), *count))
        .collect()
}

fn add(counts: &mut Counts, name: &str, count: i64) {
    *counts.entry(name.to_owned()).or_default() += count;
    counts.retain(|_, count| *count != 0);
}

impl Store {
    pub(crate) fn new(writers: usize) -> Self {
        Self {
            writers: (0..writers).map(|_| WriterId::unique()).collect(),
            states: vec![State::default()],
            records: Vec::new(),
        }
    }

    pub(crate) fn latest(&self) -> usize {
        self.states.len() - 1
    }

    pub(crate) fn state(&self, n: usize) -> &State {
        &self.states[n]
    }

    /// The records between two states.
    pub(crate) fn between(&self, from: usize, to: usize) -> Vec<Numbered> {
        self.records[from..to].to_vec()
    }

    /// Whether a record between says nothing of a tenant.
    pub(crate) fn untold(&self, tenant: &TenantId, from: usize, to: usize) -> bool {
        let mut records = self.records[from..to].iter();
        records.any(|(_, _, record)| record.untold.contains(tenant))
    }

    pub(crate) fn commit(&mut self, writer: usize, at: i64, happens: &[Happens], untold: Untold) {
        let mut state = self.states[self.latest()].clone();
        let mut changed = BTreeMap::new();
        for happens in happens {
            state.take(happens, micros(at), &mut changed);
        }
        let mut record = Record {
            at: micros(at),
            events: happens.len() as i64,
            dialogs: Vec::new(),
            untold: Vec::new(),
        };
        for (key, mut changed) in changed {
            changed.now = state.now(&key);
            record.dialogs.push(changed);
        }
        if let Untold::Of(n) = untold {
            record
                .dialogs
                .retain(|changed| changed.key.tenant != tenant(n));
            record.untold.push(tenant(n));
        }
        let writer = self.writers[writer % self.writers.len()];
        let number = state.cut.of(writer) + 1;
        state.cut.raise(writer, number);
        self.states.push(state);
        self.records.push((writer, number, Arc::new(record)));
    }
}

type Changed = BTreeMap<(TenantId, DialogId), DialogChanged>;

impl State {
    fn take(&mut self, happens: &Happens, at: Micros, changed: &mut Changed) {
        let key = (tenant(happens.tenant), dialog(happens.dialog));
        let row = self.dialogs.entry(key.clone()).or_default();
        row.version += 1;
        row.updated_at = Some(at);
        let said = changed.entry(key.clone()).or_insert_with(|| DialogChanged {
            key: DialogKey {
                tenant: key.0.clone(),
                dialog: key.1.clone(),
            },
            now: DialogNow::default(),
            shares: Vec::new(),
        });
        match happens.what {
            What::DeleteDialog => return row.deleted = true,
            What::Topic => return row.topics += 1,
            _ => {}
        }
        let user = user(happens.user);
        let shares = self
            .shares
            .entry((key.0.clone(), user.clone()))
            .or_default();
        let share = shares
            .entry(key.1.clone())
            .or_insert_with(|| MembershipRow {
                dialog: key.1.clone(),
                user: user.clone(),
                version: 0,
                member: false,
                joined_at: None,
                read_until: None,
                consumed: Counts::new(),
                sent: 0,
                updated_at: None,
            });
        share.version += 1;
        share.updated_at = Some(at);
        let place = said.shares.iter().position(|said| said.user == user);
        let place = place.unwrap_or_else(|| {
            said.shares.push(ShareChanged {
                user: user.clone(),
                version: 0,
                sent: 0,
                consumed: ConsumedChanged::By(Default::default()),
                facts: None,
            });
            said.shares.len() - 1
        });
        let said = &mut said.shares[place];
        said.version += 1;
        Self::of_share(happens.what, at, row, share, said);
    }

    fn of_share(
        what: What,
        at: Micros,
        row: &mut DialogRow,
        share: &mut MembershipRow,
        said: &mut ShareChanged,
    ) {
        let consumed = match what {
            What::Send(n) => {
                row.messages += 1;
                row.last_message_at = Some(at);
                add(&mut row.sequence, &type_name(n), 1);
                share.sent += 1;
                said.sent += 1;
                Some((type_name(n), 1))
            }
            What::Unsend(n) => {
                row.messages -= 1;
                add(&mut row.sequence, &type_name(n), -1);
                share.sent -= 1;
                said.sent -= 1;
                None
            }
            What::Read(n, count) => Some((type_name(n), count)),
            _ => {
                let is_member = match what {
                    What::Join => true,
                    What::Leave => false,
                    _ => share.member,
                };
                row.members += i64::from(is_member) - i64::from(share.member);
                share.joined_at = is_member.then(|| share.joined_at.unwrap_or(at));
                share.member = is_member;
                if matches!(what, What::ReadAll) {
                    share.read_until = Some(at);
                }
                share.consumed = match is_member {
                    true => row.sequence.clone(),
                    false => Counts::new(),
                };
                said.consumed = ConsumedChanged::To(by_type(&share.consumed));
                said.facts = Some(Facts {
                    joined_at: share.joined_at,
                    read_until: share.read_until,
                });
                return;
            }
        };
        if let Some((name, count)) = consumed {
            add(&mut share.consumed, &name, count);
            let (ConsumedChanged::By(by) | ConsumedChanged::To(by)) = &mut said.consumed;
            by.add(&SenderType::new(&name).unwrap(), count);
        }
    }

    fn now(&self, key: &(TenantId, DialogId)) -> DialogNow {
        let row = &self.dialogs[key];
        DialogNow {
            version: row.version,
            messages: row.messages,
            members: row.members,
            topics: row.topics,
            sequence: by_type(&row.sequence),
            last_message_at: row.last_message_at,
            deleted: row.deleted,
        }
    }

    fn shares(&self, tenant: &TenantId, user: &UserId) -> impl Iterator<Item = &MembershipRow> {
        let shares = self.shares.get(&(tenant.clone(), user.clone()));
        shares.into_iter().flat_map(|shares| shares.values())
    }

    fn row(&self, tenant: &TenantId, dialog: &DialogId) -> Option<&DialogRow> {
        self.dialogs.get(&(tenant.clone(), dialog.clone()))
    }

    /// As it is to be read for a load.
    pub(crate) fn read(&self, tenant: &TenantId, wanted: &LoadKeys) -> LoadedRows {
        let mut loaded = LoadedRows::default();
        let mut dialogs: Vec<DialogId> = wanted.dialogs.clone();
        for user in &wanted.users {
            let shares: Vec<MembershipRow> = self.shares(tenant, user).cloned().collect();
            dialogs.extend(shares.iter().map(|share| share.dialog.clone()));
            loaded.users.push((user.clone(), shares));
        }
        dialogs.sort();
        dialogs.dedup();
        for dialog in dialogs {
            if let Some(row) = self.row(tenant, &dialog) {
                loaded.dialogs.push((dialog, row.clone()));
            }
        }
        loaded
    }

    pub(crate) fn user(&self, tenant: &TenantId, user: &UserId) -> UserStats {
        let mut stats = UserStats::nothing(tenant, user);
        for share in self.shares(tenant, user) {
            stats.add(share, self.row(tenant, &share.dialog));
        }
        stats
    }

    pub(crate) fn in_dialog(
        &self,
        tenant: &TenantId,
        user: &UserId,
        dialog: &DialogId,
    ) -> UserDialogStats {
        let share = self
            .shares(tenant, user)
            .find(|share| share.dialog == *dialog);
        UserDialogStats::of(tenant, user, dialog, share, self.row(tenant, dialog))
    }

    pub(crate) fn dialog(&self, tenant: &TenantId, dialog: &DialogId) -> DialogStats {
        DialogStats::of(tenant, dialog, self.row(tenant, dialog))
    }

    /// All dialogs that a page may have, in an order.
    pub(crate) fn in_order(&self, query: &DialogsInOrder) -> Vec<UserDialogStats> {
        let (tenant, user) = (&query.tenant, &query.user);
        let all = DialogsOfUser {
            tenant: tenant.clone(),
            user: user.clone(),
            unread_only: query.unread_only,
            after: None,
            limit: usize::MAX,
        };
        let mut dialogs = self.page(&all).dialogs;
        dialogs.sort_by_key(|stats| {
            let row = self.row(tenant, &stats.dialog);
            let last_message_at = row.and_then(|row| row.last_message_at);
            let read = query.order == DialogOrder::UnreadFirst && stats.unread == 0;
            (read, Reverse(last_message_at), stats.dialog.clone())
        });
        dialogs
    }

    /// As `store::read` goes about it.
    pub(crate) fn page(&self, query: &DialogsOfUser) -> DialogsPage {
        let mut page = DialogsPage::default();
        for share in self.shares(&query.tenant, &query.user) {
            if query
                .after
                .as_ref()
                .is_some_and(|after| share.dialog <= *after)
            {
                continue;
            }
            let stats = self.in_dialog(&query.tenant, &query.user, &share.dialog);
            if !stats.member || (query.unread_only && stats.unread == 0) {
                continue;
            }
            if page.dialogs.len() == query.limit {
                page.more = true;
                break;
            }
            page.dialogs.push(stats);
        }
        page
    }
}
