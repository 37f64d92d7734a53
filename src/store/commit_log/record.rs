//! What one transaction changed of what readers see: pure, and its form as
//! bytes.
//!
//! Of a dialog it has the new counters, whole. Of a share it has mostly by how
//! much it changed, since that is all that a writer knows without reading. So a
//! record is to be applied exactly once, after all that its dialog's version
//! counts from.

use prost::Message as _;

use crate::derive::Changes;
use crate::derive::changes::{Consumed, DialogChange, MembershipChange};
use crate::derive::state::{ByType, DialogKey};
use crate::event::{DialogId, InvalidId, Micros, SenderType, TenantId, UserId};

/// The first byte: which form the others have.
const FORM: u8 = 1;
/// Longest form. What is longer is told without its shares.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// What one transaction changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was written; of all that it changed, the latest write.
    pub at: Micros,
    /// The number of events that the transaction took.
    pub events: i64,
    /// The dialogs that it changed, each once.
    pub dialogs: Vec<DialogChanged>,
    /// Tenants whose changes are not told: all that is known of them is to be
    /// looked at anew.
    pub untold: Vec<TenantId>,
}

/// What changed of a dialog and of users in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialogChanged {
    /// The dialog that changed.
    pub key: DialogKey,
    /// The counters of the dialog after the transaction.
    pub now: DialogNow,
    /// Users whose share of it changed, each once.
    pub shares: Vec<ShareChanged>,
}

/// The counters of a dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialogNow {
    /// Raised with every change of it, its shares, or its messages.
    pub version: i64,
    /// Messages created and not deleted.
    pub messages: i64,
    /// The number of members.
    pub members: i64,
    /// The number of distinct topics.
    pub topics: i64,
    /// Messages that can be unread, by their senders' types.
    pub sequence: ByType,
    /// Time of the latest message.
    pub last_message_at: Option<Micros>,
    /// Whether it was deleted: readers then see zeros.
    pub deleted: bool,
}

/// What changed of a user's share of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareChanged {
    /// The user whose share changed.
    pub user: UserId,
    /// By how much its version was raised.
    pub version: i64,
    /// Messages sent, more or less.
    pub sent: i64,
    /// What of the dialog's sequence is not unread.
    pub consumed: ConsumedChanged,
    /// What is known of the membership now, where that changed.
    pub facts: Option<Facts>,
}

/// How what is not unread changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumedChanged {
    /// The share grows by this much, by sender type.
    By(ByType),
    /// The share is this from now on, by sender type.
    To(ByType),
}

