//! From commit records to who is to be told of what. Pure.
//!
//! A record names the dialogs that changed and the users whose share of them did.
//! When what members see of a dialog has changed as well (a message more or less),
//! all members are to be told; when only shares have (somebody has read), those
//! users are. Which of the two it is shows in the dialog's [view](MemberViews), as it was
//! when it was last told of.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::derive::state::DialogKey;
use crate::event::{DialogId, Micros, TenantId, UserId};
use crate::store::commit_log::{ConsumedChanged, DialogChanged, DialogNow, Record, ShareChanged};
use crate::store::read::{Members, PlaceInShares};

/// The most dialogs of which it is remembered how they looked to members, some
/// 150 bytes each. All members of one that is not are told once more than need
/// be.
const MAX_REMEMBERED_DIALOGS: usize = 50_000;

/// How dialogs looked to their members when these were last told.
#[derive(Debug)]
pub(super) struct MemberViews {
    told: LruCache<DialogKey, MemberView>,
    /// Members of a dialog beyond which it, and not each of them, is told of.
    fan_out_limit: i64,
}

/// How a dialog looked to its members at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemberView {
    version: i64,
    looks: u64,
    /// It has too many members to tell each.
    is_large: bool,
}

impl MemberViews {
    pub(super) fn new(fan_out_limit: u32) -> Self {
        let most = NonZeroUsize::new(MAX_REMEMBERED_DIALOGS).unwrap_or(NonZeroUsize::MIN);
        Self {
            told: LruCache::new(most),
            fan_out_limit: fan_out_limit.into(),
        }
    }

    fn view(&self, now: &DialogNow) -> MemberView {
        let is_large = now.members > self.fan_out_limit;
        let counts = now.sequence.iter().filter(|(_, count)| *count != 0);
        let counts: BTreeMap<&str, i64> = counts
            .map(|(sender_type, count)| (sender_type.as_str(), count))
            .collect();
        let mut looks = DefaultHasher::new();
        (counts, now.last_message_at, now.deleted).hash(&mut looks);
        if is_large {
            // What is told of it has these, too.
            (now.messages, now.members, now.topics).hash(&mut looks);
        }
        MemberView {
            version: now.version,
            looks: looks.finish(),
            is_large,
        }
    }

    /// Whether members would see something else than they were told. Those of a
    /// dialog that was large have not been told of what it looks like.
    fn differs(&mut self, key: &DialogKey, view: MemberView) -> bool {
        match self.told.get(key) {
            // What was told was read later than this.
            Some(told) if told.version >= view.version => false,
            Some(told) => told.looks != view.looks || told.is_large != view.is_large,
            None => true,
        }
    }

    /// Takes note of what was told.
    pub(super) fn told(&mut self, gathered: &GatheredChanges) {
        for (key, changed) in &gathered.dialogs {
            let known = self.told.peek(key).map_or(0, |told| told.version);
            if changed.view.version > known {
                self.told.put(key.clone(), changed.view);
            }
        }
    }
}

/// What commit records say that has changed, coalesced.
#[derive(Debug, Default)]
pub(super) struct GatheredChanges {
    dialogs: BTreeMap<DialogKey, ChangedDialog>,
    /// Tenants of which a record says only that something has.
    pub(super) unrecorded: BTreeSet<TenantId>,
    /// When the earliest of the commits was made.
    pub(super) oldest: Option<Micros>,
    /// Messages that it comes to, roughly.
    weight: usize,
}

#[derive(Debug)]
struct ChangedDialog {
    view: MemberView,
    members: i64,
    /// Whether members see something else than they were told.
    is_seen: bool,
    /// The users whose share of the dialog changed.
    shares: BTreeSet<UserId>,
}

impl ChangedDialog {
    /// Messages that it comes to, roughly.
    fn weight(&self) -> usize {
        let told = match (self.is_seen, self.view.is_large) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => usize::try_from(self.members).unwrap_or(0),
        };
        self.shares.len() + told
    }
}

/// A part of what was gathered: some dialogs.
#[derive(Debug)]
pub(super) struct Portion<'g>(Vec<(&'g DialogKey, &'g ChangedDialog)>);

/// Who is to be told of what, of one tenant.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// For each user who is to be told, the dialogs that it is about.
    pub(super) users: BTreeMap<UserId, BTreeSet<DialogId>>,
    /// Dialogs with too many members to tell each of them.
    pub(super) dialogs: BTreeSet<DialogId>,
    /// The versions of dialogs that made it so.
    pub(super) versions: BTreeMap<DialogId, i64>,
}

