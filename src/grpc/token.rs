//! Page tokens of `ListUserDialogStats`.
//!
//! A token is a version digit, a checksum over the query that it belongs to
//! and the last dialog's id, and that id, the latter two in hexadecimal. The
//! checksum keeps mistakes out, it is not a secret: a token opens nothing that
//! its query does not.

use crate::event::{DialogId, TenantId, UserId};

const VERSION: &str = "1";
const CHECKSUM_DIGITS: usize = 16;

/// The query that a token belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) user: &'a UserId,
    pub(super) unread_only: bool,
}

impl Scope<'_> {
    /// The token for the page after `last`.
    pub(super) fn token(&self, last: &DialogId) -> String {
        let mut token = format!("{VERSION}{:016x}", self.checksum(last));
        for byte in last.as_str().bytes() {
            token.push_str(&format!("{byte:02x}"));
        }
        token
    }

    /// The last dialog of the page before. `None` when the token is damaged or
    /// belongs to another query.
    pub(super) fn open(&self, token: &str) -> Option<DialogId> {
        let rest = token.strip_prefix(VERSION)?;
        let (checksum, dialog) = rest.split_at_checked(CHECKSUM_DIGITS)?;
        let dialog = DialogId::new(&String::from_utf8(unhex(dialog)?).ok()?).ok()?;
        // Compared as text: one token has one spelling.
        (checksum == format!("{:016x}", self.checksum(&dialog))).then_some(dialog)
    }

    /// FNV-1a over the parts, each led by its length: the same on every
    /// replica and in every release.
    fn checksum(&self, last: &DialogId) -> u64 {
        let parts = [
            VERSION,
            self.tenant.as_str(),
            self.user.as_str(),
            if self.unread_only { "unread" } else { "all" },
            last.as_str(),
        ];
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for part in parts {
            let length = (part.len() as u64).to_be_bytes();
            for byte in length.into_iter().chain(part.bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash
    }
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
