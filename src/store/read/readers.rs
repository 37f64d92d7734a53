//! Who has read messages: members and receipts, as [`Readership`] asks for them.

use std::collections::{HashMap, VecDeque};

use mongodb::bson::{Document, doc};

use crate::event::{DialogId, MessageId, Status, TenantId, UserId};
use crate::store::documents::decode::key;
use crate::store::documents::id::part;
use crate::store::documents::{collection, id, membership};

use super::ReadError;
use super::readership::{Asked, Attendance, Readership};
use super::rows::{DialogRow, MessageRow};
use super::snapshot::{Budget, TenantSnapshot, Walk};

/// Receipts in memory at a time. Some 100 bytes each.
const RECEIPTS_PER_PAGE: usize = 10_000;
/// Receipts that one answer goes through. A default deadline of 5 s ends it
/// before that on a slow store; a longer one may use them.
const MAX_RECEIPTS: usize = 500_000;
/// Members of a dialog that pass by in the time in which one is looked up.
const MEMBERS_PASSED_PER_LOOKUP: usize = 6;

/// How many have read each message that counts.
pub(super) async fn count(
    tenant: &TenantId,
    rows: &HashMap<MessageId, MessageRow>,
    dialogs: &HashMap<DialogId, DialogRow>,
    snapshot: &mut TenantSnapshot,
) -> Result<HashMap<MessageId, i64>, ReadError> {
    let asked = rows.iter().filter_map(|(id, row)| asked(id, row, dialogs));
    let asked: Vec<Asked> = asked.collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let budget = Budget::of_reads(MAX_RECEIPTS);
    let mut receipts = Receipts::of(tenant, &asked, rows, budget)?;
    let of_dialog = |dialog| dialogs.get(dialog).map_or(0, |row| row.members);
    let mut reading = Reading {
        tenant,
        readership: Readership::of(asked),
        members: 0,
        snapshot,
    };
    let members: i64 = reading.readership.dialogs().map(of_dialog).sum();
    reading.members = usize::try_from(members).unwrap_or(0);
    loop {
        let more = receipts
            .next(reading.snapshot, &mut reading.readership)
            .await?;
        reading.people().await?;
        reading.readership.settle();
        if !more {
            break;
        }
    }
    reading.members().await?;
    Ok(reading.readership.finish())
}

/// `None` for a message that is gone, or not known yet.
fn asked(
    id: &MessageId,
    row: &MessageRow,
    dialogs: &HashMap<DialogId, DialogRow>,
) -> Option<Asked> {
    let dialog = row.dialog.as_ref()?;
    let gone = row.deleted || dialogs.get(dialog).is_some_and(|dialog| dialog.deleted);
    let (at, sender) = (row.at?, row.sender.as_ref()?);
    (!gone).then(|| Asked {
        message: id.clone(),
        dialog: dialog.clone(),
        at,
        sender: sender.clone(),
    })
}

/// The receipts of messages that were read singly, some at a time.
struct Receipts<'r> {
    tenant: &'r TenantId,
    /// Messages that are left, with as many receipts as are kept of them.
    left: VecDeque<(MessageId, usize)>,
    /// How far the first of them was seen already.
    after: Option<UserId>,
    budget: Budget,
}

impl<'r> Receipts<'r> {
    fn of(
        tenant: &'r TenantId,
        asked: &[Asked],
        rows: &HashMap<MessageId, MessageRow>,
        budget: Budget,
    ) -> Result<Self, ReadError> {
        let read_status = Status::read();
        let left = asked.iter().filter_map(|asked| {
            let read = rows
                .get(&asked.message)?
                .statuses
                .get(read_status.as_str())?;
            let read = usize::try_from(*read).ok().filter(|read| *read > 0)?;
            Some((asked.message.clone(), read))
        });
        let left: VecDeque<_> = left.collect();
        let all = left.iter().map(|(_, read)| *read);
        budget.expect(all.fold(0, usize::saturating_add))?;
        Ok(Self {
            tenant,
            left,
            after: None,
            budget,
        })
    }

    /// Reads the next of them. Tells whether there are more.
    async fn next(
        &mut self,
        snapshot: &mut TenantSnapshot,
        readership: &mut Readership,
    ) -> Result<bool, ReadError> {
        let messages = self.take();
        let Some(last) = messages.last() else {
            return Ok(false);
        };
        // One message may have more than is read at a time: by user, then.
        let one = (messages.len() == 1).then(|| last.clone());
        let ranges = messages.iter().map(|message| self.range(message));
        let ranges: Vec<Document> = ranges.collect();
        let walk = Walk {
            collection: collection::RECEIPTS,
            filter: doc! { "$or": ranges },
            projection: doc! { id::ID: 1 },
            sort: one.as_ref().map(|_| doc! { id::ID: 1 }),
            limit: one.as_ref().map(|_| RECEIPTS_PER_PAGE as i64),
        };
        let (mut found, mut reader) = (0, None);
        let budget = &mut self.budget;
        snapshot
            .walk(walk, |row| {
                budget.take()?;
                let parsed = || -> Result<_, super::Malformed> {
                    let message = MessageId::new(key(row, part::MESSAGE)?)?;
                    Ok((message, UserId::new(key(row, part::USER)?)?))
                };
                let (message, user) =
                    parsed().map_err(|e| ReadError::malformed(collection::RECEIPTS, e))?;
                readership.read_singly(&message, user.clone());
                (found, reader) = (found + 1, Some(user));
                Ok(())
            })
            .await?;
        self.after = None;
        if let Some(message) = one.filter(|_| found == RECEIPTS_PER_PAGE) {
            self.left.push_front((message, RECEIPTS_PER_PAGE));
            self.after = reader;
        }
        Ok(!self.left.is_empty())
    }

