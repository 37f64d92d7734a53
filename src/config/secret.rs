//! Text that holds a password, kept out of everything that is shown.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// The URL of a server, perhaps with a user and a password in it.
///
/// Whatever prints or serialises it shows it [`redacted`](Url::redacted); only
/// [`expose`](Url::expose) gives the whole of it, to the client that connects.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Url(String);

impl Url {
    /// Returns the whole URL, password included. It is never to be shown.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the user as it stands in the URL, if it names one.
    pub fn user(&self) -> Option<&str> {
        let user = self.user_information()?.split(':').next();
        user.filter(|user| !user.is_empty())
    }

    /// Returns the same URL with a password for its user.
    pub(super) fn with_password(&self, password: &str) -> Result<Url, Unfit> {
        if self
            .user_information()
            .is_some_and(|user| user.contains(':'))
        {
            return Err(Unfit("that has a password"));
        }
        let user = self.user().ok_or(Unfit("that names no user"))?;
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        let rest = &rest[user.len()..];
        Ok(format!("{scheme}://{user}:{}{rest}", encoded(password)).into())
    }

    /// Returns what stands before the `@`.
    fn user_information(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        rest.rsplit_once('@').map(|(user, _)| user)
    }

    /// Returns scheme, hosts and path: no user, password or query.
    pub fn redacted(&self) -> String {
        redacted(&self.0)
    }
}

/// Why a URL takes no password: it is one of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit(pub(super) &'static str);

/// Percent-encodes everything but letters, digits and `-`, `_`, `.`, `~`.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl From<String> for Url {
    fn from(url: String) -> Self {
        Url(url)
    }
}

impl From<&str> for Url {
    fn from(url: &str) -> Self {
        Url(url.to_owned())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.redacted())
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

/// Returns a URL without user, password and query, to be shown to people.
pub(crate) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "<not a URL>".into();
    };
    // Everything up to the last `@` goes first, whatever stands before it:
    // rather a strange URL in the log than half a password.
    let shown = rest.rsplit_once('@').map_or(rest, |(_, shown)| shown);
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_holds_no_secret() {
        for (url, shown) in [
            (
                "amqp://user:secret@rabbit:5672/%2f",
                "amqp://rabbit:5672/%2f",
            ),
            (
                "amqps://user:sec@ret@rabbit/v?heartbeat=5",
                "amqps://rabbit/v",
            ),
            ("amqp://user:sec/ret@rabbit/v", "amqp://rabbit/v"),
            ("amqp://user:sec?ret@rabbit/v", "amqp://rabbit/v"),
            ("amqp://rabbit", "amqp://rabbit"),
            ("user:secret@rabbit", "<not a URL>"),
            ("mongodb://u:p@a:1,b:2/db?x=secret", "mongodb://a:1,b:2/db"),
        ] {
            assert_eq!(redacted(url), shown);
            let url = Url::from(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
        }
    }

    #[test]
    fn it_is_read_and_exposed_whole() {
        let url: Url = serde_json::from_str("\"amqp://u:p@h/?a=b\"").unwrap();
        assert_eq!(url.expose(), "amqp://u:p@h/?a=b");
    }
}
