//! A broker behind TLS and an authority of its own: it is reached, and what is
//! wrong with a certificate, a user or a password is said in words.

use std::fs;
use std::path::Path;

use chat_counters::config;
use serde_json::Value;

use crate::command_line::{command, stderr, stdout};
use crate::events::message;
use crate::kit::authority::{Authority, Pair};
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service, until};
use crate::world::{World, binary, dialog};

const NAME: &str = "CN=counters,O=Chat\\, Counters";
const D: &str = "dlg";

/// A broker with TLS, and the files of all who talk to it.
struct Secure {
    broker: Server,
    port: u16,
    client: Pair,
    stranger: Pair,
    expired: Pair,
    files: tempfile::TempDir,
}

impl Secure {
    async fn start() -> Result<Self> {
        let files = tempfile::tempdir()?;
        let at = files.path();
        let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
        fs::write(at.join("ca.crt"), ours.pem())?;
        fs::write(at.join("other.crt"), other.pem())?;
        fs::write(at.join("empty.crt"), "")?;
        ours.sign(at, &["127.0.0.1"], ("Chat", "server"), 90)?;
        let client = ours.sign(at, &[], ("Chat, Counters", "counters"), 5)?;
        let stranger = ours.sign(at, &[], ("Chat", "stranger"), 90)?;
        let expired = ours.sign(at, &[], ("Chat", "expired"), -1)?;
        let (broker, port) = Server::tls_rabbit("tls", at).await?;
        Ok(Self {
            broker,
            port,
            client,
            stranger,
            expired,
            files,
        })
    }

