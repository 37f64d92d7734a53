//! `chat-counters dlq` as a person and as a script use it.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use chat_counters::grpc::v1::SyncDeadLettersRequest;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use mongodb::bson::doc;
use serde_json::Value;

use crate::command_line::{command, stderr, stdout};
use crate::dlq::{accept, client, listed, poison, refuse};
use crate::events::{self, Wire, join, raw};
use crate::kit::servers::Server;
use crate::kit::service::{PATIENCE, Result, Service, until};
use crate::world::{World, dialog, unread};

/// Runs a command; a service is asked at its own address.
async fn dlq(world: &World, service: Option<&Service>, arguments: &[&str]) -> Result<Output> {
    let mut tool = command(world, &["dlq"]);
    match service {
        Some(service) => tool.args(["--address", &service.admin.to_string()]),
        None => tool.arg("--direct"),
    };
    let run = tool
        .args(arguments)
        .env("USER", "sre")
        .env_remove("SUDO_USER");
    Ok(tokio::time::timeout(PATIENCE, run.output()).await??)
}

/// Runs one that must succeed; what it prints for a program.
async fn json(world: &World, service: Option<&Service>, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["--output", "json"], arguments].concat();
    let output = dlq(world, service, &arguments).await?;
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        stderr(&output)
    );
    Ok(serde_json::from_str(&stdout(&output))?)
}

/// A service with so many letters that can be counted by now, a member who has
/// not read them, and four letters that no replay can cure.
async fn incident(world: &World, letters: usize) -> Result<Service> {
    let service = world.service().await?;
    refuse(world, "m_").await?;
    let messages = events::messages("m", "d", letters, 1_000);
    let members = [join("j", "d", "bob", 1), join("j2", "d", "eve", 1)];
    let poison = poison();
    let all = members.iter().chain(&messages).chain(&poison);
    world.publish(all).await?;
    listed(&client(&service).await?, letters + poison.len()).await?;
    accept(world).await?;
    Ok(service)
}

#[tokio::test]
async fn an_incident_is_seen_understood_and_mended() -> Result<()> {
    let world = World::new("incident");
    let service = incident(&world, 20).await?;
    let on = Some(&service);

    let groups = json(&world, on, &["groups"]).await?;
    assert_eq!(
        (&groups["total"], &groups["groups"][0]["count"]),
        (&25.into(), &20.into())
    );
    let group = groups["groups"][0]["group_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let table = dlq(&world, on, &["groups"]).await?;
    assert!(stdout(&table).contains(&group), "{}", stdout(&table));
    assert!(
        stdout(&table).contains("rejected_by_store"),
        "{}",
        stdout(&table)
    );
    assert!(
        stderr(&table).contains("25 dead letters of 4 causes"),
        "{}",
        stderr(&table)
    );

    let of_group = ["list", "--group", &group, "--since", "1h", "--limit", "3"];
    let page = json(&world, on, &of_group).await?;
    assert_eq!(page["total"], 20);
    assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(3));
    let table = dlq(
        &world,
        on,
        &["list", "--why", "undecodable", "--why", "invalid_event"],
    )
    .await?;
    assert_eq!(stdout(&table).lines().count(), 1 + 5, "{}", stdout(&table));

    let p3 = json(&world, on, &["list", "--event", "p3"]).await?;
    let id = p3["dead_letters"][0]["id"].as_str().unwrap_or_default();
    let shown = stdout(&dlq(&world, on, &["show", &id[..8]]).await?);
    let error = "data.message.senderId: expected a string, found number 17";
    assert!(shown.contains(error), "{shown}");
    assert!(shown.contains("\n      \"senderId\": 17\n"), "{shown}");
    let body = dlq(&world, on, &["show", id, "--body"]).await?;
    assert_eq!(body.stdout, poison()[3].body);

    let plan = json(&world, on, &["replay", "--all", "--dry-run"]).await?;
    assert_eq!(
        (&plan["selected"], &plan["applied"]),
        (&25.into(), &20.into()),
        "{plan}"
    );
    let totals = plan["totals"].as_array().cloned().unwrap_or_default();
    let total = |counter: &str| {
        let of = totals.iter().find(|total| total["counter"] == counter);
        of.map(|total| (total["delta"].as_i64(), total["subjects"].as_i64()))
    };
    assert_eq!(total("unread_count"), Some((Some(40), Some(2))), "{plan}");
    assert_eq!(total("message_count"), Some((Some(20), Some(1))), "{plan}");
    let failing: i64 = plan["failures"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|failure| failure["count"].as_i64())
        .sum();
    assert_eq!(failing, 5, "{plan}");
    assert_eq!(
        unread(&service, "bob", "d").await?,
        0,
        "nothing was counted"
    );
    let planned = stdout(&dlq(&world, on, &["replay", "--group", &group, "--dry-run"]).await?);
    assert!(planned.contains("20  would be counted"), "{planned}");

    let replay = [
        "replay",
        "--group",
        &group,
        "--reason",
        "the validator is gone",
    ];
    let done = dlq(&world, on, &replay).await?;
    assert_eq!(stdout(&done), "20 of 20 replayed\n", "{}", stderr(&done));
    assert_eq!(done.status.code(), Some(0));
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 20).then_some(())
    })
    .await?;
    let again = json(&world, on, &replay).await?;
    assert_eq!(
        (&again["selected"], &again["finished"]),
        (&0.into(), &true.into())
    );
    // What no replay cures comes back, and that is said.
    let cured = dlq(&world, on, &["replay", "--event", "p3"]).await?;
    assert_eq!(cured.status.code(), Some(1), "{}", stdout(&cured));
    assert!(
        stdout(&cured).contains("1 have failed again"),
        "{}",
        stdout(&cured)
    );

    let audit = json(&world, on, &["audit"]).await?;
    let jobs = audit.as_array().cloned().unwrap_or_default();
    assert_eq!(jobs.len(), 3, "{audit}");
    let first = &jobs[2];
    assert_eq!(first["kind"], "replay");
    assert_eq!(first["reason"], "the validator is gone");
    assert_eq!(first["done"], 20);
    // Who asked and from where, and what they said of themselves.
    let actor = first["actor"].as_str().unwrap_or_default();
    assert!(actor.starts_with("anonymous (grpc:127.0.0.1:"), "{actor}");
    assert_eq!(first["claimed_actor"], "cli:sre");
    service.stop().await
}

