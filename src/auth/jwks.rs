//! The issuer's public keys: a JSON Web Key Set (RFC 7517).
//!
//! The key says what algorithm it is for, never the token: a public RSA key
//! taken for the secret of an HMAC would let everybody sign. What is not meant
//! for verifying signatures, or not by one of the three algorithms, is passed
//! over, as the RFC wants.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;

use super::Refusal;

/// Keys of a set at most.
const MAX_KEYS: usize = 100;
/// Keys that a token without `kid`, or with one that several keys have, is
/// tried with at most.
const MAX_TRIED: usize = 4;

/// Why a set of keys is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The text is not a JSON Web Key Set.
    #[error("expected a JSON Web Key Set, {{\"keys\": [...]}}: {0}")]
    NotASet(#[from] serde_json::Error),
    /// None of this many keys can be used.
    #[error(
        "expected a key for verifying signatures by ES256, RS256 (2048 bits at least) or EdDSA (Ed25519), found none among {0}"
    )]
    NoKey(usize),
    /// The set has more keys than are taken.
    #[error("expected at most {MAX_KEYS} keys, found {0}")]
    TooMany(usize),
}

/// The algorithm with which a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Rs256,
    EdDsa,
}

impl Algorithm {
    /// Returns the algorithm of this name in `alg`, if it is one that is taken.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "RS256" => Some(Self::Rs256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// Public keys of an issuer: one at least.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

/// A public key, with the id by which tokens name it.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    public: Public,
}

/// A public key by its kind.
#[derive(Debug)]
enum Public {
    /// The point in its uncompressed form.
    P256([u8; 65]),
    Ed25519([u8; 32]),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl KeySet {
    /// Reads the usable keys of a set.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        let Set { keys } = serde_json::from_str(text)?;
        let found = keys.len();
        if found > MAX_KEYS {
            return Err(KeySetError::TooMany(found));
        }
        let usable = keys.into_iter().filter_map(|key| {
            // One key of a kind that is not known here spoils no other.
            let key: Jwk = serde_json::from_value(key).ok()?;
            key.usable()
        });
        let usable: Vec<_> = usable.collect();
        match usable.is_empty() {
            true => Err(KeySetError::NoKey(found)),
            false => Ok(Self(usable)),
        }
    }

    /// Returns the keys that a token may be signed with.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<&Key>, Refusal> {
        let fits = |key: &&Key| key.algorithm() == algorithm;
        let Some(id) = id else {
            let keys: Vec<_> = self.0.iter().filter(fits).collect();
            return match keys.len() {
                0 => Err(Refusal::UnknownKey),
                1..=MAX_TRIED => Ok(keys),
                _ => Err(Refusal::Malformed(
                    "it has no kid, and several keys would fit",
                )),
            };
        };
        let named = self.0.iter().filter(|key| key.id.as_deref() == Some(id));
        let named: Vec<_> = named.collect();
        let keys: Vec<_> = named.iter().copied().filter(fits).take(MAX_TRIED).collect();
        match (named.is_empty(), keys.is_empty()) {
            (true, _) => Err(Refusal::UnknownKey),
            (_, true) => Err(Refusal::Malformed("its alg is not that of the key")),
            _ => Ok(keys),
        }
    }
}

impl Key {
    fn algorithm(&self) -> Algorithm {
        match self.public {
            Public::P256(_) => Algorithm::Es256,
            Public::Ed25519(_) => Algorithm::EdDsa,
            Public::Rsa { .. } => Algorithm::Rs256,
        }
    }

    /// Tells whether a signature is one of this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            Public::P256(key) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            Public::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            Public::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
        };
        verified.is_ok()
    }
}

/// The JSON of a key set.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The JSON of one key (RFC 7517).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// Of a private key, which has no business here.
    d: Option<serde_json::Value>,
}

impl Jwk {
    fn usable(self) -> Option<Key> {
        let verifies = |operations: &Vec<String>| operations.iter().any(|name| name == "verify");
        let signatures = self
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(verifies);
        if !signatures || self.d.is_some() {
            return None;
        }
        let public = match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => {
                let mut point = [4; 65];
                point[1..33].copy_from_slice(&octets::<32>(&self.x)?);
                point[33..].copy_from_slice(&octets::<32>(&self.y)?);
                Public::P256(point)
            }
            ("OKP", Some("Ed25519")) => Public::Ed25519(octets(&self.x)?),
            ("RSA", _) => Public::Rsa {
                n: number(&self.n).filter(|n| (256..=1024).contains(&n.len()))?,
                e: number(&self.e)?,
            },
            _ => return None,
        };
        let key = Key {
            id: self.kid,
            public,
        };
        let stated = self.alg.as_deref();
        let agrees = |alg: &str| Algorithm::named(alg) == Some(key.algorithm());
        stated.is_none_or(agrees).then_some(key)
    }
}

