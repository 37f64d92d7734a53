//! Each way of making a token that must not pass, beside those that must.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use super::*;

/// A key for tests alone.
const RSA: &[u8] = include_bytes!("../../../tests/auth/rsa.pk8");
const NOW: u64 = 1_800_000_000;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of each kind.
struct Issuer {
    random: SystemRandom,
    p256: EcdsaKeyPair,
    /// The same key, which signs in the encoding that JWT does not want.
    p256_asn1: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let fixed = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let p256 = EcdsaKeyPair::generate_pkcs8(fixed, &random).unwrap();
        let asn1 = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            p256: EcdsaKeyPair::from_pkcs8(fixed, p256.as_ref(), &random).unwrap(),
            p256_asn1: EcdsaKeyPair::from_pkcs8(asn1, p256.as_ref(), &random).unwrap(),
            ed25519: Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap(),
            rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(),
            random,
        }
    }

    fn rsa_modulus(&self) -> Vec<u8> {
        RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key()).n
    }

    fn keys(&self) -> Vec<Value> {
        let point = self.p256.public_key().as_ref();
        let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        vec![
            json!({"kid": "ec", "kty": "EC", "crv": "P-256", "use": "sig",
                "x": base64(&point[1..33]), "y": base64(&point[33..])}),
            json!({"kid": "ed", "kty": "OKP", "crv": "Ed25519",
                "x": base64(self.ed25519.public_key())}),
            json!({"kid": "rsa", "kty": "RSA", "alg": "RS256",
                "n": base64(rsa.n), "e": base64(rsa.e)}),
            json!({"kid": "secret", "kty": "oct", "alg": "HS256", "k": base64("secret")}),
            json!({"kid": "enc", "kty": "OKP", "crv": "Ed25519", "use": "enc",
                "x": base64(self.ed25519.public_key())}),
        ]
    }

    fn verifier(&self, keys: &[Value]) -> Verifier {
        let set = KeySet::parse(&json!({ "keys": keys }).to_string()).unwrap();
        let keys = Keys::File(Reloaded::of(set));
        Verifier::new(
            "https://issuer",
            "counters",
            Duration::from_secs(3_600),
            keys,
        )
    }

    /// A token with this header and these claims, signed as `alg` says.
    fn sign(&self, header: &Value, claims: &str) -> String {
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims));
        let message = signed.as_bytes();
        let signature: Vec<u8> = match header["alg"].as_str() {
            Some("ES256") => {
                let signature = self.p256.sign(&self.random, message).unwrap();
                signature.as_ref().into()
            }
            Some("EdDSA") => self.ed25519.sign(message).as_ref().into(),
            Some("RS256") => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let rsa = &self.rsa;
                rsa.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature)
                    .unwrap();
                signature
            }
            Some("HS256") => {
                let secret = self.rsa_modulus();
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
                ring::hmac::sign(&key, message).as_ref().into()
            }
            _ => Vec::new(),
        };
        format!("{signed}.{}", base64(signature))
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer", "aud": "counters", "sub": "Ann",
        "exp": NOW + 600, "iat": NOW, "nbf": NOW,
        "roles": ["user", "reader", "somebody else's"], "tenants": ["a", "b"],
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

#[test]
fn a_good_token_says_who_may_what_where() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(&issuer.keys());
    for (alg, kid) in [("ES256", "ec"), ("EdDSA", "ed"), ("RS256", "rsa")] {
        for header in [
            json!({"alg": alg, "kid": kid, "typ": "JWT"}),
            json!({"alg": alg}),
        ] {
            let token = issuer.sign(&header, &claims().to_string());
            let identity = verifier.verify(&token, now()).unwrap();
            assert_eq!(identity.name(), "jwt:Ann");
            assert!(identity.reads_user(&UserId::new("ann").unwrap()));
            assert!(identity.tenants().contains("b"));
            assert!(!identity.tenants().are_all());
            assert!(!identity.has_any(&[Role::DlqViewer]));
        }
    }
}