#[tokio::test]
async fn letters_are_discarded_only_on_purpose() -> Result<()> {
    let world = World::new("on_purpose");
    let service = incident(&world, 3).await?;
    let on = Some(&service);
    let code = async |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = dlq(&world, on, arguments).await?;
        Ok((output.status.code(), stderr(&output)))
    };
    let usage = [
        (&["discard", "--all"][..], "--reason"),
        (&["discard", "--reason", "x"], "--all"),
        (&["replay"], "--all"),
        (&["discard", "--all", "--reason", "x"], "--yes"),
        (&["list", "--why", "bad_luck"], "bad_luck"),
        (&["list", "--since", "yesterday"], "RFC 3339"),
        (&["list", "abc"], "abc"),
    ];
    for (arguments, said) in usage {
        let (code, text) = code(arguments).await?;
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    let (missing, text) = code(&["show", "ffffffffff"]).await?;
    assert_eq!(missing, Some(1), "{text}");
    let elsewhere = command(&world, &["dlq", "--address", "127.0.0.1:1", "list"])
        .output()
        .await?;
    assert_eq!(elsewhere.status.code(), Some(3), "{}", stderr(&elsewhere));
    assert_eq!(listed(&client(&service).await?, 8).await?.len(), 8);

    // One needs no question, several need a yes.
    let p3 = json(
        &world,
        on,
        &["discard", "--event", "p3", "--reason", "a test"],
    )
    .await?;
    assert_eq!(p3["done"], 1);
    let rest = [
        "discard",
        "--why",
        "undecodable",
        "--reason",
        "never events",
        "--yes",
    ];
    assert_eq!(json(&world, on, &rest).await?["done"], 3);
    let discarded = json(&world, on, &["list", "--discarded"]).await?;
    assert_eq!(discarded["total"], 4);
    let id = discarded["dead_letters"][0]["id"]
        .as_str()
        .unwrap_or_default();
    let body = dlq(&world, on, &["show", id, "--body"]).await?;
    assert!(poison().iter().any(|poison| poison.body == body.stdout));
    let back = dlq(&world, on, &["undiscard", id]).await?;
    assert_eq!(stdout(&back), "1 of 1 put back\n", "{}", stderr(&back));
    listed(&client(&service).await?, 5).await?;
    service.stop().await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 5);
    Ok(())
}

