//! The commands as a person or a script uses them.

use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::events::{self, TENANT, join};
use crate::kit;
use crate::kit::service::Result;
use crate::world::{World, binary};

pub(crate) fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = kit::service::command(binary(), &world.config);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn published_lines_can_be_read_back() -> Result<()> {
    let world = World::new("publish");
    let service = world.service().await?;
    let mut lines = Vec::new();
    for event in [
        join("e1", "d", "bob", 1),
        events::message("e2", "d", "m", "ann", 5),
    ] {
        lines.extend(event.body);
        lines.push(b'\n');
    }
    let mut publish = command(&world, &["publish", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    publish
        .stdin
        .take()
        .ok_or("no stdin")?
        .write_all(&lines)
        .await?;
    let output = publish.wait_with_output().await?;
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output) + &stderr(&output);
    assert!(said.contains("confirmed 2 of 2"), "{said}");
    service.has_settled(2).await?;

    let address = format!("http://{}", service.grpc);
    let arguments = [
        "get",
        "user-dialog",
        "bob",
        "d",
        "--tenant",
        TENANT,
        "--address",
        &address,
        "--output",
        "json",
    ];
    let output = command(&world, &arguments).output().await?;
    assert!(output.status.success(), "{}", stderr(&output));
    let stats: serde_json::Value = serde_json::from_str(&stdout(&output))?;
    assert_eq!(stats["unread_count"], 1, "{stats}");
    assert_eq!(stats["member"], true, "{stats}");
    service.stop().await
}

#[tokio::test]
async fn a_line_that_is_no_event_is_named_and_the_rest_is_published() -> Result<()> {
    let world = World::new("skip");
    let service = world.service().await?;
    let mut lines = b"not json\n".to_vec();
    lines.extend(events::message("e2", "d", "m", "ann", 5).body);
    let mut publish = command(&world, &["publish", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    publish
        .stdin
        .take()
        .ok_or("no stdin")?
        .write_all(&lines)
        .await?;
    let output = publish.wait_with_output().await?;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("line 1"), "{}", stderr(&output));
    service.has_settled(1).await?;
    service.stop().await
}

#[tokio::test]
async fn check_says_what_it_found() -> Result<()> {
    let world = World::new("check");
    let service = world.service().await?;
    let output = command(&world, &["check", "--output", "json"])
        .output()
        .await?;
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    let found: serde_json::Value = serde_json::from_str(&stdout(&output))?;
    assert_eq!(found["problems"], serde_json::json!([]), "{found}");
    assert!(!stdout(&output).contains("guest:guest"));
    let version = found["rabbitmq"]["version"].as_str().unwrap_or_default();
    let ignores = version.starts_with("3.10.") || version.starts_with("3.11.");
    let said = found["notes"].to_string().contains("consumer_timeout");
    assert_eq!(said, ignores, "{found}");
    service.stop().await?;

    let elsewhere = command(&world, &["check"])
        .env(
            "CHAT_COUNTERS__STORE__URL",
            "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300",
        )
        .output()
        .await?;
    assert!(!elsewhere.status.success(), "{}", stdout(&elsewhere));
    Ok(())
}

#[tokio::test]
async fn wrong_configuration_is_refused_by_its_key() -> Result<()> {
    let world = World::new("config");
    let rows = [
        ("CHAT_COUNTERS__BUS__PREFETCH", "0", "bus.prefetch"),
        ("CHAT_COUNTERS__BUS__NO_SUCH_KEY", "1", "no_such_key"),
        (
            "CHAT_COUNTERS__STORE__URL",
            "http://user:hunter2@host",
            "store.url",
        ),
        (
            "CHAT_COUNTERS__LANES__BATCH_EVENTS",
            "many",
            "lanes.batch_events",
        ),
    ];
    for (variable, value, key) in rows {
        let output = command(&world, &["serve"])
            .env(variable, value)
            .output()
            .await?;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{variable}: {}",
            stderr(&output)
        );
        let said = stderr(&output).to_lowercase();
        assert!(said.contains(key), "{variable}: {said}");
        assert!(!said.contains("hunter2"), "{variable}: {said}");
    }
    Ok(())
}
