//! Page tokens.
//!
//! A token is a version digit, a checksum over the query that it belongs to
//! and the last entry's place, and that place, the latter two in hexadecimal.
//! The checksum keeps mistakes out, it is not a secret: a token opens nothing
//! that its query does not. In `ListUserDialogStats` the place is the dialog's
//! id, in an order that moves with what sorted the dialog when its page was made.

use crate::event::{DialogId, Micros, TenantId, UserId};
use crate::history::{Origin, Position};
use crate::serving::watching::Since;
use crate::store::commits::Cut;
use crate::store::read::{self, DialogOrder, PlaceInOrder};
use crate::store::rebuild::fence::WriterId;

const VERSION: &str = "1";
const CHECKSUM_DIGITS: usize = 16;

/// The query that a token belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) user: &'a UserId,
    pub(super) unread_only: bool,
}

impl<'a> Scope<'a> {
    /// The token for the page after `last`.
    pub(super) fn token(&self, last: &DialogId) -> String {
        seal(self.checksum(last), last.as_str())
    }

    /// The last dialog of the page before. `None` when the token is damaged or
    /// belongs to another query.
    pub(super) fn open(&self, token: &str) -> Option<DialogId> {
        unseal(token, |dialog| {
            let dialog = DialogId::new(dialog).ok()?;
            Some((self.checksum(&dialog), dialog))
        })
    }

    fn checksum(&self, last: &DialogId) -> u64 {
        checksum(&[
            VERSION,
            self.tenant.as_str(),
            self.user.as_str(),
            self.listed(),
            last.as_str(),
        ])
    }

    /// The token for the page after `last`, in an order that moves.
    pub(super) fn token_in(&self, order: DialogOrder, last: &PlaceInOrder) -> String {
        page(&self.parts_in(order), &spell_in_order(last))
    }

    /// Where the last dialog of the page before stood. `None` when the token is
    /// damaged or belongs to another query, or to another order.
    pub(super) fn open_in(&self, order: DialogOrder, token: &str) -> Option<PlaceInOrder> {
        parse_in_order(&place(&self.parts_in(order), token)?)
    }

    fn parts_in(&self, order: DialogOrder) -> [&'a str; 5] {
        let order = match order {
            DialogOrder::LastMessage => "last message",
            DialogOrder::UnreadFirst => "unread first",
        };
        [
            "user dialogs",
            self.tenant.as_str(),
            self.user.as_str(),
            self.listed(),
            order,
        ]
    }

    fn listed(&self) -> &'static str {
        if self.unread_only { "unread" } else { "all" }
    }
}

/// The token for the page of a history after `last`.
pub(super) fn after(query: &read::History, last: &Position) -> String {
    let place = spell(last);
    seal(history_checksum(query, &place), &place)
}

/// The last entry of the page before. `None` when the token is damaged or
/// belongs to another query.
pub(super) fn reached(query: &read::History, token: &str) -> Option<Position> {
    unseal(token, |place| {
        Some((history_checksum(query, place), parse(place)?))
    })
}

/// The token for the page after `place`, of a query that these parts make up.
pub(super) fn page(query: &[&str], place: &str) -> String {
    seal(page_checksum(query, place), place)
}

/// The place at which the page before ended. `None` when the token is damaged
/// or belongs to another query.
pub(super) fn place(query: &[&str], token: &str) -> Option<String> {
    unseal(token, |place| {
        Some((page_checksum(query, place), place.to_owned()))
    })
}

/// The token from which a stream about a tenant is resumed.
pub(super) fn resume(tenant: &TenantId, since: &Since) -> String {
    let commits = since.cut.iter();
    let commits = commits.map(|(writer, last)| format!(" {writer}:{last}"));
    let Since {
        untold, subjects, ..
    } = since;
    let place = format!("{untold} {subjects}") + &commits.collect::<String>();
    page(&["watch", tenant.as_str()], &place)
}