#[test]
fn claims_are_what_they_have_to_be_or_the_token_is_refused() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(&issuer.keys());
    let of = |claim: &'static str| Some(format!("claim {claim}"));
    let said = |text: &str| Some(text.to_owned());
    let rows: Vec<(&str, Value, Option<String>)> = vec![
        ("exp", json!(NOW - 59), None),
        ("exp", json!(NOW as f64 + 0.5), None),
        ("exp", json!(NOW - 61), said("expired")),
        ("exp", json!(-1), said("expired")),
        ("exp", json!("x"), said("right types")),
        ("exp", json!((NOW + 600).to_string()), said("right types")),
        ("exp", Value::Null, of("exp")),
        ("exp", json!(NOW + 3_660), None),
        ("exp", json!(NOW + 3_700), said("longer than the 3600 s")),
        ("exp", json!(1e300), said("longer than the 3600 s")),
        ("iat", json!(NOW - 3_000), None),
        ("iat", json!(NOW - 4_000), said("longer than the 3600 s")),
        ("iat", json!(NOW + 1_000_000), None),
        ("iat", json!("x"), said("right types")),
        ("nbf", json!(NOW + 30), None),
        ("nbf", json!(NOW + 90), said("not valid yet")),
        ("nbf", json!("x"), said("right types")),
        ("nbf", Value::Null, None),
        ("iss", json!("https://issuer/"), of("iss")),
        ("iss", json!(["https://issuer"]), said("right types")),
        ("iss", Value::Null, of("iss")),
        ("aud", json!(["other", "counters"]), None),
        ("aud", json!(["other"]), of("aud")),
        ("aud", json!([]), of("aud")),
        ("aud", json!("counters2"), of("aud")),
        ("aud", json!({"counters": true}), said("right types")),
        ("aud", Value::Null, of("aud")),
        ("sub", json!(""), of("sub")),
        ("sub", json!("a\nb"), of("sub")),
        ("sub", json!(" "), of("sub")),
        ("sub", json!("x".repeat(513)), of("sub")),
        ("sub", json!(7), said("right types")),
        ("sub", Value::Null, of("sub")),
        ("tenants", json!("a"), said("right types")),
        ("tenants", json!(["a", 5]), said("right types")),
        ("tenants", json!([""]), of("tenants")),
        ("tenants", Value::Null, None),
        ("roles", json!("admin"), said("right types")),
        ("roles", Value::Null, None),
        ("anything", json!({"else": [1]}), None),
    ];
    for (name, value, expected) in rows {
        let claims = with(name, value.clone()).to_string();
        let token = issuer.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &claims);
        let found = verifier.verify(&token, now()).err();
        let found = found.map(|refusal| refusal.to_string());
        let alike = match (&found, &expected) {
            (None, None) => true,
            (Some(found), Some(expected)) => found.contains(expected.as_str()),
            _ => false,
        };
        assert!(alike, "{name} = {value}: {found:?}, expected {expected:?}");
    }
}

#[test]
fn what_a_token_does_not_say_it_does_not_give() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(&issuer.keys());
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove("roles");
    claims.as_object_mut().unwrap().remove("tenants");
    let token = issuer.sign(&json!({"alg": "EdDSA"}), &claims.to_string());
    let identity = verifier.verify(&token, now()).unwrap();
    assert!(!identity.has_any(&Role::ALL));
    assert_eq!(identity.tenants().ids(), Some(vec![]));
}

