//! Tokens of an issuer: its keys in a file and under a URL, and what becomes of
//! callers when they change or cannot be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_counters::config::{Auth, Jwt};
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::Code;

use crate::auth::{refused, showing, user, why};
use crate::kit::service::{Result, Service, until};
use crate::world::World;

const ISSUER: &str = "https://issuer.example";

/// A key of the issuer.
struct Key(Ed25519KeyPair, &'static str);

impl Key {
    fn new(id: &'static str) -> Result<Self> {
        let random = ring::rand::SystemRandom::new();
        let key = Ed25519KeyPair::generate_pkcs8(&random)?;
        Ok(Self(Ed25519KeyPair::from_pkcs8(key.as_ref())?, id))
    }

    fn public(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.1, "x": x})
    }

    /// A token of this key, with a claim of its own.
    fn token(&self, claim: &str, value: Value) -> String {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let mut claims = json!({
            "iss": ISSUER, "aud": ["counters"], "sub": "ann", "iat": now, "exp": now + 600,
            "roles": ["user"], "tenants": ["t"],
        });
        claims[claim] = value;
        let header = json!({"alg": "EdDSA", "kid": self.1}).to_string();
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part(header), part(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn good(&self) -> String {
        self.token("jti", json!("1"))
    }
}

fn set(keys: &[&Key]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

fn world(name: &str, jwt: Jwt) -> World {
    let mut world = World::new(name);
    world.config.auth = Auth {
        mode: "jwt".into(),
        jwt: Jwt {
            issuer: ISSUER.into(),
            audience: "counters".into(),
            ..jwt
        },
        ..Auth::default()
    };
    world
}

/// What comes of asking for the counters of a user: nothing, or why not.
async fn asked(service: &Service, token: &str, of: &str) -> Result<Option<(Code, String)>> {
    let shown = showing(service.grpc, Some(token)).await?;
    let answer = CounterServiceClient::new(shown)
        .get_user_stats(user("t", of))
        .await;
    Ok(match answer {
        Ok(_) => None,
        refused => Some(why(refused)),
    })
}

#[tokio::test]
async fn a_user_reads_their_own_counters_by_a_token_of_the_issuer() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("jwks.json");
    let (key, next) = (Key::new("1")?, Key::new("2")?);
    std::fs::write(&file, set(&[&key]))?;
    let jwks_file = file.display().to_string();
    let world = world(
        "jwt_file",
        Jwt {
            jwks_file,
            ..Jwt::default()
        },
    );
    let service = world.service().await?;
    let invalid = || Some(refused(Code::Unauthenticated, "CREDENTIALS_INVALID"));
    let expired = || Some(refused(Code::Unauthenticated, "CREDENTIALS_EXPIRED"));
    let denied = |reason: &str| Some(refused(Code::PermissionDenied, reason));
    assert_eq!(asked(&service, &key.good(), "ann").await?, None);
    let rows = [
        (key.good(), "bob", denied("USER_DENIED")),
        (
            key.token("tenants", json!(["u"])),
            "ann",
            denied("TENANT_DENIED"),
        ),
        (key.token("roles", json!([])), "ann", denied("ROLE_MISSING")),
        (key.token("roles", json!(["admin"])), "bob", None),
        (key.token("exp", json!(1_000)), "ann", expired()),
        (key.token("exp", json!("x")), "ann", invalid()),
        (key.token("aud", json!("others")), "ann", invalid()),
        (next.good(), "ann", invalid()),
        (key.token("sub", json!("x".repeat(9_000))), "ann", invalid()),
    ];
    for (row, (token, of, expected)) in rows.into_iter().enumerate() {
        assert_eq!(asked(&service, &token, of).await?, expected, "row {row}");
    }

    // The issuer goes on to another key.
    std::fs::write(&file, set(&[&next]))?;
    until("the new key is known", || async {
        let answer = asked(&service, &next.good(), "ann").await.ok()?;
        answer.is_none().then_some(())
    })
    .await?;
    assert_eq!(asked(&service, &key.good(), "ann").await?, invalid());
    service.stop().await
}

/// Publishes what is in `answer`, and counts how often it is fetched.
async fn publish(
    listener: TcpListener,
    answer: Arc<std::sync::Mutex<String>>,
    fetched: Arc<AtomicUsize>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        fetched.fetch_add(1, Ordering::SeqCst);
        let mut request = [0; 4_096];
        let _ = stream.read(&mut request).await;
        let body = answer.lock().unwrap().clone();
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all((head + &body).as_bytes()).await;
    }
}

#[tokio::test]
async fn keys_under_a_url_are_fetched_seldom_and_outlive_their_server() -> Result<()> {
    let (key, stranger) = (Key::new("1")?, Key::new("2")?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let jwks_url = format!("http://{}/keys", listener.local_addr()?);
    let answer = Arc::new(std::sync::Mutex::new("no keys yet".to_owned()));
    let fetched = Arc::new(AtomicUsize::new(0));
    let server = tokio::spawn(publish(listener, answer.clone(), fetched.clone()));
    let world = world(
        "jwt_url",
        Jwt {
            jwks_url,
            ..Jwt::default()
        },
    );
    let service = world.service().await?;
    // It is not the caller's fault, and may be better in a moment.
    let unavailable = refused(Code::Unavailable, "KEYS_UNAVAILABLE");
    assert_eq!(
        asked(&service, &key.good(), "ann").await?,
        Some(unavailable)
    );

    *answer.lock().unwrap() = set(&[&key]);
    until("the keys are fetched", || async {
        let answer = asked(&service, &key.good(), "ann").await.ok()?;
        answer.is_none().then_some(())
    })
    .await?;
    let before = fetched.load(Ordering::SeqCst);
    let begun = Instant::now();
    let invalid = Some(refused(Code::Unauthenticated, "CREDENTIALS_INVALID"));
    let mut slowest = Duration::ZERO;
    let bad = showing(service.grpc, Some(&stranger.good())).await?;
    let good = showing(service.grpc, Some(&key.good())).await?;
    let (mut bad, mut good) = (
        CounterServiceClient::new(bad),
        CounterServiceClient::new(good),
    );
    for _ in 0..1_000 {
        let answer = bad.get_user_stats(user("t", "ann")).await;
        assert_eq!(Some(why(answer)), invalid);
        let asked = Instant::now();
        good.get_user_stats(user("t", "ann")).await?;
        slowest = slowest.max(asked.elapsed());
    }
    let more = fetched.load(Ordering::SeqCst) - before;
    let allowed = 1 + begun.elapsed().as_secs() as usize / 30;
    assert!(more <= allowed, "{more} fetches in {:?}", begun.elapsed());
    println!("1,000 unknown keys: {more} fetches, slowest good call {slowest:?}");

    // Nonsense takes no key away, and neither does silence.
    *answer.lock().unwrap() = r#"{"keys": []}"#.into();
    server.abort();
    assert_eq!(asked(&service, &key.good(), "ann").await?, None);
    let at = service.counter("chat_counters_auth_keys_fetched_timestamp_seconds", "");
    assert!(at.await? > 1_700_000_000);
    service.stop().await
}