    /// As many messages as have a page of receipts, at least one. One that was
    /// begun is taken alone.
    fn take(&mut self) -> Vec<MessageId> {
        let (mut taken, mut expected) = (Vec::new(), 0_usize);
        while let Some((_, receipts)) = self.left.front() {
            expected = expected.saturating_add(*receipts);
            let begun = self.after.is_some();
            if !taken.is_empty() && (expected > RECEIPTS_PER_PAGE || begun) {
                break;
            }
            taken.extend(self.left.pop_front().map(|(message, _)| message));
        }
        taken
    }

    fn range(&self, message: &MessageId) -> Document {
        let read = Status::read();
        let mut range = id::receipts(self.tenant, message, &read).below();
        if let Some(after) = &self.after {
            let seen = id::receipt(self.tenant, message, &read, after);
            range.insert("$gt", seen.document());
        }
        doc! { id::ID: range }
    }
}

/// One count of readers under way.
struct Reading<'r> {
    tenant: &'r TenantId,
    readership: Readership,
    /// Members of all dialogs.
    members: usize,
    snapshot: &'r mut TenantSnapshot,
}

impl Reading<'_> {
    /// Those of the people who are members: looked up, unless it is faster to
    /// have all members pass by.
    async fn people(&mut self) -> Result<(), ReadError> {
        let people = self.readership.people();
        let keys =
            people.map(|(dialog, user)| id::membership(self.tenant, dialog, user).document());
        let keys: Vec<Document> = keys.collect();
        if keys.len().saturating_mul(MEMBERS_PASSED_PER_LOOKUP) > self.members {
            let projection = doc! { id::DIALOG: 1, id::USER: 1, JOINED_AT: 1, MARK: 1 };
            return self.pass(i64::MIN, i64::MAX, projection, true).await;
        }
        let found = self
            .snapshot
            .by_keys(collection::MEMBERSHIPS, keys, &[JOINED_AT, MARK], |row| {
                let of = (
                    DialogId::new(key(row, part::DIALOG)?)?,
                    UserId::new(key(row, part::USER)?)?,
                );
                Ok((of, Attendance::parse(row)?))
            })
            .await?;
        for ((dialog, user), member) in found {
            if let Some(member) = member {
                self.readership.person(&dialog, &user, member);
            }
        }
        Ok(())
    }

    /// All who have read any of the messages in bulk pass by, without names.
    async fn members(&mut self) -> Result<(), ReadError> {
        let times = || self.readership.asked().iter().map(|asked| asked.at.get());
        let (first, last) = (times().min(), times().max());
        let mut projection = doc! { id::ID: 0, JOINED_AT: 1, MARK: 1 };
        if self.readership.dialogs().nth(1).is_some() {
            projection.remove(id::ID);
            projection.insert(id::DIALOG, 1);
        }
        let (first, last) = (first.unwrap_or(i64::MIN), last.unwrap_or(i64::MAX));
        self.pass(first, last, projection, false).await
    }

    /// Members whose mark is not before the one time, and who had joined by the
    /// other. The index of the marks answers by itself.
    async fn pass(
        &mut self,
        mark_from: i64,
        joined_by: i64,
        projection: Document,
        named: bool,
    ) -> Result<(), ReadError> {
        let dialogs: Vec<DialogId> = self.readership.dialogs().cloned().collect();
        let ids: Vec<&str> = dialogs.iter().map(DialogId::as_str).collect();
        let walk = Walk {
            collection: collection::MEMBERSHIPS,
            filter: doc! {
                id::TENANT: self.tenant.as_str(),
                id::DIALOG: { "$in": ids },
                MARK: { "$gte": mark_from },
                JOINED_AT: { "$lte": joined_by },
            },
            projection,
            sort: None,
            limit: None,
        };
        let readership = &mut self.readership;
        self.snapshot
            .walk(walk, |row| {
                let parsed = || -> Result<_, super::Malformed> {
                    let dialog = match dialogs.as_slice() {
                        [one] => one.clone(),
                        _ => DialogId::new(key(row, part::DIALOG)?)?,
                    };
                    let user = match named {
                        true => Some(UserId::new(key(row, part::USER)?)?),
                        false => None,
                    };
                    Ok((dialog, user, Attendance::parse(row)?))
                };
                let parsed =
                    parsed().map_err(|e| ReadError::malformed(collection::MEMBERSHIPS, e))?;
                match parsed {
                    (dialog, Some(user), Some(member)) => readership.person(&dialog, &user, member),
                    (dialog, None, Some(member)) => readership.member(&dialog, member),
                    (_, _, None) => {}
                }
                Ok(())
            })
            .await
    }
}

const JOINED_AT: &str = membership::JOINED_AT;
const MARK: &str = membership::MARK;
