//! Splitting users into portions that are asked about and published together.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{DialogId, UserId};

/// The most users and dialogs of users in one portion.
pub(super) const MAX_PORTION: usize = 500;

/// Users with the dialogs that they are told of.
pub(super) type Users = BTreeMap<UserId, BTreeSet<DialogId>>;

/// Splits users into portions; one user with very many dialogs is in several.
pub(super) fn portions(users: Users) -> Vec<Users> {
    let (mut portions, mut portion, mut size) = (Vec::new(), Users::new(), 0);
    for (user, mut dialogs) in users {
        while size + 1 + dialogs.len() > MAX_PORTION {
            let room = MAX_PORTION.saturating_sub(size + 1);
            let rest = match dialogs.iter().nth(room).cloned() {
                Some(first) => dialogs.split_off(&first),
                None => break,
            };
            if room > 0 {
                portion.insert(user.clone(), dialogs);
            }
            dialogs = rest;
            portions.push(std::mem::take(&mut portion));
            size = 0;
        }
        size += 1 + dialogs.len();
        portion.insert(user, dialogs);
    }
    if !portion.is_empty() {
        portions.push(portion);
    }
    portions
}

/// Splits users into two parts.
pub(super) fn halves(mut users: Users) -> [Users; 2] {
    let middle = users.keys().nth(users.len() / 2).cloned();
    let rest = middle.map(|first| users.split_off(&first));
    [users, rest.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(of: &[(&str, usize)]) -> Users {
        let user = |(name, dialogs): &(&str, usize)| {
            let dialogs = (0..*dialogs).map(|n| DialogId::new(&format!("d{n:05}")).unwrap());
            (UserId::new(name).unwrap(), dialogs.collect())
        };
        of.iter().map(user).collect()
    }

    #[test]
    fn portions_have_everything_and_are_small() {
        for of in [
            &[][..],
            &[("a", 1)],
            &[("a", 0), ("b", MAX_PORTION - 2), ("c", 1)],
            &[("a", 300), ("b", 300), ("c", 300)],
            &[
                ("a", MAX_PORTION - 1),
                ("b", MAX_PORTION),
                ("c", MAX_PORTION + 1),
            ],
            &[("a", 7 * MAX_PORTION), ("b", 3)],
        ] {
            let all = users(of);
            let mut joined = Users::new();
            for portion in portions(all.clone()) {
                let size: usize = portion.values().map(|dialogs| 1 + dialogs.len()).sum();
                assert!((1..=MAX_PORTION).contains(&size), "{size}");
                for (user, dialogs) in portion {
                    joined.entry(user).or_default().extend(dialogs);
                }
            }
            assert_eq!(joined, all);
        }
    }

    #[test]
    fn halves_have_everything_and_are_smaller() {
        for of in [&[("a", 1), ("b", 1)][..], &[("a", 1), ("b", 2), ("c", 3)]] {
            let [one, other] = halves(users(of));
            assert!(!one.is_empty() && !other.is_empty());
            let joined: Users = one.into_iter().chain(other).collect();
            assert_eq!(joined, users(of));
        }
    }
}