#[tokio::test]
async fn a_body_is_edited_by_hand_by_path_and_from_a_file() -> Result<()> {
    let world = World::new("edited");
    let service = world.service().await?;
    let bad = ["a", "b", "c"].map(|id| {
        let good = events::message(id, "d", &format!("m{id}"), "ann", 5);
        let body = String::from_utf8_lossy(&good.body).replace("\"ann\"", "17");
        Wire {
            body: body.into_bytes(),
            ..good
        }
    });
    world
        .publish([&join("j", "d", "bob", 1)].into_iter().chain(&bad))
        .await?;
    let letters = listed(&client(&service).await?, 3).await?;
    let id = |event: &str| {
        let of = letters
            .iter()
            .find(|letter| letter.event_id.ends_with(event));
        of.map(|letter| letter.id.clone()).unwrap_or_default()
    };
    let edit = async |id: &str, editor: &str, how: &[&str]| -> Result<Output> {
        let mut tool = command(&world, &["dlq", "--address", &service.admin.to_string()]);
        let reason = ["edit", id, "--reason", "sender was a number", "--yes"];
        tool.args(reason)
            .args(how)
            .env_remove("VISUAL")
            .env("EDITOR", editor);
        Ok(tokio::time::timeout(PATIENCE, tool.output()).await??)
    };

    // What will not do changes nothing, and says why.
    let refused = [
        ("true", &[][..], "was not changed"),
        ("false", &[], "left with a failure"),
        (
            "true",
            &["--set", "data.message.senderId=[]"],
            "data.message.senderId: expected a string",
        ),
        (
            "true",
            &[
                "--set",
                "data.message.senderId=ann",
                "--set",
                "eventId=another",
            ],
            "counted twice",
        ),
        (
            "true",
            &["--set", "eventType=user.create"],
            "changes no counter",
        ),
        (
            "true",
            &["--set", "data.message.senderId.x=1"],
            "found a number",
        ),
        ("true", &["--file", "/nonexistent"], "/nonexistent"),
    ];
    for (editor, how, said) in refused {
        let output = edit(&id("a"), editor, how).await?;
        let text = stderr(&output);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{how:?}: {text}"
        );
        assert!(text.contains(said), "{how:?}: {text}");
    }
    listed(&client(&service).await?, 3).await?;

    let by_path = edit(&id("a"), "false", &["--set", "data.message.senderId=ann"]).await?;
    assert!(by_path.status.success(), "{}", stderr(&by_path));
    let difference = stdout(&by_path);
    assert!(
        difference.contains("-      \"senderId\": 17,\n+      \"senderId\": \"ann\",\n"),
        "{difference}"
    );
    let by_hand = edit(&id("b"), "sed -i 's/: 17/: \"ann\"/'", &[]).await?;
    assert!(by_hand.status.success(), "{}", stderr(&by_hand));
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(
        file.path(),
        String::from_utf8_lossy(&bad[2].body).replace("17", "\"ann\""),
    )?;
    let path = file.path().to_string_lossy();
    let tried = edit(&id("c"), "false", &["--file", &path, "--dry-run"]).await?;
    assert!(tried.status.success(), "{}", stderr(&tried));
    listed(&client(&service).await?, 1).await?;
    let by_file = edit(&id("c"), "false", &["--file", &path]).await?;
    assert!(by_file.status.success(), "{}", stderr(&by_file));
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 3).then_some(())
    })
    .await?;

    let audit = json(&world, Some(&service), &["audit"]).await?;
    let edits = audit.as_array().cloned().unwrap_or_default();
    assert_eq!(edits.len(), 3, "{audit}");
    for (edit, bad) in edits.iter().rev().zip(&bad) {
        assert_eq!(
            edit["edit"]["body_before"],
            String::from_utf8_lossy(&bad.body).as_ref()
        );
        assert!(
            edit["edit"]["body_after"]
                .as_str()
                .unwrap_or_default()
                .contains("\"ann\"")
        );
    }
    service.stop().await
}

/// Sends a signal to a process that is under way.
fn interrupt(tool: &tokio::process::Child) -> Result<()> {
    let pid = tool.id().ok_or("it has ended")?.to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status()?;
    assert!(sent.success());
    Ok(())
}

