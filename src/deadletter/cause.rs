//! Groups letters that are in the queue for the same cause.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Words with digits in them that say what is wrong, not with which letter.
const WORDS_OF_CAUSES: [&str; 1] = ["UTF-8"];
/// Bytes of the digest that name a group: 8 characters for a person to type.
const GROUP_BYTES: usize = 4;

/// Names the letters of one reason and cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupId(String);

impl GroupId {
    /// The group of a reason and a [`cause`].
    pub fn of(reason: &str, cause: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(reason)
            .chain_update([0])
            .chain_update(cause)
            .finalize();
        Self(hex::encode(&digest[..GROUP_BYTES]))
    }

    /// The id as it is shown and stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error without what differs from letter to letter: what stands in
/// quotation marks, and every word with a digit in it, is `#`. The server's
/// error codes (`code 121`) stay: they are the cause.
pub fn cause(error: &str) -> String {
    let mut cause = String::with_capacity(error.len());
    let mut before = "";
    for (index, part) in error.split('"').enumerate() {
        if index % 2 == 1 {
            cause.push_str("\"#\"");
            continue;
        }
        for piece in part.split_inclusive(|c: char| !is_word(c)) {
            let word = piece.trim_end_matches(|c: char| !is_word(c));
            let varies = word.contains(|c: char| c.is_ascii_digit())
                && !WORDS_OF_CAUSES.contains(&word)
                && before != "code";
            cause.push_str(if varies { "#" } else { word });
            cause.push_str(&piece[word.len()..]);
            if !word.is_empty() {
                before = word;
            }
        }
    }
    cause
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '+' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_letter_to_letter_is_left_out() {
        for (error, expected) in [
            (
                "data.message.senderId: expected a string, found number 17",
                "data.message.senderId: expected a string, found number #",
            ),
            (
                "expected UTF-8, found an invalid byte at offset 12",
                "expected UTF-8, found an invalid byte at offset #",
            ),
            (
                "expected JSON, found a syntax error at line 1 column 88",
                "expected JSON, found a syntax error at line # column #",
            ),
            (
                "MongoDB refused a write to `journal`: dup key { e: \"evt 7\" } (code 121)",
                "MongoDB refused a write to `journal`: dup key { e: \"#\" } (code 121)",
            ),
            (
                "found number 1e300, -5 and 0.25",
                "found number #, # and #.#",
            ),
            ("id 6f0c-77aa_b1 of é1", "id # of #"),
            ("no digits: \"open", "no digits: \"#\""),
            ("", ""),
        ] {
            assert_eq!(cause(error), expected);
        }
    }

    #[test]
    fn a_group_is_a_reason_and_a_cause() {
        let group = GroupId::of("invalid_event", "a");
        assert_eq!(group.as_str().len(), 8);
        assert_eq!(group, GroupId::of("invalid_event", "a"));
        assert_ne!(group, GroupId::of("undecodable", "a"));
        assert_ne!(group, GroupId::of("invalid_event", "b"));
    }
}
