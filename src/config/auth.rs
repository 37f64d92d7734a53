//! The section `auth`: who may ask.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hyper::Uri;
use serde::{Deserialize, Serialize};

use super::Config;
use super::listeners::Listener;
use super::problem::{Problem, Source};

/// Settings of who may call, and how callers say who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The ways of saying who one is that are open, with commas between; `none`
    /// asks nobody.
    pub mode: String,
    /// Whether nobody is asked even on an address that other machines reach.
    pub allow_none: bool,
    /// The path of a TOML file with the static tokens.
    pub token_file: String,
    /// The path of a TOML file that says who is meant by which client
    /// certificate.
    pub mtls_file: String,
    /// Tokens that an issuer signs.
    pub jwt: Jwt,
}

/// Settings of tokens that an issuer signs (JWT).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// What the claim `iss` of a token must be.
    pub issuer: String,
    /// What the claim `aud` of a token must name.
    pub audience: String,
    /// The path of a file with the public keys of the issuer (JWKS).
    pub jwks_file: String,
    /// The URL at which the issuer publishes its keys, in the place of the
    /// file.
    pub jwks_url: String,
    /// PEM with the authorities that may certify the server of that URL.
    pub jwks_ca_file: String,
    /// The longest time in seconds that a token may be valid.
    pub max_lifetime_seconds: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: "none".into(),
            allow_none: false,
            token_file: String::new(),
            mtls_file: String::new(),
            jwt: Jwt::default(),
        }
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            jwks_file: String::new(),
            jwks_url: String::new(),
            jwks_ca_file: String::new(),
            max_lifetime_seconds: 86_400,
        }
    }
}

/// A way of saying who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A client certificate that TLS has verified.
    Mtls,
    /// A token that an issuer has signed.
    Jwt,
    /// A static token, of which the configuration has the hash.
    Token,
}

impl Mode {
    /// Returns the name that it has in `auth.mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Mtls => "mtls",
            Mode::Jwt => "jwt",
            Mode::Token => "token",
        }
    }
}

const NONE: &str = "none";

impl Auth {
    /// Returns the ways that are open; when there is none, nobody is asked.
    pub fn modes(&self) -> Vec<Mode> {
        parsed(&self.mode).unwrap_or_default()
    }
}

fn parsed(text: &str) -> Option<Vec<Mode>> {
    if text == NONE {
        return Some(Vec::new());
    }
    let mode = |name: &str| {
        let all = [Mode::Mtls, Mode::Jwt, Mode::Token];
        all.into_iter().find(|mode| mode.as_str() == name.trim())
    };
    text.split(',').map(mode).collect()
}

pub(super) fn modes(text: &str) -> Result<(), &'static str> {
    parsed(text)
        .map(drop)
        .ok_or("none, or some of mtls, jwt and token with commas between")
}

pub(super) fn jwks_url(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Ok(()),
        url => jwks_uri(url).map(drop),
    }
}

/// Parses a URL that keys may be fetched from: https, or http on this machine
/// alone, where nobody is in between.
///
/// # Errors
/// What was expected, as the rest of a sentence.
pub(crate) fn jwks_uri(url: &str) -> Result<Uri, &'static str> {
    const EXPECTED: &str =
        "a URL that begins with https:// (or http:// on a loopback address), without a user";
    let url: Uri = url.parse().map_err(|_| EXPECTED)?;
    let authority = url.authority().ok_or(EXPECTED)?;
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<IpAddr>();
    let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let good = match url.scheme_str() {
        Some("https") => true,
        Some("http") => local,
        _ => false,
    };
    (good && !host.is_empty() && !authority.as_str().contains('@'))
        .then_some(url)
        .ok_or(EXPECTED)
}

/// Tells whether other machines cannot reach an address to listen on.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// Finds what of this section does not fit together, or not with the others.
pub(super) fn problems(config: &Config, sources: &BTreeMap<&'static str, Source>) -> Vec<Problem> {
    let Auth {
        token_file,
        mtls_file,
        jwt,
        allow_none,
        ..
    } = &config.auth;
    let modes = config.auth.modes();
    let mut problems = Vec::new();
    let mut refuse = |key: &'static str, expected: &str, found: String| {
        let source = sources.get(key).cloned().unwrap_or(Source::Default);
        let expected = expected.to_owned();
        problems.push(Problem {
            key: key.into(),
            source,
            expected,
            found,
        });
    };
    let needed = [
        (Mode::Token, "auth.token_file", token_file),
        (Mode::Mtls, "auth.mtls_file", mtls_file),
        (Mode::Jwt, "auth.jwt.issuer", &jwt.issuer),
        (Mode::Jwt, "auth.jwt.audience", &jwt.audience),
    ];
    for (mode, key, value) in needed {
        if modes.contains(&mode) && value.is_empty() {
            let expected = format!("a value, since auth.mode has {}", mode.as_str());
            refuse(key, &expected, "none".into());
        }
    }
    if modes.contains(&Mode::Jwt) && jwt.jwks_file.is_empty() == jwt.jwks_url.is_empty() {
        let found = match jwt.jwks_url.is_empty() {
            true => "neither",
            false => "both",
        };
        refuse(
            "auth.jwt.jwks_file",
            "the issuer's keys in a file, or auth.jwt.jwks_url, one of them",
            found.into(),
        );
    }
    let listeners = config.listeners();
    let has_authorities = |of: &Listener| !of.tls.client_ca_file.is_empty();
    if modes.contains(&Mode::Mtls) && !listeners.iter().any(has_authorities) {
        refuse(
            "grpc.tls.client_ca_file",
            "here or in admin.tls.client_ca_file the authorities of client certificates, since \
             auth.mode has mtls",
            "neither".into(),
        );
    }
    for Listener { key, listen, .. } in listeners {
        if modes.is_empty() && !allow_none && !listen.is_empty() && !is_loopback(listen) {
            refuse(
                key,
                "a loopback address while auth.mode is none; set auth.mode so that callers are \
                 asked who they are, or auth.allow_none = true if all who reach it may do everything",
                format!("{listen:?}"),
            );
        }
    }
    problems
}