#[tokio::test]
async fn an_interrupted_replay_goes_on_with_the_letters_it_began_with() -> Result<()> {
    const LETTERS: usize = 40;
    let world = World::new("interrupted");
    let service = incident(&world, LETTERS).await?;
    let address = service.admin.to_string();
    let replay = [
        "--output",
        "json",
        "replay",
        "--why",
        "rejected_by_store",
        "--since",
        "1h",
        "--rate",
        "20",
    ];
    let mut tool = command(&world, &["dlq", "--address", &address]);
    let began = Instant::now();
    let tool = tool.args(replay).stdout(Stdio::piped()).spawn()?;
    until("some counted", || async {
        (unread(&service, "bob", "d").await.ok()? >= 3).then_some(())
    })
    .await?;
    interrupt(&tool)?;
    let output = tokio::time::timeout(PATIENCE, tool.wait_with_output()).await??;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let told: Value = serde_json::from_str(&stdout(&output))?;
    assert_eq!(
        (&told["selected"], &told["finished"]),
        (&LETTERS.into(), &false.into())
    );

    // One more of the same kind: not of the selection.
    until("the interrupted job to have ended", || async {
        let state = json(&world, Some(&service), &["list"]).await.ok()?;
        (state["index"]["busy"] == false).then_some(())
    })
    .await?;
    let left = json(
        &world,
        Some(&service),
        &["list", "--why", "rejected_by_store"],
    )
    .await?;
    let left = left["total"].as_u64().unwrap_or_default();
    assert!((1..LETTERS as u64).contains(&left), "{left} left");
    refuse(&world, "late").await?;
    let late = events::message("late", "d", "late", "ann", 9);
    world.publish(&[late]).await?;
    listed(
        &client(&service).await?,
        usize::try_from(left)? + 1 + poison().len(),
    )
    .await?;
    accept(&world).await?;

    let done = json(&world, Some(&service), &replay[2..]).await?;
    assert_eq!(
        (
            &done["selected"],
            &done["done"],
            &done["resumed"],
            &done["finished"]
        ),
        (&LETTERS.into(), &LETTERS.into(), &true.into(), &true.into())
    );
    let rate = LETTERS as f64 / began.elapsed().as_secs_f64();
    assert!(rate < 25.0, "{rate} letters a second");
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == LETTERS as i64).then_some(())
    })
    .await?;
    let late = json(
        &world,
        Some(&service),
        &["list", "--why", "rejected_by_store"],
    )
    .await?;
    assert_eq!(late["total"], 1);
    service.stop().await
}

#[tokio::test]
async fn a_replay_waits_for_live_traffic() -> Result<()> {
    const LETTERS: usize = 30;
    const BRAKE: u32 = 5;
    let world = World::new("brake");
    // Nobody counts: what is replayed stays in the queue.
    incident(&world, LETTERS).await?.stop().await?;
    let brake = BRAKE.to_string();
    let replay = [
        "replay",
        "--why",
        "rejected_by_store",
        "--rate",
        "200",
        "--brake-at",
        &brake,
    ];
    let mut tool = command(&world, &["dlq", "--direct", "--output", "json"]);
    let tool = tool.args(replay).spawn()?;
    let queue = &world.config.bus.queue;
    until("the brake to be on", || async {
        (world.depth(queue).await.ok()? > BRAKE).then_some(())
    })
    .await?;
    // A batch at that rate is 20 letters; then it waits.
    let on = Instant::now();
    while on.elapsed() < Duration::from_secs(1) {
        assert!(world.depth(queue).await? <= BRAKE + 20);
        tokio::task::yield_now().await;
    }
    let service = world.service().await?;
    let output = tokio::time::timeout(PATIENCE, tool.wait_with_output()).await??;
    let done: Value = serde_json::from_str(&stdout(&output))?;
    assert_eq!(
        (&done["done"], &done["finished"]),
        (&LETTERS.into(), &true.into())
    );
    assert_eq!(unread(&service, "bob", "d").await?, LETTERS as i64);
    service.stop().await
}

