//! What notifications ask: who is to be told of a change, and what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mongodb::bson::raw::RawDocument;
use mongodb::bson::{Document, doc};

use crate::event::{DialogId, EventId, SenderType, TenantId, UserId};
use crate::store::commit_log::Cut;
use crate::store::documents::decode::{key, text_of, wrong};
use crate::store::documents::id::part;
use crate::store::documents::journal::{self, JournalRecord};
use crate::store::documents::{collection, id, membership, user};

use super::ReadError;
use super::queries::{Query, dialogs_of};
use super::rows::{DialogRow, Malformed};
use super::snapshot::{CHUNK_DOCUMENTS, DIALOG_SEQUENCE, Find, ShareScan, TenantSnapshot, Walk};
use super::stats::{UserDialogStats, UserStats};

/// Users of whom something has changed, and in which dialogs.
#[derive(Debug, Clone)]
pub struct ChangedUsers {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The dialogs of each user.
    pub users: BTreeMap<UserId, BTreeSet<DialogId>>,
}

/// A question whose answer says as of when it is.
#[derive(Debug, Clone)]
pub struct WithCut<Q>(
    /// The question that is answered.
    pub Q,
);

/// As of when an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsOfCut {
    /// The commits that are in it.
    pub cut: Cut,
    /// The epoch of the generations; `None` for an answer from memory, which sees to
    /// it that there is none before what it knows.
    pub epoch: Option<i64>,
}

/// Who is a member of dialogs.
#[derive(Debug, Clone)]
pub struct MembersOf {
    /// The tenant whose dialogs they are.
    pub tenant: TenantId,
    /// The dialogs that are asked about.
    pub dialogs: Vec<DialogId>,
}

/// The members of each dialog that has any.
pub type Members = HashMap<DialogId, Vec<UserId>>;

/// The types that were learnt of users.
#[derive(Debug, Clone)]
pub struct TypesOf {
    /// The tenant whose users they are.
    pub tenant: TenantId,
    /// The users who are asked about.
    pub users: Vec<UserId>,
}

/// Shares in one answer to [`SharesAfter`] at most.
pub const MAX_SHARES_PER_ANSWER: usize = CHUNK_DOCUMENTS;

/// Shares of dialogs by user and dialog, members' or not: a walk through all that
/// a tenant has.
#[derive(Debug, Clone)]
pub struct SharesAfter {
    /// The tenant whose shares they are.
    pub tenant: TenantId,
    /// The last one before them; `None` at the beginning.
    pub after: Option<PlaceInShares>,
    /// At most so many, and no more than [`MAX_SHARES_PER_ANSWER`].
    pub limit: usize,
}

/// A share, by whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaceInShares {
    /// The user whose share it is.
    pub user: UserId,
    /// The dialog that it is a share of.
    pub dialog: DialogId,
}

/// Shares in their order.
pub type SharesOf = Vec<PlaceInShares>;

/// Which events raised dialogs to versions.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The tenant whose dialogs they are.
    pub tenant: TenantId,
    /// The dialogs, each with a version of it.
    pub dialogs: Vec<(DialogId, i64)>,
}

/// The event behind a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The id of the event.
    pub event: EventId,
    /// Its type, by its canonical name.
    pub event_type: String,
}

impl<Q: Query> Query for WithCut<Q> {
    type Answer = (AsOfCut, Q::Answer);