impl Config {
    /// Returns the keys of the listeners to which bearer tokens would come over
    /// a network for all to see.
    pub fn tokens_in_the_clear(&self) -> Vec<&'static str> {
        let modes = self.auth.modes();
        let bearer = modes.contains(&Mode::Token) || modes.contains(&Mode::Jwt);
        let is_open = |of: &Listener| {
            !of.listen.is_empty() && !is_loopback(of.listen) && of.tls.cert_file.is_empty()
        };
        let open = self.listeners().into_iter().filter(is_open);
        open.filter(|_| bearer).map(|of| of.key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let problems = problems(&config, &BTreeMap::new());
        problems.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn keys_are_fetched_where_nobody_can_answer_instead() {
        for good in [
            "https://issuer.example/keys?v=2",
            "http://127.0.0.1:8080/keys",
            "http://[::1]/keys",
            "http://localhost/keys",
        ] {
            assert!(jwks_uri(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "issuer.example",
            "http://issuer.example/keys",
            "http://127.0.0.1.example/keys",
            "https://user:password@issuer.example",
            "file:///keys",
            "https://",
        ] {
            assert!(jwks_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_is_asked_on_this_machine_only_unless_allowed() {
        let listening = |listen: &str, mode: &str, allow_none| {
            told(|config| {
                config.grpc.listen = listen.into();
                config.auth.mode = mode.into();
                config.auth.allow_none = allow_none;
                config.auth.token_file = "tokens.toml".into();
            })
        };
        for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"] {
            assert!(listening(local, "none", false).is_empty(), "{local}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "counters:1"] {
            assert_eq!(listening(open, "none", false), ["grpc.listen"], "{open}");
            assert!(listening(open, "none", true).is_empty());
            assert!(listening(open, "token", false).is_empty());
        }
    }

    #[test]
    fn a_mode_has_what_it_needs() {
        let with = |mode: &str| told(|config| config.auth.mode = mode.into());
        assert_eq!(with("token"), ["auth.token_file"]);
        assert_eq!(with("mtls"), ["auth.mtls_file", "grpc.tls.client_ca_file"]);
        let jwt = ["auth.jwt.issuer", "auth.jwt.audience", "auth.jwt.jwks_file"];
        assert_eq!(with("jwt"), jwt);
        let both = told(|config| {
            config.auth.mode = "jwt".into();
            config.auth.jwt = Jwt {
                issuer: "i".into(),
                audience: "a".into(),
                jwks_file: "f".into(),
                jwks_url: "https://i".into(),
                ..Jwt::default()
            };
        });
        assert_eq!(both, ["auth.jwt.jwks_file"]);
    }

    #[test]
    fn tokens_are_told_of_where_everybody_can_read_them() {
        let told = |mode: &str, listen: &str, cert_file: &str| {
            let mut config = Config::default();
            config.auth.mode = mode.into();
            config.grpc.listen = listen.into();
            config.grpc.tls.cert_file = cert_file.into();
            config.tokens_in_the_clear()
        };
        assert_eq!(told("mtls,jwt", "0.0.0.0:1", ""), ["grpc.listen"]);
        for none in [
            told("token", "127.0.0.1:1", ""),
            told("token", "0.0.0.0:1", "cert.pem"),
            told("mtls", "0.0.0.0:1", ""),
        ] {
            assert!(none.is_empty(), "{none:?}");
        }
    }

    #[test]
    fn modes_are_a_list_or_none() {
        for good in ["none", "jwt", "mtls, token", "token,jwt,mtls"] {
            assert!(modes(good).is_ok(), "{good}");
        }
        for bad in ["", "none,jwt", "jwt,", "basic", "JWT"] {
            assert!(modes(bad).is_err(), "{bad}");
        }
    }
}