impl GatheredChanges {
    /// Adds what a commit record says.
    pub(super) fn take(&mut self, record: &Record, views: &mut MemberViews) {
        self.oldest = Some(
            self.oldest
                .map_or(record.at, |oldest| oldest.min(record.at)),
        );
        self.unrecorded.extend(record.untold.iter().cloned());
        for of_dialog in &record.dialogs {
            let view = views.view(&of_dialog.now);
            let members = of_dialog.now.members;
            let changed = self.dialogs.entry(of_dialog.key.clone());
            let changed = changed.or_insert_with(|| ChangedDialog {
                view,
                members,
                is_seen: false,
                shares: BTreeSet::new(),
            });
            let before = changed.weight();
            if view.version > changed.view.version {
                (changed.view, changed.members) = (view, members);
            }
            let differs = views.differs(&of_dialog.key, view);
            changed.is_seen |= differs;
            let is_fan_out = differs && is_fan_out(of_dialog, views.fan_out_limit);
            let told = of_dialog.shares.iter();
            let told = told.filter(|share| !is_fan_out || is_by_themselves(share));
            changed.shares.extend(told.map(|share| share.user.clone()));
            self.weight += changed.weight().saturating_sub(before);
        }
    }

    /// Messages that it comes to, roughly.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// All of it, in portions of so many messages, roughly.
    pub(super) fn portions(&self, most: usize) -> Vec<Portion<'_>> {
        let (mut portions, mut weight) = (vec![Portion(Vec::new())], 0);
        for (key, changed) in &self.dialogs {
            let of_dialog = changed.weight();
            if weight > 0 && weight + of_dialog > most {
                portions.push(Portion(Vec::new()));
                weight = 0;
            }
            weight += of_dialog;
            if let Some(portion) = portions.last_mut() {
                portion.0.push((key, changed));
            }
        }
        portions
    }
}

impl Portion<'_> {
    /// Dialogs whose members are all to be told, by tenant.
    pub(super) fn to_all(&self) -> BTreeMap<TenantId, Vec<DialogId>> {
        let mut of_tenants = BTreeMap::<TenantId, Vec<DialogId>>::new();
        for (key, changed) in &self.0 {
            if changed.is_seen && !changed.view.is_large {
                let of_tenant = of_tenants.entry(key.tenant.clone()).or_default();
                of_tenant.push(key.dialog.clone());
            }
        }
        of_tenants
    }

    /// Who is to be told, given the members of the dialogs [`Portion::to_all`] of
    /// whose members are.
    pub(super) fn due(&self, members: &BTreeMap<TenantId, Members>) -> BTreeMap<TenantId, Due> {
        let mut due = BTreeMap::<TenantId, Due>::new();
        for (key, changed) in &self.0 {
            let of_tenant = due.entry(key.tenant.clone()).or_default();
            let version = changed.view.version;
            of_tenant.versions.insert(key.dialog.clone(), version);
            for user in &changed.shares {
                of_tenant.tell(user, &key.dialog);
            }
            if changed.is_seen && changed.view.is_large {
                of_tenant.dialogs.insert(key.dialog.clone());
            } else if changed.is_seen {
                let members = members.get(&key.tenant);
                let members = members.and_then(|members| members.get(&key.dialog));
                for user in members.into_iter().flatten() {
                    of_tenant.tell(user, &key.dialog);
                }
            }
        }
        due
    }
}

impl Due {
    /// Some shares, whatever has changed about them.
    pub(super) fn of(shares: &[PlaceInShares]) -> Self {
        let mut due = Self::default();
        for PlaceInShares { user, dialog } in shares {
            due.tell(user, dialog);
        }
        due
    }

    fn tell(&mut self, user: &UserId, dialog: &DialogId) {
        let dialogs = self.users.entry(user.clone()).or_default();
        dialogs.insert(dialog.clone());
    }
}

/// Whether a change of a large dialog (a message that is deleted, or comes late)
/// names many of its members: they are not told, as of any message in it.
fn is_fan_out(of_dialog: &DialogChanged, fan_out_limit: i64) -> bool {
    let limit = usize::try_from(fan_out_limit).unwrap_or(usize::MAX);
    of_dialog.now.members > fan_out_limit && of_dialog.shares.len() > limit
}

/// Whether a share changed by what its user did, for certain.
fn is_by_themselves(share: &ShareChanged) -> bool {
    let is_set = matches!(share.consumed, ConsumedChanged::To(_));
    is_set || share.facts.is_some() || share.sent != 0
}
