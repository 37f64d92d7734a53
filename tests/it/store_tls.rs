//! A database behind TLS and passwords: it is reached, and what is wrong is said
//! in words.

use std::fs;

use mongodb::Client;
use mongodb::bson::{Document, doc};

use crate::bus_tls::check;
use crate::command_line::{command, stderr};
use crate::events::message;
use crate::kit::authority::Authority;
use crate::kit::servers::Server;
use crate::kit::service::{PATIENCE, Result, Service, until};
use crate::world::{World, binary, dialog};

const D: &str = "dlg";

/// A database with TLS and users, and the files of all who talk to it.
struct Guarded {
    server: Server,
    files: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Result<Self> {
        let files = tempfile::tempdir()?;
        let at = files.path();
        let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
        fs::write(at.join("ca.crt"), ours.pem())?;
        fs::write(at.join("other.crt"), other.pem())?;
        fs::write(at.join("empty.crt"), "# none yet\n")?;
        let pair = ours.sign(at, &["127.0.0.1"], ("Chat", "mongod"), 90)?;
        let both = fs::read_to_string(pair.certificate)? + &fs::read_to_string(pair.key)?;
        fs::write(at.join("server.pem"), both)?;
        let server = Server::guarded_mongod("guarded", at).await?;
        let guarded = Self { server, files };
        let root = doc! { "createUser": "root", "pwd": "root", "roles": ["root"] };
        let first = Client::with_uri_str(guarded.plain("")).await?;
        first.database("admin").run_command(root).await?;
        for (user, role) in [
            ("counters", "readWriteAnyDatabase"),
            ("nobody", "clusterMonitor"),
        ] {
            let command = doc! { "createUser": user, "pwd": "first", "roles": [role] };
            guarded.admin(command).await?;
        }
        Ok(guarded)
    }

    async fn admin(&self, command: mongodb::bson::Document) -> Result<()> {
        let root = Client::with_uri_str(self.plain("root:root@")).await?;
        root.database("admin").run_command(command).await?;
        Ok(())
    }

    fn plain(&self, user: &str) -> String {
        let url = self
            .server
            .url
            .replace("mongodb://", &format!("mongodb://{user}"));
        url + "&serverSelectionTimeoutMS=2000"
    }

    fn url(&self, user: &str, options: &str) -> String {
        format!("{}&tls=true{options}", self.plain(user))
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }
}

#[tokio::test]
async fn a_database_behind_tls_is_reached_and_what_is_wrong_is_named() -> Result<()> {
    let guarded = Guarded::start().await?;
    let mut world = World::new("store_tls");
    let ca = |name: &str| format!("&tlsCAFile={}", guarded.file(name));
    let user = "counters:first@";
    let insecure = "&tlsAllowInvalidCertificates=true";
    let rows: [(String, bool, &[&str]); 9] = [
        (guarded.url(user, &ca("ca.crt")), false, &[]),
        (guarded.url(user, insecure), true, &[]),
        (
            guarded.url(user, insecure),
            false,
            &["tlsAllowInvalidCertificates", "allow_insecure_tls"],
        ),
        (
            guarded.url(user, &ca("other.crt")),
            false,
            &["by none of the authorities of tlsCAFile"],
        ),
        (
            guarded.url(user, &ca("empty.crt")),
            false,
            &["empty.crt", "found none"],
        ),
        (
            guarded.url(user, &ca("missing.crt")),
            false,
            &["missing.crt", "No such file"],
        ),
        (
            guarded.url(
                user,
                &format!("&tlsCertificateKeyFile={}", guarded.file("ca.crt")),
            ),
            false,
            &["tlsCertificateKeyFile", "a private key"],
        ),
        (
            guarded.url("counters:no@", &ca("ca.crt")),
            false,
            &["the user \"counters\"", "Correct store.url"],
        ),
        (
            guarded.url("nobody:first@", &ca("ca.crt")),
            false,
            &["readWrite"],
        ),
    ];
    for (url, allowed, words) in rows {
        world.config.store.url = url.into();
        world.config.store.allow_insecure_tls = allowed;
        let (report, problems) = check(&world).await?;
        for word in words {
            assert!(problems.contains(word), "{word:?} is not in {problems:?}");
        }
        assert_eq!(problems.is_empty(), words.is_empty(), "{report}");
    }

    // At the start they are reasons to end.
    world.config.store.allow_insecure_tls = false;
    for (user, words) in [
        ("counters:no@", "the user \"counters\""),
        ("nobody:first@", "the user \"nobody\""),
    ] {
        world.config.store.url = guarded.url(user, &ca("ca.crt")).into();
        let serve = command(&world, &["serve"])
            .env("CHAT_COUNTERS__GRPC__LISTEN", "127.0.0.1:0")
            .env("CHAT_COUNTERS__METRICS__LISTEN", "")
            .env("CHAT_COUNTERS__LOG__FORMAT", "human")
            .output();
        let output = tokio::time::timeout(PATIENCE, serve).await??;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(stderr(&output).contains(words), "{output:?}");
    }
    rotated(&guarded, &mut world).await
}

