//! Static tokens: for small set-ups and the command line.
//!
//! The file has the SHA-256 of each, not the token: who reads the file cannot
//! use it. That holds for random tokens only, which [`generate`] makes; a word
//! that somebody thought of could be found by trying.

use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Identity;
use super::identity::Grant;

/// The most tokens of a file.
const MAX_TOKENS: usize = 1_000;
const DIGEST_BYTES: usize = 32;
/// Begins every token, so that one that was left lying about can be searched for.
const TOKEN_PREFIX: &str = "cct_";

/// The SHA-256 of a token.
type Digest = [u8; DIGEST_BYTES];

/// The static tokens of a file, by their digests.
#[derive(Debug)]
pub struct Tokens(Vec<(Digest, Arc<Identity>)>);

/// The TOML file of static tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

/// One table of the file: a token's digest, and what it is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    roles: Vec<String>,
    tenants: Vec<String>,
    user: Option<String>,
}

impl Tokens {
    /// Reads a file: TOML with a table `[[token]]` for each.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let File { token } = toml::from_str(text).map_err(super::file::toml_trouble(text))?;
        if token.len() > MAX_TOKENS {
            return Err(format!(
                "expected at most {MAX_TOKENS} tokens, found {}",
                token.len()
            ));
        }
        let mut tokens: Vec<(Digest, Arc<Identity>)> = Vec::with_capacity(token.len());
        for Entry {
            name,
            sha256,
            roles,
            tenants,
            user,
        } in token
        {
            let of = |error: String| format!("token {name:?}: {error}");
            let mut digest = Digest::default();
            hex::decode_to_slice(&sha256, &mut digest).map_err(|_| {
                of(
                    "sha256: expected 64 hexadecimal digits, as `chat-counters token` prints"
                        .into(),
                )
            })?;
            let grant = Grant {
                roles,
                tenants,
                user,
            };
            let identity = grant.to("token", &name).map_err(of)?;
            if let Some((_, other)) = tokens.iter().find(|(known, _)| *known == digest) {
                return Err(of(format!("it is the same token as {}", other.name())));
            }
            tokens.push((digest, identity));
        }
        Ok(Self(tokens))
    }

    /// Whose token this is. Takes as long for one that is known as for any
    /// other.
    pub fn find(&self, token: &str) -> Option<Arc<Identity>> {
        let digest = Sha256::digest(token);
        let mut found = None;
        for (known, identity) in &self.0 {
            if bool::from(known[..].ct_eq(&digest[..])) {
                found = Some(identity);
            }
        }
        found.cloned()
    }
}

/// The system has no random numbers to give.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no token can be made: the system has no random numbers to give")]
pub struct NoRandomness;

/// Returns what a file has of a token: its SHA-256, in hexadecimal.
pub fn digest_hex(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

/// Makes a token that nobody can guess, of 256 random bits.
///
/// # Errors
/// When the system has no randomness.
pub fn generate() -> Result<String, NoRandomness> {
    use ring::rand::SecureRandom as _;
    let mut bits = [0; 32];
    let random = ring::rand::SystemRandom::new().fill(&mut bits);
    random.map_err(|_| NoRandomness)?;
    Ok(format!("{TOKEN_PREFIX}{}", hex::encode(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, token: &str, rest: &str) -> String {
        let digest = digest_hex(token);
        format!("[[token]]\nname = {name:?}\nsha256 = {digest:?}\n{rest}\n")
    }

    const READER: &str = "roles = [\"reader\"]\ntenants = [\"a\"]";

    #[test]
    fn a_token_is_its_owners_and_no_one_elses() {
        let token = generate().unwrap();
        assert_eq!(token.len(), TOKEN_PREFIX.len() + 64);
        assert_ne!(token, generate().unwrap());
        let text = entry("x", &token, READER) + &entry("y", "another", READER);
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.find(&token).unwrap().name(), "token:x");
        assert_eq!(tokens.find("another").unwrap().name(), "token:y");
        for wrong in ["", "x", &token[1..], &digest_hex(&token)] {
            assert_eq!(tokens.find(wrong), None);
        }
        assert!(Tokens::parse("").unwrap().find("").is_none());
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_by_name() {
        let rows = [
            (entry("x", "t", ""), "missing field"),
            (
                entry("x", "t", "roles = []\ntenants = []\nrole = 1"),
                "role",
            ),
            (
                entry("x", "t", "roles = [\"root\"]\ntenants = []"),
                "\"root\"",
            ),
            (entry("x", "t", "roles = [\"user\"]\ntenants = []"), "user"),
            (
                entry("x", "t", READER) + &entry("y", "t", READER),
                "token:x",
            ),
            (
                entry("x", "t", READER).replace("sha256 = \"", "sha256 = \"0"),
                "64",
            ),
            (entry("", "t", READER), "name"),
        ];
        for (text, said) in rows {
            let error = Tokens::parse(&text).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