/// A membership, as far as readers see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Since when messages can be unread; `None` for someone who is no member.
    pub joined_at: Option<Micros>,
    /// The time up to which the user has read in bulk.
    pub read_until: Option<Micros>,
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum NotARecord {
    /// Of another form: a later version wrote them.
    #[error("a commit record of form {FORM}, found {0:?}")]
    Form(Option<u8>),
    /// Not even readable.
    #[error("a commit record: {0}")]
    Bytes(#[from] prost::DecodeError),
    /// An id that no event can have.
    #[error("a commit record: {0}")]
    Id(#[from] InvalidId),
    /// A part that each record has.
    #[error("a commit record with {0}, found none")]
    Without(&'static str),
}

impl Record {
    /// What `changes` say that readers see, if they are written at `at`.
    pub fn of(changes: &Changes, at: Micros) -> Self {
        let mut dialogs: Vec<DialogChanged> = changes.dialogs.iter().map(dialog).collect();
        let places = dialogs.iter().enumerate();
        let places: std::collections::HashMap<DialogKey, usize> = places
            .map(|(at, changed)| (changed.key.clone(), at))
            .collect();
        let mut record = Self {
            at,
            events: changes.taken.len() as i64,
            dialogs: Vec::new(),
            untold: Vec::new(),
        };
        for (key, change) in &changes.memberships {
            match places.get(&key.dialog) {
                Some(place) => dialogs[*place].shares.push(share(&key.user, change)),
                // Derive raises a dialog's version with each of its shares.
                None => record.leave_untold(&key.dialog.tenant),
            }
        }
        record.dialogs = dialogs;
        record
    }

    /// Nothing but that something changed about a tenant.
    pub fn of_tenant(tenant: &TenantId, at: Micros) -> Self {
        Self {
            at,
            events: 0,
            dialogs: Vec::new(),
            untold: vec![tenant.clone()],
        }
    }

    fn leave_untold(&mut self, tenant: &TenantId) {
        if !self.untold.contains(tenant) {
            self.untold.push(tenant.clone());
        }
    }

    /// As bytes. What is too much to tell becomes `untold`, here as well.
    pub fn to_bytes(&mut self) -> Vec<u8> {
        let mut wire = wire::Record::from(&*self);
        if wire.encoded_len() > MAX_RECORD_BYTES {
            for changed in std::mem::take(&mut self.dialogs) {
                self.leave_untold(&changed.key.tenant);
            }
            wire = wire::Record::from(&*self);
        }
        let mut bytes = Vec::with_capacity(1 + wire.encoded_len());
        bytes.push(FORM);
        bytes.extend_from_slice(&wire.encode_to_vec());
        bytes
    }

    /// Decodes a record from its bytes.
    ///
    /// # Errors
    /// [`NotARecord`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotARecord> {
        match bytes.split_first() {
            Some((&FORM, rest)) => wire::Record::decode(rest)?.try_into(),
            other => Err(NotARecord::Form(other.map(|(form, _)| *form))),
        }
    }
}

fn dialog((key, change): (&DialogKey, &DialogChange)) -> DialogChanged {
    let now = &change.now;
    DialogChanged {
        key: key.clone(),
        now: DialogNow {
            version: now.version,
            messages: now.messages,
            members: now.members,
            topics: now.topics,
            sequence: now.sequence.clone(),
            last_message_at: now.last_message_at,
            deleted: now.deleted,
        },
        shares: Vec::new(),
    }
}

fn share(user: &UserId, change: &MembershipChange) -> ShareChanged {
    ShareChanged {
        user: user.clone(),
        version: change.version,
        sent: change.sent,
        consumed: match &change.consumed {
            Consumed::Add(by) => ConsumedChanged::By(by.clone()),
            Consumed::Set(to) => ConsumedChanged::To(to.clone()),
        },
        facts: change.facts.as_ref().map(|facts| Facts {
            joined_at: facts.joined_at(),
            read_until: facts.read_until,
        }),
    }
}

/// The form of the bytes. Tags are persisted: never used again for another thing.
mod wire {
    use super::{
        ByType, ConsumedChanged, DialogChanged, DialogId, DialogKey, DialogNow, Facts, Micros,
        NotARecord, SenderType, ShareChanged, TenantId, UserId,
    };

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Record {
        #[prost(int64, tag = "1")]
        at: i64,
        #[prost(int64, tag = "2")]
        events: i64,
        /// Whose dialogs they are: most batches have few tenants.
        #[prost(string, repeated, tag = "3")]
        tenants: Vec<String>,
        #[prost(message, repeated, tag = "4")]
        dialogs: Vec<Dialog>,
        #[prost(string, repeated, tag = "5")]
        untold: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Dialog {
        /// Its place in `tenants`.
        #[prost(uint32, tag = "1")]
        tenant: u32,
        #[prost(string, tag = "2")]
        dialog: String,
        #[prost(int64, tag = "3")]
        version: i64,
        #[prost(int64, tag = "4")]
        messages: i64,
        #[prost(int64, tag = "5")]
        members: i64,
        #[prost(int64, tag = "6")]
        topics: i64,
        #[prost(message, repeated, tag = "7")]
        sequence: Vec<Count>,
        #[prost(int64, optional, tag = "8")]
        last_message_at: Option<i64>,
        #[prost(bool, tag = "9")]
        deleted: bool,
        #[prost(message, repeated, tag = "10")]
        shares: Vec<Share>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Count {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(sint64, tag = "2")]
        count: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Share {
        #[prost(string, tag = "1")]
        user: String,
        #[prost(int64, tag = "2")]
        version: i64,
        #[prost(sint64, tag = "3")]
        sent: i64,
        #[prost(message, repeated, tag = "4")]
        consumed: Vec<Count>,
        /// Whether `consumed` is what it is now, and not by how much it changed.
        #[prost(bool, tag = "5")]
        set: bool,
        #[prost(message, optional, tag = "6")]
        facts: Option<Membership>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Membership {
        #[prost(int64, optional, tag = "1")]
        joined_at: Option<i64>,
        #[prost(int64, optional, tag = "2")]
        read_until: Option<i64>,
    }

    fn counts(by_type: &ByType) -> Vec<Count> {
        let counts = by_type.iter().filter(|(_, count)| *count != 0);
        let counts = counts.map(|(sender_type, count)| Count {
            name: sender_type.as_str().to_owned(),
            count,
        });
        counts.collect()
    }

    fn by_type(counts: Vec<Count>) -> Result<ByType, NotARecord> {
        let counts = counts.into_iter();
        counts
            .map(|count| Ok((SenderType::new(&count.name)?, count.count)))
            .collect()
    }

    fn micros(at: Option<i64>) -> Result<Option<Micros>, NotARecord> {
        at.map(|at| Micros::new(at).ok_or(NotARecord::Without("times within bounds")))
            .transpose()
    }

    impl From<&super::Record> for Record {
        fn from(record: &super::Record) -> Self {
            let mut tenants: Vec<String> = Vec::new();
            let mut dialogs = Vec::with_capacity(record.dialogs.len());
            for changed in &record.dialogs {
                let name = changed.key.tenant.as_str();
                // The latest is mostly it.
                let place = tenants.iter().rposition(|known| known == name);
                let place = place.unwrap_or_else(|| {
                    tenants.push(name.to_owned());
                    tenants.len() - 1
                });
                dialogs.push(Dialog::of(changed, place as u32));
            }
            let untold = record.untold.iter();
            Self {
                at: record.at.get(),
                events: record.events,
                tenants,
                dialogs,
                untold: untold.map(|tenant| tenant.as_str().to_owned()).collect(),
            }
        }
    }

    impl Dialog {
        fn of(changed: &DialogChanged, tenant: u32) -> Self {
            let now = &changed.now;
            Self {
                tenant,
                dialog: changed.key.dialog.as_str().to_owned(),
                version: now.version,
                messages: now.messages,
                members: now.members,
                topics: now.topics,
                sequence: counts(&now.sequence),
                last_message_at: now.last_message_at.map(Micros::get),
                deleted: now.deleted,
                shares: changed.shares.iter().map(Share::from).collect(),
            }
        }

        fn named(self, tenants: &[TenantId]) -> Result<DialogChanged, NotARecord> {
            let tenant = tenants.get(self.tenant as usize);
            Ok(DialogChanged {
                key: DialogKey {
                    tenant: tenant.ok_or(NotARecord::Without("its tenants"))?.clone(),
                    dialog: DialogId::new(&self.dialog)?,
                },
                now: DialogNow {
                    version: self.version,
                    messages: self.messages,
                    members: self.members,
                    topics: self.topics,
                    sequence: by_type(self.sequence)?,
                    last_message_at: micros(self.last_message_at)?,
                    deleted: self.deleted,
                },
                shares: self
                    .shares
                    .into_iter()
                    .map(ShareChanged::try_from)
                    .collect::<Result<_, _>>()?,
            })
        }
    }

    impl From<&ShareChanged> for Share {
        fn from(share: &ShareChanged) -> Self {
            let (consumed, set) = match &share.consumed {
                ConsumedChanged::By(by) => (by, false),
                ConsumedChanged::To(to) => (to, true),
            };
            Self {
                user: share.user.as_str().to_owned(),
                version: share.version,
                sent: share.sent,
                consumed: counts(consumed),
                set,
                facts: share.facts.map(|facts| Membership {
                    joined_at: facts.joined_at.map(Micros::get),
                    read_until: facts.read_until.map(Micros::get),
                }),
            }
        }
    }

    impl TryFrom<Share> for ShareChanged {
        type Error = NotARecord;

        fn try_from(share: Share) -> Result<Self, NotARecord> {
            let consumed = by_type(share.consumed)?;
            let facts = share.facts.map(|facts| {
                Ok::<_, NotARecord>(Facts {
                    joined_at: micros(facts.joined_at)?,
                    read_until: micros(facts.read_until)?,
                })
            });
            Ok(Self {
                user: UserId::new(&share.user)?,
                version: share.version,
                sent: share.sent,
                consumed: match share.set {
                    true => ConsumedChanged::To(consumed),
                    false => ConsumedChanged::By(consumed),
                },
                facts: facts.transpose()?,
            })
        }
    }

    impl TryFrom<Record> for super::Record {
        type Error = NotARecord;

        fn try_from(wire: Record) -> Result<Self, NotARecord> {
            let named = |names: &[String]| -> Result<Vec<TenantId>, NotARecord> {
                names.iter().map(|name| Ok(TenantId::new(name)?)).collect()
            };
            let tenants = named(&wire.tenants)?;
            let dialogs = wire.dialogs.into_iter();
            Ok(Self {
                at: micros(Some(wire.at))?.ok_or(NotARecord::Without("a time"))?,
                events: wire.events,
                dialogs: dialogs
                    .map(|dialog| dialog.named(&tenants))
                    .collect::<Result<_, _>>()?,
                untold: named(&wire.untold)?,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(at: i64) -> Option<Micros> {
        Micros::new(at)
    }

    fn by_type(counts: &[(&str, i64)]) -> ByType {
        let counts = counts.iter();
        counts
            .map(|(name, count)| (SenderType::new(name).unwrap(), *count))
            .collect()
    }

    fn changed(tenant: &str, dialog: &str, shares: Vec<ShareChanged>) -> DialogChanged {
        DialogChanged {
            key: DialogKey {
                tenant: TenantId::new(tenant).unwrap(),
                dialog: DialogId::new(dialog).unwrap(),
            },
            now: DialogNow {
                version: 7,
                messages: 3,
                members: 2,
                topics: 1,
                sequence: by_type(&[("user", 2), ("a.b$", 1)]),
                last_message_at: micros(5),
                deleted: true,
            },
            shares,
        }
    }

    fn share(user: &str, consumed: ConsumedChanged, facts: Option<Facts>) -> ShareChanged {
        ShareChanged {
            user: UserId::new(user).unwrap(),
            version: 2,
            sent: -1,
            consumed,
            facts,
        }
    }

    fn record(dialogs: Vec<DialogChanged>) -> Record {
        Record {
            at: micros(9).unwrap(),
            events: 4,
            dialogs,
            untold: Vec::new(),
        }
    }

    #[test]
    fn bytes_say_all_that_the_record_says() {
        let facts = Facts {
            joined_at: micros(0),
            read_until: None,
        };
        let nobody = Some(Facts::default());
        let shares = vec![
            share("bob", ConsumedChanged::By(by_type(&[("user", -2)])), None),
            share("ann", ConsumedChanged::To(by_type(&[])), Some(facts)),
            share("eve", ConsumedChanged::By(by_type(&[])), nobody),
        ];
        let dialogs = vec![
            changed("t", "d", shares),
            changed("other", "d", Vec::new()),
            changed("t", "\u{1f389}", Vec::new()),
        ];
        let mut told = record(dialogs);
        let bytes = told.to_bytes();
        assert_eq!(Record::from_bytes(&bytes).unwrap(), told);
        let mut untold = Record::of_tenant(&TenantId::new("t").unwrap(), told.at);
        let bytes = untold.to_bytes();
        assert_eq!(Record::from_bytes(&bytes).unwrap(), untold);
    }

    #[test]
    fn what_is_too_much_to_tell_is_looked_at_anew() {
        let many = (0..3_000).map(|n| {
            let user = format!("{n}{}", "x".repeat(400));
            share(&user, ConsumedChanged::By(by_type(&[("user", 1)])), None)
        });
        let mut told = record(vec![changed("t", "d", many.collect())]);
        let bytes = told.to_bytes();
        assert!(bytes.len() < 100, "{}", bytes.len());
        assert_eq!(told.dialogs, []);
        assert_eq!(told.untold, [TenantId::new("t").unwrap()]);
        assert_eq!(Record::from_bytes(&bytes).unwrap(), told);
    }

    #[test]
    fn bytes_of_another_form_are_refused() {
        let mut bytes = record(Vec::new()).to_bytes();
        bytes[0] = 2;
        let error = Record::from_bytes(&bytes).unwrap_err();
        assert!(matches!(error, NotARecord::Form(Some(2))), "{error}");
        assert!(Record::from_bytes(&[]).is_err());
        assert!(Record::from_bytes(&[FORM, 0xff]).is_err());
    }
}
