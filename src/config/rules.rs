//! What the value of a key may be.

use std::net::SocketAddr;

/// Checks a text; the error is what was expected instead.
type Check = fn(&str) -> Result<(), &'static str>;

/// What the value of a key may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// A whole number within bounds.
    Integer {
        /// The least number that is allowed.
        min: i64,
        /// The largest number that is allowed.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// A text that passes a check.
    Text(Check),
    /// A text that passes a check and may hold a password.
    Url(Check),
}

impl Rule {
    /// Says in words what type is expected.
    pub(super) fn expected(&self) -> String {
        match self {
            Rule::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Rule::Boolean => "true or false".into(),
            Rule::Text(_) | Rule::Url(_) => "a string".into(),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What was expected instead.
    pub(super) fn check(&self, value: &toml::Value) -> Result<(), String> {
        match (self, value) {
            (Rule::Integer { min, max }, toml::Value::Integer(number))
                if (min..=max).contains(&number) =>
            {
                Ok(())
            }
            (Rule::Boolean, toml::Value::Boolean(_)) => Ok(()),
            (Rule::Text(check) | Rule::Url(check), toml::Value::String(text)) => {
                check(text).map_err(Into::into)
            }
            _ => Err(self.expected()),
        }
    }
}

pub(super) fn name(text: &str) -> Result<(), &'static str> {
    match text.len() {
        1..=255 => Ok(()),
        _ => Err("a name of 1 to 255 bytes"),
    }
}

pub(super) fn database(text: &str) -> Result<(), &'static str> {
    let good =
        (1..=63).contains(&text.len()) && !text.contains(['/', '\\', '.', ' ', '"', '$', '\0']);
    good.then_some(())
        .ok_or("a name of 1 to 63 bytes without / \\ . \" $ and spaces")
}

/// Checks what follows the scheme of a URL: user information that is
/// percent-encoded, then a host.
fn rest(text: &str) -> Result<(), &'static str> {
    let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
    if user.contains(['/', '?', '#', '@']) {
        return Err(
            "a user and password in which / ? # and @ are percent-encoded (%2F %3F %23 %40)",
        );
    }
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err("a URL with a host");
    }
    Ok(())
}

pub(super) fn amqp_url(text: &str) -> Result<(), &'static str> {
    let after = text
        .strip_prefix("amqp://")
        .or_else(|| text.strip_prefix("amqps://"));
    rest(after.ok_or("a URL that begins with amqp:// or amqps://")?)
}

pub(super) fn mongodb_url(text: &str) -> Result<(), &'static str> {
    if text.starts_with("mongodb+srv://") {
        return Err(
            "a URL that begins with mongodb:// and lists the hosts (looking hosts up in DNS, mongodb+srv, is not compiled in)",
        );
    }
    rest(
        text.strip_prefix("mongodb://")
            .ok_or("a URL that begins with mongodb://")?,
    )
}

pub(super) fn check_tenant(text: &str) -> Result<(), &'static str> {
    ["off", "warn", "dead_letter"]
        .contains(&text)
        .then_some(())
        .ok_or("off, warn or dead_letter")
}

pub(super) fn notify_format(text: &str) -> Result<(), &'static str> {
    ["off", "cloudevents", "chat3"]
        .contains(&text)
        .then_some(())
        .ok_or("off, cloudevents or chat3")
}

/// Checks a URI reference, as far as it can be told from other texts.
pub(super) fn uri_reference(text: &str) -> Result<(), &'static str> {
    let legal = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
    };
    ((1..=255).contains(&text.len()) && text.chars().all(legal))
        .then_some(())
        .ok_or("a URI reference of 1 to 255 characters, as in /chat-counters or https://counters.example.org")
}

pub(super) fn file(text: &str) -> Result<(), &'static str> {
    (!text.contains('\0'))
        .then_some(())
        .ok_or("the path of a file, or nothing")
}

pub(super) fn anything(_: &str) -> Result<(), &'static str> {
    Ok(())
}