/// The service's user, as created anew.
fn again() -> Document {
    doc! { "createUser": "counters", "pwd": "hunter2", "roles": ["readWriteAnyDatabase"] }
}

/// A password is rotated while events are counted.
async fn rotated(guarded: &Guarded, world: &mut World) -> Result<()> {
    let (url, password) = (guarded.file("url"), guarded.file("password"));
    let log = guarded.files.path().join("log");
    fs::write(
        &url,
        guarded.url(
            "counters@",
            &format!("&tlsCAFile={}", guarded.file("ca.crt")),
        ),
    )?;
    fs::write(&password, "first")?;
    world.config.store.url_file = url;
    world.config.store.password_file.clone_from(&password);
    let to_log = fs::File::create(&log)?.into();
    let service = Service::spawn_logging(binary(), &world.config, "info", to_log).await?;
    until("a service that is ready", || async {
        service.is_ready().await.then_some(())
    })
    .await?;
    let said = async |words: &str| {
        until(words, || async {
            let said = fs::read_to_string(&log).ok()?;
            said.contains(words).then_some(())
        })
        .await
    };
    world.publish(&[message("e1", D, "m1", "ann", 1)]).await?;
    service.has_settled(1).await?;

    // The file is ahead: what is there goes on.
    fs::write(&password, "hunter2")?;
    said("the ones before stay").await?;
    world.publish(&[message("e2", D, "m2", "ann", 2)]).await?;
    service.has_settled(2).await?;

    guarded
        .admin(doc! { "updateUser": "counters", "pwd": "hunter2" })
        .await?;
    said("have changed: taken up").await?;
    let events: Vec<_> = (3..200)
        .map(|n| message(&format!("e{n}"), D, &format!("m{n}"), "ann", n))
        .collect();
    world.publish(&events).await?;
    service.has_settled(199).await?;
    assert_eq!(dialog(&service, D).await?.0, 199);

    // Gone altogether: it goes on trying, says so, and is told by its health.
    guarded.admin(doc! { "dropUser": "counters" }).await?;
    until("a service that is not ready", || async {
        (!service.is_ready().await).then_some(())
    })
    .await?;
    guarded.admin(again()).await?;
    world
        .publish(&[message("e200", D, "m200", "ann", 200)])
        .await?;
    service.has_settled(200).await?;

    // Created anew before anything could fail to log in: every connection that
    // there is has been logged out by it.
    guarded.admin(doc! { "dropUser": "counters" }).await?;
    guarded.admin(again()).await?;
    world
        .publish(&[message("e201", D, "m201", "ann", 201)])
        .await?;
    service.has_settled(201).await?;
    said("logged in anew").await?;
    assert!(!fs::read_to_string(&log)?.contains("hunter2"));
    service.stop().await
}