fn octets<const N: usize>(text: &Option<String>) -> Option<[u8; N]> {
    let bytes = URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?;
    bytes.try_into().ok()
}

/// A number without zeros in front, which some write and ring does not take.
fn number(text: &Option<String>) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    (zeros < bytes.len()).then(|| bytes[zeros..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn x() -> String {
        URL_SAFE_NO_PAD.encode([7; 32])
    }

    #[test]
    fn what_is_no_key_for_verifying_is_passed_over() {
        let key = |with: serde_json::Value| {
            let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": x(), "kid": "k"});
            for (name, value) in with.as_object().unwrap() {
                key[name] = value.clone();
            }
            KeySet::parse(&json!({ "keys": [key] }).to_string())
        };
        for good in [
            json!({}),
            json!({"use": "sig"}),
            json!({"alg": "EdDSA"}),
            json!({"alg": "Ed25519", "key_ops": ["verify"]}),
        ] {
            assert!(key(good.clone()).is_ok(), "{good}");
        }
        for bad in [
            json!({"use": "enc"}),
            json!({"key_ops": ["encrypt"]}),
            json!({"alg": "HS256"}),
            json!({"alg": "ES256"}),
            json!({"crv": "Ed448"}),
            json!({"x": "AAAA"}),
            json!({"x": null}),
            json!({"d": x()}),
            json!({"kty": "oct", "k": x()}),
            json!({"kty": 5}),
        ] {
            let refused = key(bad.clone()).unwrap_err();
            assert!(matches!(refused, KeySetError::NoKey(1)), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_set_has_keys_and_not_too_many() {
        for bad in ["", "[]", "{}", r#"{"keys": 5}"#] {
            let refused = KeySet::parse(bad);
            assert!(matches!(refused, Err(KeySetError::NotASet(_))), "{bad}");
        }
        let empty = KeySet::parse(r#"{"keys": []}"#);
        assert!(matches!(empty, Err(KeySetError::NoKey(0))));
        let keys = vec![json!({"kty": "oct"}); MAX_KEYS + 1];
        let many = KeySet::parse(&json!({ "keys": keys }).to_string());
        assert!(matches!(many, Err(KeySetError::TooMany(_))));
    }

    #[test]
    fn a_short_rsa_key_is_none() {
        let rsa = |bytes: usize| {
            let n = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
            let key = json!({"kty": "RSA", "n": n, "e": "AQAB"});
            KeySet::parse(&json!({ "keys": [key] }).to_string()).is_ok()
        };
        assert_eq!([128, 255, 256, 512].map(rsa), [false, false, true, true]);
    }

    #[test]
    fn keys_are_chosen_by_name_or_are_few() {
        let key = |kid: Option<&str>| json!({"kty": "OKP", "crv": "Ed25519", "x": x(), "kid": kid});
        let set = |kids: &[Option<&str>]| {
            let keys: Vec<_> = kids.iter().map(|kid| key(*kid)).collect();
            KeySet::parse(&json!({ "keys": keys }).to_string()).unwrap()
        };
        let many = set(&[Some("a"), Some("a"), Some("b"), Some("c"), None]);
        let tried = |id, algorithm| many.candidates(id, algorithm).map(|keys| keys.len());
        assert_eq!(tried(Some("a"), Algorithm::EdDsa), Ok(2));
        assert_eq!(tried(Some("z"), Algorithm::EdDsa), Err(Refusal::UnknownKey));
        assert!(matches!(
            tried(Some("a"), Algorithm::Rs256),
            Err(Refusal::Malformed(_))
        ));
        assert!(matches!(
            tried(None, Algorithm::EdDsa),
            Err(Refusal::Malformed(_))
        ));
        let few = set(&[Some("a"), None]);
        assert_eq!(few.candidates(None, Algorithm::EdDsa).unwrap().len(), 2);
    }
}