pub(super) fn address(text: &str) -> Result<(), &'static str> {
    let named = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        let good = !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']);
        (good && port.parse::<u16>().is_ok()).then_some(())
    };
    let numeric = text.parse::<SocketAddr>().map(drop).ok();
    numeric
        .or_else(|| named(text))
        .ok_or("an address to listen on: host:port, as in 127.0.0.1:50051 or [::]:50051")
}

pub(super) fn address_or_off(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Ok(())
    } else {
        address(text)
    }
}

/// Checks origins as browsers send them: a scheme, a host, perhaps a port.
pub(super) fn origins(text: &str) -> Result<(), &'static str> {
    let good = |origin: &str| {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        host.is_some_and(|host| {
            !host.is_empty() && !host.contains(['/', '?', '#', '*', '@', ' ']) && host.is_ascii()
        })
    };
    let all = text.split(',').map(str::trim);
    (text.is_empty() || text == "*" || all.into_iter().all(good))
        .then_some(())
        .ok_or("origins with commas between, as in https://chat.example.org,http://localhost:3000; or * alone")
}

pub(super) fn sender_types(text: &str) -> Result<(), &'static str> {
    // Each dialog and each membership has a count of each.
    const MAX_SENDER_TYPES: usize = 100;
    let good = |name: &str| crate::event::SenderType::new(name.trim()).is_ok();
    let few = text.split(',').count() <= MAX_SENDER_TYPES;
    (few && text.split(',').all(good))
        .then_some(())
        .ok_or("at most 100 names of sender types with commas between, as in user,contact,bot")
}

pub(super) fn level(text: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "error, warn, info, debug, trace or off; or directives such as info,chat_counters::lane=debug";
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    // A bare word that is no level is, to the filter, a module: a misspelt
    // level would pass.
    let known = |part: &str| {
        part.contains(['=', '[']) || LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level))
    };
    if !text.split(',').map(str::trim).all(known) {
        return Err(EXPECTED);
    }
    tracing_subscriber::EnvFilter::try_new(text)
        .map(drop)
        .map_err(|_| EXPECTED)
}

pub(super) fn format(text: &str) -> Result<(), &'static str> {
    ["auto", "human", "json"]
        .contains(&text)
        .then_some(())
        .ok_or("auto, human or json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_checked() {
        let long = "x".repeat(256);
        let many = vec!["t"; 101].join(",");
        let rows: &[(Check, &[&str], &[&str])] = &[
            (name, &["q", &long[1..]], &["", &long]),
            (
                database,
                &["chat_counters"],
                &["", "a.b", "a b", "$x", &long],
            ),
            (
                amqp_url,
                &["amqp://h", "amqps://u:p%40@h:1/v", "amqp://[::1]:5672/%2f"],
                &[
                    "",
                    "h:1",
                    "http://h",
                    "amqp://",
                    "amqp://u:p@",
                    "amqp://u:p/q@h",
                    "amqp://u:a@b@h",
                ],
            ),
            (
                mongodb_url,
                &["mongodb://h", "mongodb://u:p@a:1,b:2/db?replicaSet=rs0"],
                &[
                    "mongodb+srv://h",
                    "amqp://h",
                    "mongodb:///db",
                    "mongodb://u:p?q@h",
                ],
            ),
            (
                address,
                &["127.0.0.1:1", "[::1]:0", "localhost:50051", "0.0.0.0:65535"],
                &["", "127.0.0.1", ":1", "::1:x", "h:65536", "http://h:1"],
            ),
            (address_or_off, &["", "h:1"], &["h"]),
            (
                level,
                &[
                    "info",
                    "WARN",
                    "off",
                    "info,chat_counters=debug",
                    "warn,lapin=off",
                ],
                &["", "inof", "info,", "chat_counters", "a=nonsense"],
            ),
            (
                sender_types,
                &["user", "user, contact,bot"],
                &["", "user,,bot", "user,", "a\u{7}", &many],
            ),
            (format, &["auto", "human", "json"], &["", "text", "JSON"]),
        ];
        for (check, good, bad) in rows {
            for text in *good {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in *bad {
                assert!(check(text).is_err(), "{text:?}");
            }
        }
    }
}
