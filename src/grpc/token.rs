//! Tokens: with the one of an answer, its client asks for what comes after it.
//!
//! A token is a version digit, a checksum over the query that it belongs to and the
//! place at which the answer ends, and that place, the latter two in hexadecimal.
//! The checksum keeps mistakes out, it is not a secret: a token opens nothing that
//! its query does not.

use crate::event::{DialogId, Micros, TenantId};
use crate::history::{Origin, Position};
use crate::serving::watching::ResumePoint;
use crate::store::commit_log::Cut;
use crate::store::read::{self, DialogOrder, PlaceInOrder};
use crate::store::rebuild::fence::WriterId;

/// The version of the spelling of tokens, which begins each of them.
const VERSION: &str = "1";
/// The hexadecimal digits of the checksum.
const CHECKSUM_DIGITS: usize = 16;

/// A query that is answered part by part, each but the last with a token for the
/// next.
pub(super) trait Resumable {
    /// The place at which an answer ends.
    type Place;

    /// What tells this query from all others. Changing it, or the order of it,
    /// makes the tokens that clients have useless.
    fn parts(&self) -> Vec<String>;

    /// A place as text, from which [`parse`](Self::parse) makes the same place.
    fn spell(place: &Self::Place) -> String;

    /// The place that a text stands for; `None`: there is no such place.
    fn parse(text: &str) -> Option<Self::Place>;

    /// The token for what comes after a place.
    fn token(&self, place: &Self::Place) -> String {
        seal(&self.parts(), &Self::spell(place))
    }

    /// The place at which the answer with this token ended. `None` when the token
    /// is damaged or belongs to another query.
    fn place(&self, token: &str) -> Option<Self::Place> {
        let place = token.strip_prefix(VERSION)?.get(CHECKSUM_DIGITS..)?;
        let place = String::from_utf8(hex::decode(place).ok()?).ok()?;
        // Compared as text: one token has one spelling.
        (seal(&self.parts(), &place) == token).then(|| Self::parse(&place))?
    }
}

fn seal(parts: &[String], place: &str) -> String {
    let checksum = checksum(parts, place);
    format!("{VERSION}{checksum:016x}{}", hex::encode(place))
}