#[tokio::test]
async fn without_a_service_the_tool_works_on_the_servers() -> Result<()> {
    let world = World::new("direct");
    incident(&world, 4).await?.stop().await?;
    // No address was given: that none answers is said, and no failure.
    let mut tool = command(&world, &["dlq", "groups"]);
    let output = tool
        .env("CHAT_COUNTERS__ADMIN__LISTEN", "127.0.0.1:1")
        .output()
        .await?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("working on RabbitMQ and MongoDB directly"),
        "{}",
        stderr(&output)
    );
    assert!(stdout(&output).contains("rejected_by_store"));
    let done = json(&world, None, &["replay", "--why", "rejected_by_store"]).await?;
    assert_eq!(
        (&done["done"], &done["finished"]),
        (&4.into(), &true.into())
    );

    // An index that lost entries is set right from the queue.
    let index = world
        .database()
        .await?
        .collection::<mongodb::bson::Document>("dead_letters");
    index.delete_many(doc! {}).await?;
    let synced = json(&world, None, &["sync"]).await?;
    assert_eq!(
        (&synced["examined"], &synced["added"]),
        (&5.into(), &5.into())
    );
    let service = world.service().await?;
    let mut client = client(&service).await?;
    client.sync_dead_letters(SyncDeadLettersRequest {}).await?;
    listed(&client, 5).await?;
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 4).then_some(())
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn a_body_too_large_to_look_at_is_replayed_and_discarded_all_the_same() -> Result<()> {
    const LARGE: usize = 2 << 20;
    const TOO_LARGE_TO_KEEP: usize = 16 << 20;
    let world = World::new("large");
    let service = world.service().await?;
    let on = Some(&service);
    for size in [LARGE, TOO_LARGE_TO_KEEP] {
        world.publish(&[raw(&vec![b'x'; size])]).await?;
    }
    listed(&client(&service).await?, 2).await?;
    let page = json(&world, on, &["list"]).await?;
    let letters = page["dead_letters"].as_array().cloned().unwrap_or_default();
    let large = letters.iter().find(|letter| letter["body_bytes"] == LARGE);
    let large = large.ok_or("no such letter")?;
    assert_eq!(large["reason"], "too_large");
    let id = large["id"].as_str().unwrap_or_default();
    let shown = stdout(&dlq(&world, on, &["show", id]).await?);
    assert!(
        shown.contains("(2097152 bytes, too many for the index)"),
        "{shown}"
    );
    let edited = ["edit", id, "--set", "a=1", "--reason", "a test", "--yes"];
    let edited = dlq(&world, on, &edited).await?;
    assert_eq!(edited.status.code(), Some(1));
    assert!(stderr(&edited).contains("too large"), "{}", stderr(&edited));
    let plan = json(&world, on, &["replay", "--all", "--dry-run"]).await?;
    assert_eq!(plan["not_examined"], 2, "{plan}");

    let discard = ["discard", "--all", "--reason", "a test", "--yes"];
    let discarded = dlq(&world, on, &discard).await?;
    let said = stdout(&discarded);
    assert!(
        said.contains("1 of 2 discarded, 1 left where they are"),
        "{said}"
    );
    let back = dlq(&world, on, &["undiscard", "--all"]).await?;
    assert_eq!(stdout(&back), "1 of 1 put back\n", "{}", stderr(&back));
    let again = dlq(&world, on, &["replay", "--all"]).await?;
    let said = stdout(&again);
    assert!(said.contains("2 of 2 replayed"), "{said}{}", stderr(&again));
    // How many of them have failed again by its end depends on how fast 16 MiB
    // travel. That both do is for the letters to tell.
    until("both letters to fail again", || async {
        let letters = listed(&client(&service).await.ok()?, 2).await.ok()?;
        let again = letters.iter().all(|letter| letter.attempts == 2);
        again.then_some(())
    })
    .await?;
    let mut sizes = Vec::new();
    for letter in world.letters(2).await? {
        sizes.push(letter.body.len());
    }
    sizes.sort_unstable();
    assert_eq!(sizes, [LARGE, TOO_LARGE_TO_KEEP]);
    service.stop().await
}