#[test]
fn a_signature_is_of_the_key_and_by_the_algorithm_of_the_key() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(&issuer.keys());
    let good = claims().to_string();
    let alg = Refusal::Malformed("expected the alg ES256, RS256 or EdDSA");
    let other = Refusal::Malformed("its alg is not that of the key");
    let rows = [
        (json!({"alg": "none"}), alg.clone()),
        (json!({"alg": "None", "kid": "rsa"}), alg.clone()),
        (json!({"alg": "HS256", "kid": "rsa"}), alg.clone()),
        (json!({"alg": "HS256", "kid": "secret"}), alg.clone()),
        (json!({"alg": "PS256", "kid": "rsa"}), alg),
        (json!({"alg": "ES256", "kid": "rsa"}), other.clone()),
        (json!({"alg": "EdDSA", "kid": "ec"}), other),
        (json!({"alg": "EdDSA", "kid": "enc"}), Refusal::UnknownKey),
        (
            json!({"alg": "ES256", "kid": "no such"}),
            Refusal::UnknownKey,
        ),
    ];
    for (header, expected) in rows {
        let token = issuer.sign(&header, &good);
        assert_eq!(verifier.verify(&token, now()), Err(expected), "{header}");
    }
    let stranger = Issuer::new();
    for header in [
        json!({"alg": "ES256", "kid": "ec"}),
        json!({"alg": "EdDSA"}),
    ] {
        let token = stranger.sign(&header, &good);
        assert_eq!(verifier.verify(&token, now()), Err(Refusal::BadSignature));
    }
}

#[test]
fn a_token_that_was_changed_or_is_none_is_refused() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier(&issuer.keys());
    let token = issuer.sign(&json!({"alg": "ES256", "kid": "ec"}), &claims().to_string());
    let parts: Vec<&str> = token.split('.').collect();
    let [header, body, signature] = parts[..] else {
        panic!("{token}");
    };
    let asn1 = issuer
        .p256_asn1
        .sign(&issuer.random, format!("{header}.{body}").as_bytes());
    let changed = base64(with("roles", json!(["admin"])).to_string());
    let bad_signature = [
        format!("{header}.{changed}.{signature}"),
        format!("{header}.{body}."),
        format!("{header}.{body}.{}", base64([0; 64])),
        format!("{header}.{body}.{}", base64(asn1.unwrap())),
        format!("{header}.{body}.{}", &signature[..64]),
    ];
    for token in bad_signature {
        assert_eq!(verifier.verify(&token, now()), Err(Refusal::BadSignature));
    }
    let twice = claims().to_string().replacen('{', r#"{"sub": "root", "#, 1);
    let malformed = [
        String::new(),
        "..".into(),
        format!("{header}.{body}"),
        format!("{token}.{signature}"),
        format!("{header}.{body}.{signature}="),
        format!("{header}.{body}.{signature}!"),
        format!("{}.{body}.{signature}", base64("[]")),
        issuer.sign(
            &json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
            "{}",
        ),
        issuer.sign(&json!({"alg": ["ES256"]}), "{}"),
        issuer.sign(&json!({"alg": "ES256"}), "no JSON"),
        issuer.sign(&json!({"alg": "ES256"}), &twice),
        issuer.sign(&json!({"alg": "ES256"}), &"[".repeat(4_000)),
    ];
    for token in malformed {
        let refused = verifier.verify(&token, now());
        let malformed = matches!(refused, Err(Refusal::Malformed(_)));
        assert!(malformed, "{token}: {refused:?}");
    }
}

#[test]
fn keys_of_one_name_are_all_tried_and_a_key_that_goes_is_gone() {
    let (issuer, before) = (Issuer::new(), Issuer::new());
    let of = |issuer: &Issuer| {
        let mut key = issuer.keys().swap_remove(1);
        key["kid"] = json!("current");
        key
    };
    let both = issuer.verifier(&[of(&before), of(&issuer)]);
    let one = issuer.verifier(&[of(&issuer)]);
    let header = json!({"alg": "EdDSA", "kid": "current"});
    for (signer, known) in [(&issuer, true), (&before, false)] {
        let token = signer.sign(&header, &claims().to_string());
        assert!(both.verify(&token, now()).is_ok());
        assert_eq!(one.verify(&token, now()).is_ok(), known);
    }
}