/// FNV-1a over the version, the parts and the place, each led by its length: the
/// same on every replica and in every release.
fn checksum(parts: &[String], place: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let parts = parts.iter().map(String::as_str);
    for part in [VERSION].into_iter().chain(parts).chain([place]) {
        let length = (part.len() as u64).to_be_bytes();
        for byte in length.into_iter().chain(part.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// A user's dialogs by id: a page ends with a dialog.
impl Resumable for read::DialogsOfUser {
    type Place = DialogId;

    fn parts(&self) -> Vec<String> {
        vec![
            self.tenant.to_string(),
            self.user.to_string(),
            listed(self.unread_only),
        ]
    }

    fn spell(last: &DialogId) -> String {
        last.to_string()
    }

    fn parse(text: &str) -> Option<DialogId> {
        DialogId::new(text).ok()
    }
}

/// A user's dialogs in an order that moves: a page ends where its last dialog
/// stood when the page was made.
impl Resumable for read::DialogsInOrder {
    type Place = PlaceInOrder;

    fn parts(&self) -> Vec<String> {
        let order = match self.order {
            DialogOrder::LastMessage => "last message",
            DialogOrder::UnreadFirst => "unread first",
        };
        vec![
            "user dialogs".to_owned(),
            self.tenant.to_string(),
            self.user.to_string(),
            listed(self.unread_only),
            order.to_owned(),
        ]
    }

    fn spell(place: &PlaceInOrder) -> String {
        let state = if place.unread { "unread" } else { "read" };
        let at = place.last_message_at.map(|at| at.get().to_string());
        let parts = [state, &at.unwrap_or_default(), place.dialog.as_str()];
        parts.join(SEPARATOR)
    }

    fn parse(text: &str) -> Option<PlaceInOrder> {
        let mut parts = text.splitn(3, SEPARATOR);
        let mut next = || parts.next();
        Some(PlaceInOrder {
            unread: match next()? {
                "unread" => true,
                "read" => false,
                _ => return None,
            },
            last_message_at: match next()? {
                "" => None,
                at => Some(Micros::new(at.parse().ok()?)?),
            },
            dialog: DialogId::new(next()?).ok()?,
        })
    }
}

fn listed(unread_only: bool) -> String {
    if unread_only { "unread" } else { "all" }.to_owned()
}

/// A history: a page ends with an entry.
impl Resumable for read::History {
    type Place = Position;

    fn parts(&self) -> Vec<String> {
        use read::HistoryScope::{Dialog, Message, User, UserInDialog};
        let (kind, ids) = match &self.scope {
            UserInDialog(user, dialog) => ("user in dialog", [user.as_str(), dialog.as_str()]),
            User(user) => ("user", [user.as_str(), ""]),
            Dialog(dialog) => ("dialog", [dialog.as_str(), ""]),
            Message(message) => ("message", [message.as_str(), ""]),
        };
        let time = |at: Option<i64>| at.map(|at| at.to_string()).unwrap_or_default();
        let counter = self.counter.as_ref().map(ToString::to_string);
        let order = match self.part.newest_first {
            true => "newest",
            false => "oldest",
        };
        vec![
            "history".to_owned(),
            self.tenant.to_string(),
            kind.to_owned(),
            ids[0].to_owned(),
            ids[1].to_owned(),
            counter.unwrap_or_default(),
            time(self.part.since),
            time(self.part.until),
            order.to_owned(),
        ]
    }

    fn spell(position: &Position) -> String {
        let origin = ORIGINS.iter().find(|(_, known)| *known == position.origin);
        let parts = [
            position.order.to_string(),
            position.version.to_string(),
            origin.map_or("", |(name, _)| name).to_owned(),
            position.counter.to_string(),
            position.group.clone(),
        ];
        parts.join(SEPARATOR)
    }

    fn parse(text: &str) -> Option<Position> {
        let mut parts = text.splitn(5, SEPARATOR);
        let mut next = || parts.next();
        Some(Position {
            order: next()?.parse().ok()?,
            version: next()?.parse().ok()?,
            origin: {
                let name = next()?;
                ORIGINS.iter().find(|(known, _)| *known == name)?.1
            },
            counter: next()?.parse().ok()?,
            group: next()?.to_owned(),
        })
    }
}

/// The streams about a tenant: a message ends at a cut of the commits.
#[derive(Debug)]
pub(super) struct StreamsOf<'a>(pub(super) &'a TenantId);

impl Resumable for StreamsOf<'_> {
    type Place = ResumePoint;

    fn parts(&self) -> Vec<String> {
        vec!["watch".to_owned(), self.0.to_string()]
    }

    fn spell(since: &ResumePoint) -> String {
        let commits = since.cut.iter();
        let commits = commits.map(|(writer, last)| format!(" {writer}:{last}"));
        let ResumePoint {
            untold, subjects, ..
        } = since;
        format!("{untold} {subjects}") + &commits.collect::<String>()
    }

    fn parse(text: &str) -> Option<ResumePoint> {
        let mut parts = text.split(' ');
        let untold = parts.next()?.parse().ok()?;
        let subjects = parts.next()?.parse().ok()?;
        let commit = |part: &str| {
            let (writer, last) = part.split_once(':')?;
            Some((WriterId::parse(writer)?, last.parse().ok()?))
        };
        let cut: Option<Cut> = parts.map(commit).collect();
        Some(ResumePoint {
            untold,
            subjects,
            cut: cut?,
        })
    }
}

/// The names of origins in tokens.
const ORIGINS: [(&str, Origin); 5] = [
    ("b", Origin::Balance),
    ("e", Origin::Event),
    ("d", Origin::Drift),
    ("r", Origin::Repair),
    ("l", Origin::LastDrift),
];

/// Stands between the parts of a place. Ids of the bus have no control characters,
/// names of counters none either, and the one in the ids of repairs is another.
const SEPARATOR: &str = "\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use crate::event::{MAX_MICROS, UserId};
    use crate::history::PageRequest;

    fn by_id(tenant: &str, user: &str, unread_only: bool) -> read::DialogsOfUser {
        read::DialogsOfUser {
            tenant: TenantId::new(tenant).unwrap(),
            user: UserId::new(user).unwrap(),
            unread_only,
            after: None,
            limit: 1,
        }
    }

    fn in_order(user: &str, unread_only: bool, order: DialogOrder) -> read::DialogsInOrder {
        read::DialogsInOrder {
            tenant: TenantId::new("t").unwrap(),
            user: UserId::new(user).unwrap(),
            order,
            unread_only,
            after: None,
            limit: 1,
        }
    }

    #[test]
    fn a_token_opens_only_for_its_own_query() {
        let ours = by_id("t", "u", true);
        for id in ["d", "d$.|:👍", &"x".repeat(256)] {
            let dialog = DialogId::new(id).unwrap();
            let token = ours.token(&dialog);
            assert_eq!(ours.place(&token).as_ref(), Some(&dialog));
            assert_eq!(by_id("tu", "u", true).place(&token), None);
            assert_eq!(by_id("t", "uu", true).place(&token), None);
            assert_eq!(by_id("t", "u", false).place(&token), None);
        }
    }

    /// Clients keep tokens over an upgrade of the service.
    #[test]
    fn a_token_is_spelled_as_in_every_release() {
        let dialog = DialogId::new("dialog").unwrap();
        let token = by_id("t", "u", false).token(&dialog);
        assert_eq!(token, "154976b1eef6fdfd66469616c6f67");
        let tenant = TenantId::new("t").unwrap();
        let since = ResumePoint {
            untold: 5,
            subjects: 7,
            cut: Cut::default(),
        };
        assert_eq!(StreamsOf(&tenant).token(&since), "1847076f0dba72f83352037");
    }

    fn place_of(unread: bool, at: Option<i64>, dialog: &str) -> PlaceInOrder {
        PlaceInOrder {
            unread,
            last_message_at: at.map(|at| Micros::new(at).unwrap()),
            dialog: DialogId::new(dialog).unwrap(),
        }
    }

    #[test]
    fn a_place_in_an_order_opens_only_for_its_own_query_and_order() {
        use DialogOrder::{LastMessage, UnreadFirst};
        let ours = in_order("u", false, LastMessage);
        for last in [
            place_of(true, Some(0), "d"),
            place_of(false, None, "read"),
            place_of(false, Some(MAX_MICROS), "d$.|:👍"),
            place_of(true, Some(7), &"x".repeat(512)),
        ] {
            let token = ours.token(&last);
            assert_eq!(ours.place(&token).as_ref(), Some(&last));
            for other in [
                in_order("u", false, UnreadFirst),
                in_order("uu", false, LastMessage),
                in_order("u", true, LastMessage),
            ] {
                assert_eq!(other.place(&token), None);
            }
            let shorter = &token[..token.len() - 2];
            assert_eq!(ours.place(shorter), None);
            let by_id = by_id("t", "u", false);
            assert_eq!(by_id.place(&token), None);
            assert_eq!(ours.place(&by_id.token(&last.dialog)), None);
        }
    }

    #[test]
    fn a_place_that_no_dialog_can_have_is_refused_whatever_its_checksum() {
        let query = in_order("u", false, DialogOrder::UnreadFirst);
        let opened = |place: &str| query.place(&seal(&query.parts(), place));
        assert_eq!(opened("read\n5\nd"), Some(place_of(false, Some(5), "d")));
        for bad in [
            "",
            "read",
            "read\n5",
            "read\n5\n",
            "read\n-1\nd",
            "read\nsoon\nd",
            &format!("read\n{}\nd", MAX_MICROS + 1),
            "seen\n5\nd",
            "read\n5\nd\nd",
            &format!("read\n5\n{}", "x".repeat(513)),
        ] {
            assert_eq!(opened(bad), None, "{bad:?}");
        }
    }

    fn history(scope: read::HistoryScope, newest_first: bool) -> read::History {
        read::History {
            tenant: TenantId::new("t").unwrap(),
            scope,
            counter: None,
            part: PageRequest {
                newest_first,
                ..PageRequest::default()
            },
            most: 1,
        }
    }

    #[test]
    fn a_place_in_a_history_opens_only_for_its_own_query() {
        let (u, d) = (UserId::new("u").unwrap(), DialogId::new("d").unwrap());
        let ours = history(read::HistoryScope::User(u.clone()), true);
        let position = |group: &str, origin, counter: Counter| Position {
            order: i64::MIN,
            group: group.into(),
            version: -1,
            origin,
            counter,
        };
        for last in [
            position("", Origin::Balance, Counter::TotalUnread),
            position("d$.|:👍", Origin::Event, Counter::Sent),
            position("\u{1}repair:d:4", Origin::Repair, Counter::Dialogs),
            position("d", Origin::Drift, "reaction_counts.a.$b".parse().unwrap()),
            position(
                "d",
                Origin::LastDrift,
                "status_counts.read".parse().unwrap(),
            ),
        ] {
            let token = ours.token(&last);
            assert_eq!(ours.place(&token).as_ref(), Some(&last));
            let shorter = &token[..token.len() - 2];
            assert_eq!(ours.place(shorter), None);
            for other in [
                history(read::HistoryScope::User(u.clone()), false),
                history(read::HistoryScope::UserInDialog(u.clone(), d.clone()), true),
                history(
                    read::HistoryScope::Dialog(DialogId::new("u").unwrap()),
                    true,
                ),
            ] {
                assert_eq!(other.place(&token), None);
            }
        }
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let query = by_id("t", "u", false);
        let token = query.token(&DialogId::new("dialog").unwrap());
        let (shorter, upper) = (&token[..token.len() - 1], token.to_uppercase());
        let (checksum, place) = token.split_at(1 + CHECKSUM_DIGITS);
        let upper_place = checksum.to_owned() + &place.to_uppercase();
        let other_version = token.replacen('1', "2", 1);
        for bad in [
            "",
            "1",
            "junk",
            "é",
            shorter,
            &upper,
            &upper_place,
            &other_version,
            &format!("{token}00"),
        ] {
            assert_eq!(query.place(bad), None, "{bad}");
        }
    }
}