    fn tenant(&self) -> &TenantId {
        self.0.tenant()
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Self::Answer, ReadError> {
        let position = snapshot.position().await?;
        let as_of = AsOfCut {
            cut: Cut::from(&position),
            epoch: Some(position.generations.epoch),
        };
        Ok((as_of, self.0.answer(snapshot).await?))
    }
}

impl Query for ChangedUsers {
    /// Each user's stats, and those in each of the dialogs.
    type Answer = Vec<(UserStats, Vec<UserDialogStats>)>;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Self::Answer, ReadError> {
        let nothing = |user: &UserId| (UserStats::nothing(&self.tenant, user), BTreeMap::new());
        let mut found: BTreeMap<&UserId, (UserStats, BTreeMap<&DialogId, UserDialogStats>)> = self
            .users
            .keys()
            .map(|user| (user, nothing(user)))
            .collect();
        let mut scan = ShareScan::new(self.users.keys().cloned());
        loop {
            let shares = scan.next(&self.tenant, snapshot).await?;
            if shares.is_empty() {
                break;
            }
            let dialogs = dialogs_of(&self.tenant, &shares, snapshot).await?;
            for share in &shares {
                let Some((user, wanted)) = self.users.get_key_value(&share.user) else {
                    continue;
                };
                let Some((stats, in_dialogs)) = found.get_mut(user) else {
                    continue;
                };
                let row = dialogs.get(&share.dialog);
                stats.add(share, row);
                if let Some(dialog) = wanted.get(&share.dialog) {
                    let of = UserDialogStats::of(&self.tenant, user, dialog, Some(share), row);
                    in_dialogs.insert(dialog, of);
                }
            }
        }
        let without = |(user, dialog): (&UserId, &DialogId)| !found[user].1.contains_key(dialog);
        let pairs = self.users.iter();
        let pairs = pairs.flat_map(|(user, dialogs)| dialogs.iter().map(move |d| (user, d)));
        let shareless: Vec<_> = pairs.filter(|pair| without(*pair)).collect();
        let rows = self.rows(&shareless, snapshot).await?;
        for (user, dialog) in shareless {
            let of = UserDialogStats::of(&self.tenant, user, dialog, None, rows.get(dialog));
            if let Some((_, in_dialogs)) = found.get_mut(user) {
                in_dialogs.insert(dialog, of);
            }
        }
        let told = found.into_values();
        Ok(told
            .map(|(user, of)| (user, of.into_values().collect()))
            .collect())
    }
}

impl ChangedUsers {
    /// The dialogs of pairs without a share.
    async fn rows(
        &self,
        pairs: &[(&UserId, &DialogId)],
        snapshot: &mut TenantSnapshot,
    ) -> Result<HashMap<DialogId, DialogRow>, ReadError> {
        let dialogs: BTreeSet<&DialogId> = pairs.iter().map(|(_, dialog)| *dialog).collect();
        let dialogs = dialogs.into_iter();
        snapshot
            .dialogs(&self.tenant, dialogs, DIALOG_SEQUENCE)
            .await
    }
}

impl Query for MembersOf {
    type Answer = Members;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// From an index alone: only members have a mark.
    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Members, ReadError> {
        let mut members = Members::new();
        let dialogs: Vec<&str> = self.dialogs.iter().map(DialogId::as_str).collect();
        let walk = Walk {
            collection: collection::MEMBERSHIPS,
            filter: doc! {
                id::TENANT: self.tenant.as_str(),
                id::DIALOG: { "$in": dialogs },
                membership::MARK: { "$gte": -1_i64 },
            },
            projection: doc! { id::DIALOG: 1, id::USER: 1 },
            sort: None,
            limit: None,
        };
        snapshot
            .walk(walk, |row| {
                let PlaceInShares { user, dialog } = place(row)?;
                members.entry(dialog).or_default().push(user);
                Ok(())
            })
            .await?;
        Ok(members)
    }
}

impl Query for TypesOf {
    type Answer = HashMap<UserId, SenderType>;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Self::Answer, ReadError> {
        let keys = self
            .users
            .iter()
            .map(|user| id::user(&self.tenant, user).document());
        let fields = &[user::TYPED];
        snapshot
            .by_keys(collection::USERS, keys.collect(), fields, |row| {
                let typed = row.get_document(user::TYPED);
                let typed = typed.map_err(|_| wrong(user::TYPED))?;
                let user_type = SenderType::new(text_of(typed, user::TYPE)?)?;
                Ok((UserId::new(key(row, part::USER)?)?, user_type))
            })
            .await
    }
}

impl Query for SharesAfter {
    type Answer = SharesOf;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<SharesOf, ReadError> {
        let mut shares = SharesOf::new();
        let tenant = self.tenant.as_str();
        let of_user = self.after.iter().map(|after| {
            let (user, dialog) = (after.user.as_str(), after.dialog.as_str());
            doc! { id::TENANT: tenant, id::USER: user, id::DIALOG: { "$gt": dialog } }
        });
        let of_others = match &self.after {
            Some(after) => doc! { id::TENANT: tenant, id::USER: { "$gt": after.user.as_str() } },
            None => doc! { id::TENANT: tenant },
        };
        for filter in of_user.chain([of_others]) {
            let left = self
                .limit
                .min(MAX_SHARES_PER_ANSWER)
                .saturating_sub(shares.len());
            if left > 0 {
                shares.extend(snapshot.find(in_order(filter, left), places).await?);
            }
        }
        Ok(shares)
    }
}

fn in_order(filter: Document, limit: usize) -> Find {
    Find {
        collection: collection::MEMBERSHIPS,
        filter,
        fields: &[],
        sort: Some(membership::by_user()),
        limit,
    }
}

fn places(row: &RawDocument) -> Result<PlaceInShares, Malformed> {
    Ok(PlaceInShares {
        user: UserId::new(key(row, part::USER)?)?,
        dialog: DialogId::new(key(row, part::DIALOG)?)?,
    })
}

fn place(row: &RawDocument) -> Result<PlaceInShares, ReadError> {
    places(row).map_err(|reason| ReadError::malformed(collection::MEMBERSHIPS, reason))
}

impl Query for Sources {
    type Answer = HashMap<DialogId, Cause>;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Self::Answer, ReadError> {
        let mut causes = HashMap::new();
        for dialogs in self.dialogs.chunks(CHUNK_DOCUMENTS) {
            let events = dialogs.iter().map(|(dialog, version)| {
                doc! { id::TENANT: self.tenant.as_str(), journal::DIALOG: dialog.as_str(), journal::VERSION: *version }
            });
            let find = Find {
                collection: collection::JOURNAL,
                filter: doc! { "$or": events.collect::<Vec<_>>() },
                fields: &[journal::DIALOG, journal::TYPE],
                sort: None,
                limit: CHUNK_DOCUMENTS,
            };
            let found = snapshot.find(find, |row| {
                let record = JournalRecord::parse(row)?;
                let cause = Cause {
                    event: EventId::new(record.id.event)?,
                    event_type: record.recorded_type.to_owned(),
                };
                let dialog = record.dialog.ok_or_else(|| wrong(journal::DIALOG))?;
                Ok((DialogId::new(dialog)?, cause))
            });
            causes.extend(found.await?);
        }
        Ok(causes)
    }
}
