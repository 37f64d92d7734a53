//! From commit records to who is to be told of what. Pure.
//!
//! A record names the dialogs that changed and the users whose share of them did.
//! When what members see of a dialog has changed as well (a message more or less),
//! all members are to be told; when only shares have (somebody has read), those
//! users are. Which of the two it is shows in the dialog's [face](Faces), as it was
//! when it was last told of.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::derive::state::DialogKey;
use crate::event::{DialogId, Micros, TenantId, UserId};
use crate::store::commits::{ConsumedChanged, DialogNow, Record, ShareChanged};
use crate::store::read::{Members, PlaceInShares};

/// Dialogs whose faces are remembered, some 150 bytes each. One that is not has all
/// its members told once more than need be.
const FACES: usize = 50_000;

/// What was told of dialogs, as far as members see it.
#[derive(Debug)]
pub(super) struct Faces(LruCache<DialogKey, Face>);

/// How a dialog looked to its members at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Face {
    version: i64,
    looks: u64,
}

impl Face {
    fn of(now: &DialogNow) -> Self {
        let counts = now.sequence.iter().filter(|(_, count)| *count != 0);
        let counts: BTreeMap<&str, i64> = counts
            .map(|(sender_type, count)| (sender_type.as_str(), count))
            .collect();
        let mut looks = DefaultHasher::new();
        (counts, now.last_message_at, now.deleted).hash(&mut looks);
        Self {
            version: now.version,
            looks: looks.finish(),
        }
    }
}

impl Faces {
    pub(super) fn new() -> Self {
        Self(LruCache::new(
            NonZeroUsize::new(FACES).unwrap_or(NonZeroUsize::MIN),
        ))
    }

    /// Whether members would see something else than they were told.
    fn differs(&mut self, key: &DialogKey, face: Face) -> bool {
        match self.0.get(key) {
            // What was told was read later than this.
            Some(told) if told.version >= face.version => false,
            Some(told) => told.looks != face.looks,
            None => true,
        }
    }

    /// Takes note of what was told.
    pub(super) fn told(&mut self, gathered: &Gathered) {
        for (key, changed) in &gathered.dialogs {
            let known = self.0.peek(key).map_or(0, |told| told.version);
            if changed.face.version > known {
                self.0.put(key.clone(), changed.face);
            }
        }
    }
}

/// What commit records say that has changed, coalesced.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    dialogs: BTreeMap<DialogKey, Changed>,
    /// Tenants of which a record says only that something has.
    pub(super) untold: BTreeSet<TenantId>,
    /// When the earliest of the commits was made.
    pub(super) oldest: Option<Micros>,
    /// Messages that it comes to, roughly.
    weight: usize,
}

#[derive(Debug)]
struct Changed {
    face: Face,
    members: i64,
    /// Whether members see something else.
    is_seen: bool,
    /// Those whose share changed, and whether that was only by sending.
    shares: BTreeMap<UserId, bool>,
}

/// Who is to be told of what, of one tenant.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// The dialogs of each user.
    pub(super) users: BTreeMap<UserId, BTreeMap<DialogId, Pair>>,
    /// Dialogs with too many members to tell each of them.
    pub(super) dialogs: BTreeSet<DialogId>,
}

/// Why a user is told of a dialog.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// The version of the dialog that made it so: what is told is of that one or a
    /// later one.
    pub(super) version: i64,
    /// All that the user did was to send messages.
    pub(super) has_only_sent: bool,
}

impl Gathered {
    /// Takes a record in.
    pub(super) fn take(&mut self, record: &Record, faces: &mut Faces, fan_out_limit: i64) {
        self.oldest = Some(
            self.oldest
                .map_or(record.at, |oldest| oldest.min(record.at)),
        );
        self.untold.extend(record.untold.iter().cloned());
        for of_dialog in &record.dialogs {
            let face = Face::of(&of_dialog.now);
            let members = of_dialog.now.members;
            let changed = self.dialogs.entry(of_dialog.key.clone());
            let changed = changed.or_insert_with(|| Changed {
                face,
                members,
                is_seen: false,
                shares: BTreeMap::new(),
            });
            if face.version > changed.face.version {
                (changed.face, changed.members) = (face, members);
            }
            if !changed.is_seen && faces.differs(&of_dialog.key, face) {
                changed.is_seen = true;
                let told = if members > fan_out_limit { 1 } else { members };
                self.weight += usize::try_from(told).unwrap_or(0);
            }
            for share in &of_dialog.shares {
                let has_only_sent = has_only_sent(share);
                let known = changed.shares.entry(share.user.clone());
                self.weight += 1;
                *known.or_insert(has_only_sent) &= has_only_sent;
            }
        }
    }

    /// Messages that it comes to, roughly.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Dialogs whose members are all to be told, by tenant.
    pub(super) fn to_all(&self, fan_out_limit: i64) -> BTreeMap<TenantId, Vec<DialogId>> {
        let mut of_tenants = BTreeMap::<TenantId, Vec<DialogId>>::new();
        for (key, changed) in &self.dialogs {
            if changed.is_seen && changed.members <= fan_out_limit {
                let of_tenant = of_tenants.entry(key.tenant.clone()).or_default();
                of_tenant.push(key.dialog.clone());
            }
        }
        of_tenants
    }

    /// Who is to be told, given the members of the dialogs [`Gathered::to_all`] of
    /// whose members are.
    pub(super) fn due(
        &self,
        members: &BTreeMap<TenantId, Members>,
        fan_out_limit: i64,
    ) -> BTreeMap<TenantId, Due> {
        let mut due = BTreeMap::<TenantId, Due>::new();
        for (key, changed) in &self.dialogs {
            let of_tenant = due.entry(key.tenant.clone()).or_default();
            let version = changed.face.version;
            for (user, has_only_sent) in &changed.shares {
                let pair = Pair {
                    version,
                    has_only_sent: *has_only_sent,
                };
                of_tenant.tell(user, &key.dialog, pair);
            }
            if changed.is_seen && changed.members > fan_out_limit {
                of_tenant.dialogs.insert(key.dialog.clone());
                continue;
            }
            let members = members.get(&key.tenant);
            let members = members.and_then(|members| members.get(&key.dialog));
            for user in members.into_iter().flatten().filter(|_| changed.is_seen) {
                if !changed.shares.contains_key(user) {
                    let has_only_sent = false;
                    let pair = Pair {
                        version,
                        has_only_sent,
                    };
                    of_tenant.tell(user, &key.dialog, pair);
                }
            }
        }
        due
    }
}

impl Due {
    fn tell(&mut self, user: &UserId, dialog: &DialogId, pair: Pair) {
        let dialogs = self.users.entry(user.clone()).or_default();
        dialogs.insert(dialog.clone(), pair);
    }

    /// Has users told of shares, whatever changed.
    pub(super) fn tell_anew(&mut self, shares: &[PlaceInShares]) {
        for PlaceInShares { user, dialog } in shares {
            let dialogs = self.users.entry(user.clone()).or_default();
            let pair = dialogs.entry(dialog.clone()).or_default();
            pair.has_only_sent = false;
        }
    }
}

/// Whether all that changed about a share is what sending messages changes: then
/// what the sender has not read is what it was.
fn has_only_sent(share: &ShareChanged) -> bool {
    let ConsumedChanged::By(by) = &share.consumed else {
        return false;
    };
    let consumed: i64 = by.iter().map(|(_, count)| count).sum();
    share.facts.is_none() && share.sent > 0 && consumed == share.sent
}