/// Where a stream about a tenant is resumed. `None` when the token is damaged or
/// belongs to another tenant.
pub(super) fn resumed(tenant: &TenantId, token: &str) -> Option<Since> {
    let place = place(&["watch", tenant.as_str()], token)?;
    let mut parts = place.split(' ');
    let untold = parts.next()?.parse().ok()?;
    let subjects = parts.next()?.parse().ok()?;
    let commit = |part: &str| {
        let (writer, last) = part.split_once(':')?;
        Some((WriterId::parse(writer)?, last.parse().ok()?))
    };
    let cut: Option<Cut> = parts.map(commit).collect();
    Some(Since {
        untold,
        subjects,
        cut: cut?,
    })
}

fn page_checksum(query: &[&str], place: &str) -> u64 {
    checksum(&[&[VERSION], query, &[place]].concat())
}

const ORIGINS: [(&str, Origin); 5] = [
    ("b", Origin::Balance),
    ("e", Origin::Event),
    ("d", Origin::Drift),
    ("r", Origin::Repair),
    ("l", Origin::LastDrift),
];

/// Ids of the bus have no control characters, names of counters none either,
/// and the one in the ids of repairs is another.
const BETWEEN: &str = "\n";

fn spell(position: &Position) -> String {
    let origin = ORIGINS.iter().find(|(_, known)| *known == position.origin);
    let parts = [
        position.order.to_string(),
        position.version.to_string(),
        origin.map_or("", |(name, _)| name).to_owned(),
        position.counter.to_string(),
        position.group.clone(),
    ];
    parts.join(BETWEEN)
}