/// Puts a letter of another tool into the dead-letter queue, with so many bytes
/// of headers.
async fn put(world: &World, event: &Wire, headers: usize) -> Result<()> {
    let (connection, channel) = world.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut table = FieldTable::default();
    let large = AMQPValue::LongString("x".repeat(headers).into());
    table.insert("large".into(), large);
    let queue = world.config.bus.dead_letter_queue.as_str();
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_headers(table);
    let sent = channel.basic_publish("".into(), queue.into(), options, &event.body, properties);
    sent.await?.await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Larger headers than a frame takes with those of a replay.
const TOO_LARGE: usize = 131_000;

#[tokio::test]
async fn a_letter_that_cannot_be_sent_is_told_and_all_others_go() -> Result<()> {
    let world = World::new("unsendable");
    world.service().await?.stop().await?;
    let events = events::messages("m", "d", 3, 1_000);
    for (event, headers) in events.iter().zip([10, TOO_LARGE, 10]) {
        put(&world, event, headers).await?;
    }
    json(&world, None, &["sync"]).await?;
    let queue = &world.config.bus.dead_letter_queue;
    let large = json(&world, None, &["list", "--event", "evt_m_1"]).await?;
    let id = large["dead_letters"][0]["id"].as_str().unwrap_or_default();
    let plan = json(&world, None, &["replay", "--all", "--dry-run"]).await?;
    assert_eq!(
        (&plan["selected"], &plan["unsendable"]),
        (&3.into(), &1.into())
    );
    assert_eq!(plan["unsendable_letters"][0]["letter_id"], id);
    let cause = plan["unsendable_letters"][0]["cause"].as_str();
    assert!(
        cause.unwrap_or_default().contains("frames of 131072"),
        "{plan}"
    );

    let replay = ["--output", "json", "replay", "--all"];
    let replayed = dlq(&world, None, &replay).await?;
    assert_eq!(replayed.status.code(), Some(1), "{}", stderr(&replayed));
    let told: Value = serde_json::from_str(&stdout(&replayed))?;
    assert_eq!(
        (&told["selected"], &told["done"], &told["failed"]),
        (&3.into(), &2.into(), &1.into()),
        "{told}"
    );
    assert_eq!(
        (&told["finished"], &told["missing"]),
        (&true.into(), &0.into())
    );
    let failure = &told["failures"][0];
    assert_eq!(failure["letter_id"], id);
    let cause = failure["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("RabbitMQ takes frames of 131072"), "{cause}");
    assert_eq!(world.depth(&world.config.bus.queue).await?, 2);
    assert_eq!(world.depth(queue).await?, 1);
    let audit = json(&world, None, &["audit"]).await?;
    assert_eq!(
        (&audit[0]["failed"], &audit[0]["failures"][0]),
        (&1.into(), failure)
    );

    // It is free for the next job, and for people.
    let again = dlq(&world, None, &["replay", "--all"]).await?;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(stdout(&again), "0 of 1 replayed, 1 left where they are\n");
    assert!(
        stderr(&again).contains(&format!("{id}: its properties")),
        "{}",
        stderr(&again)
    );
    let edit = [
        "edit",
        id,
        "--set",
        "createdAt=5",
        "--reason",
        "a test",
        "--yes",
    ];
    let edited = dlq(&world, None, &edit).await?;
    assert_eq!(edited.status.code(), Some(1), "{}", stderr(&edited));
    assert!(
        stderr(&edited).contains("takes frames of 131072"),
        "{}",
        stderr(&edited)
    );
    let discard = ["discard", id, "--reason", "a test"];
    assert_eq!(json(&world, None, &discard).await?["done"], 1);

    // Put back through frames that are smaller than those in which it came.
    let mut narrow = command(&world, &["dlq", "--direct", "undiscard", "--all"]);
    let url = format!("{}?frame_max=65536", world.config.bus.url.expose());
    let back = narrow.env("CHAT_COUNTERS__BUS__URL", url).output().await?;
    assert_eq!(
        stdout(&back),
        "0 of 1 put back, 1 left where they are\n",
        "{}",
        stderr(&back)
    );
    let back = dlq(&world, None, &["undiscard", "--all"]).await?;
    assert_eq!(stdout(&back), "1 of 1 put back\n", "{}", stderr(&back));
    assert_eq!(world.depth(queue).await?, 1);

    let service = world.service().await?;
    until("the others counted", || async {
        (dialog(&service, "d").await.ok()?.0 == 2).then_some(())
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn letters_that_a_full_queue_refuses_are_told_and_stay() -> Result<()> {
    const LETTERS: i64 = 20;
    let rabbit = Server::rabbit("full").await?;
    let mut world = World::new("full");
    world.config.bus.url = rabbit.url.clone().into();
    world.service().await?.stop().await?;
    for event in events::messages("m", "d", LETTERS as usize, 1_000) {
        put(&world, &event, 10).await?;
    }
    json(&world, None, &["sync"]).await?;
    let queue = &world.config.bus.queue;
    let full = r#"{"max-length": 2, "overflow": "reject-publish"}"#;
    let policy = ["set_policy", "full", &format!("^{queue}$"), full];
    rabbit.ctl(&policy).await?;
    let dead = &world.config.bus.dead_letter_queue;
    // One letter at a time: a quorum queue takes some more than it may while it
    // has not yet heard that it is full.
    let replay = ["--output", "json", "replay", "--all", "--rate", "10"];
    let replayed = dlq(&world, None, &replay).await?;
    let told: Value = serde_json::from_str(&stdout(&replayed))?;
    assert_eq!(replayed.status.code(), Some(1), "{told}");
    let (done, failed) = (told["done"].as_i64(), told["failed"].as_i64());
    let (done, failed) = (done.unwrap_or(-1), failed.unwrap_or(-1));
    assert!(done > 0 && failed > 0 && done + failed == LETTERS, "{told}");
    let cause = told["failures"][0]["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("did not take it"), "{cause}");
    assert_eq!(i64::from(world.depth(queue).await?), done);
    assert_eq!(i64::from(world.depth(dead).await?), failed);

    rabbit.ctl(&["clear_policy", "full"]).await?;
    assert_eq!(
        json(&world, None, &["replay", "--all"]).await?["done"],
        failed
    );
    assert_eq!(world.depth(queue).await?, LETTERS as u32);
    Ok(())
}

#[tokio::test]
async fn copies_are_one_entry_and_count_as_many() -> Result<()> {
    const COPIES: i64 = 100;
    let world = World::new("copies");
    let service = world.service().await?;
    let on = Some(&service);
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    let events = events::messages("m", "d", 2, 1_000);
    for _ in 0..COPIES {
        put(&world, &events[0], 10).await?;
    }
    put(&world, &events[1], 10).await?;
    let all = COPIES + 1;
    json(&world, on, &["sync"]).await?;

    let list = json(&world, on, &["list"]).await?;
    assert_eq!(
        (&list["total"], &list["index"]["indexed"]),
        (&all.into(), &all.into())
    );
    assert_eq!(list["dead_letters"].as_array().map(Vec::len), Some(2));
    let of_one = json(&world, on, &["list", "--event", "evt_m_0"]).await?;
    assert_eq!(
        (&of_one["total"], &of_one["dead_letters"][0]["copies"]),
        (&COPIES.into(), &COPIES.into())
    );
    let table = dlq(&world, on, &["list"]).await?;
    assert!(stderr(&table).contains("101 of 101"), "{}", stderr(&table));
    for by in [&["groups"][..], &["groups", "--why", "unknown"]] {
        let groups = json(&world, on, by).await?;
        assert_eq!(
            (&groups["total"], &groups["groups"][0]["count"]),
            (&all.into(), &all.into())
        );
    }
    let plan = json(&world, on, &["replay", "--all", "--dry-run"]).await?;
    assert_eq!(
        (&plan["selected"], &plan["applied"], &plan["duplicates"]),
        (&all.into(), &2.into(), &(COPIES - 1).into()),
        "{plan}"
    );

    let discarded = ["discard", "--event", "evt_m_1", "--reason", "a test"];
    assert_eq!(json(&world, on, &discarded).await?["done"], 1);
    let done = dlq(&world, on, &["replay", "--all"]).await?;
    assert_eq!(stdout(&done), "100 of 100 replayed\n", "{}", stderr(&done));
    let audit = json(&world, on, &["audit"]).await?;
    assert_eq!(
        (&audit[0]["selected"], &audit[0]["done"]),
        (&COPIES.into(), &COPIES.into())
    );
    until("one counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 1).then_some(())
    })
    .await?;
    // Each was sent once: the other 99 were not even delivered.
    let settled = service.settled().await?;
    service.stop().await?;
    assert_eq!(settled, 2);
    // The broker works acknowledgements off in its own time.
    until("an empty dead-letter queue", || async {
        let depth = world.depth(&world.config.bus.dead_letter_queue).await;
        (depth.ok()? == 0).then_some(())
    })
    .await
}