    fn url(&self, user: &str) -> config::Url {
        format!("amqps://{user}127.0.0.1:{}/%2f", self.port).into()
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    async fn user(&self, name: &str) -> Result<()> {
        self.broker.ctl(&["add_user", name, "first"]).await?;
        let all = [".*"; 3];
        let grant = [&["set_permissions", name][..], &all].concat();
        self.broker.ctl(&grant).await.map(drop)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What `check` says of the broker: its report, and the problems as text.
pub(crate) async fn check(world: &World) -> Result<(Value, String)> {
    let output = command(world, &["check", "--output", "json"]).output();
    let output = output.await?;
    let report = serde_json::from_str::<Value>(&stdout(&output));
    let report = report.map_err(|error| format!("{error}: {}", stderr(&output)))?;
    let problems = report["problems"].as_array().ok_or("no problems")?;
    let problems: Vec<_> = problems.iter().filter_map(Value::as_str).collect();
    Ok((report.clone(), problems.join("\n")))
}

#[tokio::test]
async fn a_broker_behind_tls_is_reached_and_what_is_wrong_is_named() -> Result<()> {
    let secure = Secure::start().await?;
    secure.user(NAME).await?;
    let mut world = World::new("bus_tls");
    let plain = secure.broker.url.clone();

    what_is_wrong_is_named(&secure, &mut world, &plain).await?;

    world.config.bus.url = secure.url("");
    world.config.bus.tls = config::BusTls {
        ca_file: secure.file("ca.crt"),
        cert_file: shown(&secure.client.certificate),
        key_file: shown(&secure.client.key),
    };
    let (report, problems) = check(&world).await?;
    let tls = &report["rabbitmq"]["tls"];
    assert_eq!((&tls["external"], problems.as_str()), (&NAME.into(), ""));
    let certificates = tls["certificates"].as_array().ok_or("none")?;
    assert_eq!(certificates.len(), 3, "{tls}");
    assert_eq!(certificates[0]["subject"], "CN=server,O=Chat");
    let notes = report["notes"].to_string();
    assert!(notes.contains("renew it before"), "{notes}");

    let service = world.service().await?;
    let events: Vec<_> = (0..300)
        .map(|n| message(&format!("e{n}"), D, &format!("m{n}"), "ann", n))
        .collect();
    world.publish(&events).await?;
    service.has_settled(300).await?;
    assert_eq!(dialog(&service, D).await?.0, 300);
    service.stop().await
}

/// The broker refuses, or is refused, each time for another reason.
async fn what_is_wrong_is_named(secure: &Secure, world: &mut World, plain: &str) -> Result<()> {
    let ca = secure.file("ca.crt");
    let guest = secure.url("guest:guest@");
    let tls = |ca_file: &str, client: Option<&Pair>| config::BusTls {
        ca_file: ca_file.into(),
        cert_file: client.map_or(String::new(), |pair| shown(&pair.certificate)),
        key_file: client.map_or(String::new(), |pair| shown(&pair.key)),
    };
    let (other, empty) = (secure.file("other.crt"), secure.file("empty.crt"));
    let mixed = config::BusTls {
        key_file: shown(&secure.stranger.key),
        ..tls(&ca, Some(&secure.client))
    };
    let by_name = guest.expose().replace("127.0.0.1", "localhost");
    let to_plain = plain.replace("amqp://", "amqps://");
    let to_secure = guest.expose().replace("amqps://", "amqp://");
    let expired = shown(&secure.expired.certificate);
    let rows: [(config::Url, config::BusTls, &[&str]); 11] = [
        (guest.clone(), tls(&ca, None), &[]),
        (
            guest.clone(),
            tls(&other, None),
            &["not signed by an authority of", &other],
        ),
        (
            guest.clone(),
            tls("", None),
            &["not signed by a public authority", "bus.tls.ca_file"],
        ),
        (
            guest.clone(),
            tls(&empty, None),
            &["bus.tls.ca_file", &empty, "found none"],
        ),
        (
            guest.clone(),
            mixed,
            &["bus.tls.key_file", "stranger.key", "the private key of"],
        ),
        (
            by_name.into(),
            tls(&ca, None),
            &["not for \"localhost\"", "but for 127.0.0.1"],
        ),
        (
            to_plain.into(),
            tls(&ca, None),
            &["speaks no TLS", "amqp://"],
        ),
        (to_secure.into(), tls("", None), &["wants TLS (amqps://)"]),
        (
            secure.url("guest:no@"),
            tls(&ca, None),
            &["the user \"guest\"", "Correct bus.url"],
        ),
        (
            secure.url(""),
            tls(&ca, Some(&secure.expired)),
            &["has expired: renew it", &expired],
        ),
        (
            secure.url(""),
            tls(&ca, Some(&secure.stranger)),
            &[
                "lets nobody in as \"CN=stranger,O=Chat\"",
                "rabbitmqctl add_user",
            ],
        ),
    ];
    let mut said = Vec::new();
    for (url, tls, words) in rows {
        (world.config.bus.url, world.config.bus.tls) = (url, tls);
        let (report, problems) = check(world).await?;
        for word in words {
            assert!(problems.contains(word), "{word:?} is not in {problems:?}");
        }
        assert_eq!(report["rabbitmq"].is_null(), !words.is_empty(), "{report}");
        assert!(!said.contains(&problems), "twice: {problems}");
        said.push(problems);
    }
    Ok(())
}

#[tokio::test]
async fn a_password_in_a_file_is_rotated_under_a_running_service() -> Result<()> {
    let broker = Server::rabbit("rotate").await?;
    broker.ctl(&["add_user", "rota", "first"]).await?;
    broker
        .ctl(&["set_permissions", "rota", ".*", ".*", ".*"])
        .await?;
    let directory = tempfile::tempdir()?;
    let (file, log) = (
        directory.path().join("password"),
        directory.path().join("log"),
    );
    fs::write(&file, "first\n")?;
    let mut world = World::new("rotate");
    world.config.bus.url = broker.url.replace("guest:guest", "rota").into();
    world.config.bus.password_file = shown(&file);
    let to_log = fs::File::create(&log)?.into();
    let service = Service::spawn_logging(binary(), &world.config, "info", to_log).await?;
    until("a service that is ready", || async {
        service.is_ready().await.then_some(())
    })
    .await?;
    world.publish(&[message("e1", D, "m1", "ann", 1)]).await?;
    service.has_settled(1).await?;

    // The broker has the new one, the file not yet: it goes on trying, and says so.
    broker.ctl(&["change_password", "rota", "hunter2"]).await?;
    broker.ctl(&["close_all_connections", "rotated"]).await?;
    until("words about the password", || async {
        let said = fs::read_to_string(&log).ok()?;
        let words = ["refuses the user", "rota", "Correct bus.password_file"];
        words.iter().all(|word| said.contains(word)).then_some(())
    })
    .await?;
    assert!(!service.is_ready().await);
    fs::write(&file, "hunter2\n")?;
    until("a service that is ready again", || async {
        service.is_ready().await.then_some(())
    })
    .await?;
    world.publish(&[message("e2", D, "m2", "ann", 2)]).await?;
    service.has_settled(2).await?;
    assert!(!fs::read_to_string(&log)?.contains("hunter2"));
    service.stop().await
}