fn parse(place: &str) -> Option<Position> {
    let mut parts = place.splitn(5, BETWEEN);
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

fn spell_in_order(place: &PlaceInOrder) -> String {
    let state = if place.unread { "unread" } else { "read" };
    let at = place.last_message_at.map(|at| at.get().to_string());
    let parts = [state, &at.unwrap_or_default(), place.dialog.as_str()];
    parts.join(BETWEEN)
}

fn parse_in_order(place: &str) -> Option<PlaceInOrder> {
    let mut parts = place.splitn(3, BETWEEN);
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

fn history_checksum(query: &read::History, place: &str) -> u64 {
    use read::Scope::{Dialog, Message, User, UserInDialog};
    let (kind, ids) = match &query.scope {
        UserInDialog(user, dialog) => ("user in dialog", [user.as_str(), dialog.as_str()]),
        User(user) => ("user", [user.as_str(), ""]),
        Dialog(dialog) => ("dialog", [dialog.as_str(), ""]),
        Message(message) => ("message", [message.as_str(), ""]),
    };
    let time = |at: Option<i64>| at.map(|at| at.to_string()).unwrap_or_default();
    let counter = query.counter.as_ref().map(ToString::to_string);
    let part = &query.part;
    checksum(&[
        VERSION,
        "history",
        query.tenant.as_str(),
        kind,
        ids[0],
        ids[1],
        &counter.unwrap_or_default(),
        &time(part.since),
        &time(part.until),
        if part.newest_first {
            "newest"
        } else {
            "oldest"
        },
        place,
    ])
}

fn seal(checksum: u64, place: &str) -> String {
    let mut token = format!("{VERSION}{checksum:016x}");
    for byte in place.bytes() {
        token.push_str(&format!("{byte:02x}"));
    }
    token
}

/// Opens a token; `read` tells what is in a place, and its checksum.
fn unseal<T>(token: &str, read: impl FnOnce(&str) -> Option<(u64, T)>) -> Option<T> {
    let rest = token.strip_prefix(VERSION)?;
    let (checksum, place) = rest.split_at_checked(CHECKSUM_DIGITS)?;
    let (expected, place) = read(&String::from_utf8(unhex(place)?).ok()?)?;
    // Compared as text: one token has one spelling.
    (checksum == format!("{expected:016x}")).then_some(place)
}

/// FNV-1a over the parts, each led by its length: the same on every replica and
/// in every release.
fn checksum(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        let length = (part.len() as u64).to_be_bytes();
        for byte in length.into_iter().chain(part.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Counter;
    use crate::event::MAX_MICROS;
    use crate::history::PageRequest;

    #[test]
    fn a_token_opens_only_for_its_own_query() {
        let (t, u) = (TenantId::new("t").unwrap(), UserId::new("u").unwrap());
        let (t2, u2) = (TenantId::new("tu").unwrap(), UserId::new("uu").unwrap());
        let scope = |tenant, user, unread_only| Scope {
            tenant,
            user,
            unread_only,
        };
        let ours = scope(&t, &u, true);
        for id in ["d", "d$.|:👍", &"x".repeat(256)] {
            let dialog = DialogId::new(id).unwrap();
            let token = ours.token(&dialog);
            assert_eq!(ours.open(&token).as_ref(), Some(&dialog));
            assert_eq!(scope(&t2, &u, true).open(&token), None);
            assert_eq!(scope(&t, &u2, true).open(&token), None);
            assert_eq!(scope(&t, &u, false).open(&token), None);
        }
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
        let (t, u) = (TenantId::new("t").unwrap(), UserId::new("u").unwrap());
        let other = UserId::new("uu").unwrap();
        let scope = |user, unread_only| Scope {
            tenant: &t,
            user,
            unread_only,
        };
        let ours = scope(&u, false);
        let (last_message, unread_first) = (DialogOrder::LastMessage, DialogOrder::UnreadFirst);
        for last in [
            place_of(true, Some(0), "d"),
            place_of(false, None, "read"),
            place_of(false, Some(MAX_MICROS), "d$.|:👍"),
            place_of(true, Some(7), &"x".repeat(512)),
        ] {
            let token = ours.token_in(last_message, &last);
            assert_eq!(ours.open_in(last_message, &token).as_ref(), Some(&last));
            assert_eq!(ours.open_in(unread_first, &token), None);
            assert_eq!(ours.open(&token), None);
            assert_eq!(scope(&other, false).open_in(last_message, &token), None);
            assert_eq!(scope(&u, true).open_in(last_message, &token), None);
            let shorter = &token[..token.len() - 2];
            assert_eq!(ours.open_in(last_message, shorter), None);
            let by_id = ours.token(&last.dialog);
            assert_eq!(ours.open_in(last_message, &by_id), None);
        }
    }

    #[test]
    fn a_place_that_no_dialog_can_have_is_refused_whatever_its_checksum() {
        let (t, u) = (TenantId::new("t").unwrap(), UserId::new("u").unwrap());
        let scope = Scope {
            tenant: &t,
            user: &u,
            unread_only: false,
        };
        let order = DialogOrder::UnreadFirst;
        let opened = |place: &str| scope.open_in(order, &page(&scope.parts_in(order), place));
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

    fn history(scope: read::Scope, newest_first: bool) -> read::History {
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
        let ours = history(read::Scope::User(u.clone()), true);
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
            let token = after(&ours, &last);
            assert_eq!(reached(&ours, &token).as_ref(), Some(&last));
            let shorter = &token[..token.len() - 2];
            assert_eq!(reached(&ours, shorter), None);
            for other in [
                history(read::Scope::User(u.clone()), false),
                history(read::Scope::UserInDialog(u.clone(), d.clone()), true),
                history(read::Scope::Dialog(DialogId::new("u").unwrap()), true),
            ] {
                assert_eq!(reached(&other, &token), None);
            }
        }
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let (t, u) = (TenantId::new("t").unwrap(), UserId::new("u").unwrap());
        let scope = Scope {
            tenant: &t,
            user: &u,
            unread_only: false,
        };
        let token = scope.token(&DialogId::new("dialog").unwrap());
        let (shorter, upper) = (&token[..token.len() - 1], token.to_uppercase());
        let other_version = token.replacen('1', "2", 1);
        for bad in [
            "",
            "1",
            "junk",
            "é",
            shorter,
            &upper,
            &other_version,
            &format!("{token}00"),
        ] {
            assert_eq!(scope.open(bad), None, "{bad}");
        }
    }
}
