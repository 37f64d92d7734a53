//! Working with dead letters over gRPC: each verb, on letters that the service
//! itself has given up.

use std::time::{SystemTime, UNIX_EPOCH};

use chat_counters::grpc::v1::dead_letter_service_client::DeadLetterServiceClient;
use chat_counters::grpc::v1::*;
use futures::TryStreamExt as _;
use lapin::BasicProperties;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use mongodb::bson::{Bson, Document, doc};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::command_line::command;
use crate::events::{self, TENANT, Wire, join, raw};
use crate::kit::service::{Result, Service, until};
use crate::world::{World, dialog, unread};

pub(crate) type Client = DeadLetterServiceClient<Channel>;

pub(crate) async fn client(service: &Service) -> Result<Client> {
    Ok(DeadLetterServiceClient::connect(format!("http://{}", service.admin)).await?)
}

/// Letters that no replay can cure, of three causes: two at different places
/// of their bodies, but for the same reason.
pub(crate) fn poison() -> Vec<Wire> {
    let of = |body: &str| raw(body.as_bytes());
    vec![
        of("{\"eventId\": \"p1\", \"tenantId\": \"t1\", \"eventType\":"),
        of("{\"eventId\": \"p2\",\n \"tenantId\": \"t1\", \"eventType\": "),
        of("[7]"),
        of(
            r#"{"eventId": "p3", "tenantId": "t2", "eventType": "message.create", "createdAt": 5,
            "data": {"context": {"dialogId": "d9"}, "message": {"messageId": "m", "senderId": 17}}}"#,
        ),
        of(
            r#"{"eventId": "p4", "tenantId": "t3", "eventType": "message.create", "createdAt": 5,
            "data": {"context": {"dialogId": "d9"}, "message": {"messageId": "m", "senderId": 18}}}"#,
        ),
    ]
}

fn filter() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

async fn list(client: &mut Client, filter: DeadLetterFilter) -> Result<ListDeadLettersResponse> {
    let request = ListDeadLettersRequest {
        filter: Some(filter),
        page_size: 1_000,
        ..Default::default()
    };
    Ok(client.list_dead_letters(request).await?.into_inner())
}

/// Waits until the index has so many letters.
pub(crate) async fn listed(client: &Client, count: usize) -> Result<Vec<DeadLetter>> {
    until(&format!("{count} letters listed"), || async {
        let listed = list(&mut client.clone(), filter()).await.ok()?;
        (listed.dead_letters.len() == count).then_some(listed.dead_letters)
    })
    .await
}

fn all() -> Option<DeadLetterSelection> {
    selected(filter())
}

fn selected(filter: DeadLetterFilter) -> Option<DeadLetterSelection> {
    Some(DeadLetterSelection {
        all: filter == DeadLetterFilter::default(),
        filter: Some(filter),
        actor: "tester".into(),
        reason: "a test".into(),
    })
}

/// The last progress of a replay.
async fn replay(
    client: &mut Client,
    selection: Option<DeadLetterSelection>,
) -> Result<JobProgress> {
    let request = ReplayDeadLettersRequest {
        selection,
        ..Default::default()
    };
    let stream = client.replay_dead_letters(request).await?.into_inner();
    let events: Vec<_> = stream.try_collect().await?;
    match events.into_iter().next_back().and_then(|last| last.event) {
        Some(replay_dead_letters_response::Event::Progress(progress)) => Ok(progress),
        other => Err(format!("no progress: {other:?}").into()),
    }
}

async fn last<T>(stream: Streaming<T>) -> Result<T> {
    let all: Vec<T> = stream.try_collect().await?;
    Ok(all.into_iter().next_back().ok_or("nothing was told")?)
}

#[tokio::test]
async fn looking_finds_every_letter_and_touches_none() -> Result<()> {
    let world = World::new("look");
    let service = world.service().await?;
    let poison = poison();
    world.publish(&poison).await?;
    let mut client = client(&service).await?;
    let letters = listed(&client, 5).await?;

    let of = |id: &str| letters.iter().find(|letter| letter.event_id == id);
    let p3 = of("p3").unwrap();
    assert_eq!((p3.tenant_id.as_str(), p3.dialog_id.as_str()), ("t2", "d9"));
    assert_eq!(
        (p3.reason.as_str(), p3.attempts, p3.copies),
        ("invalid_event", 1, 1)
    );
    assert_eq!(
        p3.error,
        "data.message.senderId: expected a string, found number 17"
    );
    assert_eq!(p3.source_exchange, world.config.bus.exchange);

    let by = |filter: DeadLetterFilter| {
        let mut client = client.clone();
        async move { list(&mut client, filter).await.map(|found| found.total) }
    };
    let text = |text: &str| text.to_owned();
    assert_eq!(
        by(DeadLetterFilter {
            tenant_id: text("t2"),
            ..filter()
        })
        .await?,
        1
    );
    assert_eq!(
        by(DeadLetterFilter {
            event_id: text("p4"),
            ..filter()
        })
        .await?,
        1
    );
    assert_eq!(
        by(DeadLetterFilter {
            dialog_id: text("d9"),
            ..filter()
        })
        .await?,
        2
    );
    assert_eq!(
        by(DeadLetterFilter {
            event_type: text("message.create"),
            ..filter()
        })
        .await?,
        5,
        "of those that cannot be read by their headers"
    );
    assert_eq!(
        by(DeadLetterFilter {
            error_contains: text("EXPECTED json"),
            ..filter()
        })
        .await?,
        2
    );
    assert_eq!(
        by(DeadLetterFilter {
            reasons: vec![text("undecodable")],
            ..filter()
        })
        .await?,
        3
    );
    assert_eq!(
        by(DeadLetterFilter {
            ids: vec![p3.id[..8].into()],
            ..filter()
        })
        .await?,
        1
    );
    let later = p3.last_failed_at.map(|at| prost_types::Timestamp {
        seconds: at.seconds + 60,
        ..at
    });
    assert_eq!(
        by(DeadLetterFilter {
            since: later,
            ..filter()
        })
        .await?,
        0
    );
    assert_eq!(
        by(DeadLetterFilter {
            until: later,
            ..filter()
        })
        .await?,
        5
    );

    let groups = client.list_dead_letter_groups(ListDeadLetterGroupsRequest::default());
    let groups = groups.await?.into_inner();
    assert_eq!(groups.total, 5);
    let counts: Vec<_> = groups.groups.iter().map(|group| group.count).collect();
    assert_eq!(counts, [2, 2, 1], "{groups:#?}");
    let senders = groups
        .groups
        .iter()
        .find(|group| group.cause.contains("senderId"));
    let senders = senders.unwrap();
    assert_eq!(
        senders.cause,
        "data.message.senderId: expected a string, found number #"
    );
    assert_eq!((senders.tenant_count, senders.tenant_ids.len()), (2, 2));

    let shown = client.get_dead_letter(GetDeadLetterRequest {
        id: p3.id[..6].into(),
    });
    let shown = shown.await?.into_inner();
    assert_eq!(shown.body, poison[3].body);
    assert_eq!(shown.headers["headers.x-cc-reason"], "invalid_event");
    assert_eq!(shown.headers["headers.tenantId"], TENANT);
    let unknown = GetDeadLetterRequest {
        id: "ffffffffffff".into(),
    };
    let unknown = client.get_dead_letter(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");

    service.stop().await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 5);
    for letter in world.letters(5).await? {
        assert_eq!(letter.header("x-delivery-count"), "", "it was touched");
    }
    Ok(())
}

#[tokio::test]
async fn pages_have_every_letter_once() -> Result<()> {
    let world = World::new("pages");
    let service = world.service().await?;
    let poison: Vec<_> = (0..25)
        .map(|number| raw(format!("poison {number}").as_bytes()))
        .collect();
    world.publish(&poison).await?;
    let mut client = client(&service).await?;
    let letters = listed(&client, 25).await?;
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDeadLettersRequest {
            page_size: 7,
            page_token,
            ..Default::default()
        };
        let page = client.list_dead_letters(request).await?.into_inner();
        assert_eq!(page.total, 25);
        paged.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, letters);
    service.stop().await
}

/// Has the store refuse the events whose ids match.
pub(crate) async fn refuse(world: &World, events: &str) -> Result<()> {
    let refuse =
        doc! { "collMod": "journal", "validator": { "_id.e": { "$not": { "$regex": events } } } };
    world.database().await?.run_command(refuse).await?;
    Ok(())
}

/// Has the store take every event again.
pub(crate) async fn accept(world: &World) -> Result<()> {
    let accept = doc! { "collMod": "journal", "validator": {} };
    world.database().await?.run_command(accept).await?;
    Ok(())
}

/// A service with 200 messages, of which the store refused those with a 7.
async fn with_refused(world: &World) -> Result<(Service, i64)> {
    let service = world.service().await?;
    refuse(world, "7").await?;
    let members = [join("j1", "d", "bob", 1), join("j2", "d", "eve", 1)];
    let messages = events::messages("m", "d", 200, 1_000);
    world.publish(members.iter().chain(&messages)).await?;
    service.has_settled(202).await?;
    let refused = (0..200)
        .filter(|number: &i32| number.to_string().contains('7'))
        .count();
    accept(world).await?;
    let refused = i64::try_from(refused)?;
    assert_eq!(dialog(&service, "d").await?, (200 - refused, 2));
    Ok((service, refused))
}

#[tokio::test]
async fn what_can_be_counted_by_now_is_replayed_and_nothing_else() -> Result<()> {
    let world = World::new("replayed");
    let (service, refused) = with_refused(&world).await?;
    let poison = poison();
    world.publish(&poison).await?;
    let mut client = client(&service).await?;
    listed(&client, usize::try_from(refused)? + 5).await?;

    let rejected = DeadLetterFilter {
        reasons: vec!["rejected_by_store".into()],
        ..filter()
    };
    let done = replay(&mut client, selected(rejected.clone())).await?;
    assert!(done.finished && !done.resumed);
    assert_eq!(
        (done.selected, done.done, done.missing, done.failed_again),
        (refused, refused, 0, 0)
    );
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 200).then_some(())
    })
    .await?;
    listed(&client, 5).await?;

    let nothing = replay(&mut client, selected(rejected)).await?;
    assert_eq!((nothing.selected, nothing.finished), (0, true));

    // What cannot be cured comes back, and says that it failed once more.
    let back = replay(&mut client, all()).await?;
    assert_eq!((back.selected, back.done), (5, 5));
    let again = until("all back", || async {
        let letters = list(&mut client.clone(), filter()).await.ok()?.dead_letters;
        let back = letters.len() == 5 && letters.iter().all(|letter| letter.attempts == 2);
        back.then_some(letters)
    })
    .await?;
    for letter in &again {
        assert_ne!(letter.first_failed_at, letter.last_failed_at);
        assert_eq!(letter.source_exchange, world.config.bus.exchange);
    }
    until("counted as failed again", || async {
        let mut client = client.clone();
        let audit = client.list_dead_letter_audit(ListDeadLetterAuditRequest::default());
        let jobs = audit.await.ok()?.into_inner().jobs;
        assert_eq!(jobs.len(), 3);
        assert!(
            jobs.iter()
                .all(|job| job.kind == "replay" && job.finished_at.is_some())
        );
        assert!(
            jobs[0].actor.starts_with("anonymous (grpc:127.0.0.1:"),
            "{}",
            jobs[0].actor
        );
        assert_eq!(
            (jobs[2].selection.as_str(), jobs[2].done),
            ("reason: rejected_by_store", refused)
        );
        (jobs[0].failed_again == 5).then_some(())
    })
    .await?;
    service.stop().await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 5);
    Ok(())
}

#[tokio::test]
async fn discarded_letters_are_kept_and_come_back_as_they_were() -> Result<()> {
    let world = World::new("discard");
    let service = world.service().await?;
    world.publish(&poison()).await?;
    let mut client = client(&service).await?;
    let before = listed(&client, 5).await?;

    let nothing = client.discard_dead_letters(DiscardDeadLettersRequest::default());
    let nothing = nothing.await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let undecodable = DeadLetterFilter {
        reasons: vec!["undecodable".into()],
        ..filter()
    };
    let request = DiscardDeadLettersRequest {
        selection: selected(undecodable.clone()),
        dry_run: true,
    };
    let plan = last(
        client
            .discard_dead_letters(request.clone())
            .await?
            .into_inner(),
    )
    .await?;
    assert_eq!(plan.progress.unwrap().selected, 3);
    listed(&client, 5).await?;
    let request = DiscardDeadLettersRequest {
        dry_run: false,
        ..request
    };
    let done = last(client.discard_dead_letters(request).await?.into_inner()).await?;
    let done = done.progress.unwrap();
    assert_eq!((done.selected, done.done, done.finished), (3, 3, true));
    listed(&client, 2).await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 2);
    let discarded = ListDeadLettersRequest {
        discarded: true,
        ..Default::default()
    };
    let discarded = client.list_dead_letters(discarded).await?.into_inner();
    assert_eq!(discarded.total, 3);
    assert!(
        discarded
            .dead_letters
            .iter()
            .all(|letter| letter.discarded_at.is_some())
    );

    let request = UndiscardDeadLettersRequest { selection: all() };
    let done = last(client.undiscard_dead_letters(request).await?.into_inner()).await?;
    let done = done.progress.unwrap();
    assert_eq!((done.selected, done.done, done.finished), (3, 3, true));
    let after = listed(&client, 5).await?;
    let ids = |letters: &[DeadLetter]| {
        let mut ids: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&after), ids(&before));
    service.stop().await
}

#[tokio::test]
async fn an_edited_letter_is_counted_under_its_own_id() -> Result<()> {
    let world = World::new("edit");
    let service = world.service().await?;
    world.publish(&[join("j", "d9", "bob", 1)]).await?;
    world.publish(&poison()[3..4]).await?;
    let mut client = client(&service).await?;
    let letter = listed(&client, 1).await?.remove(0);
    let edit = |body: &str, validate_only| EditDeadLetterRequest {
        id: letter.id.clone(),
        body: body.as_bytes().to_vec(),
        actor: "tester".into(),
        reason: "the sender was a number".into(),
        validate_only,
    };
    let good = r#"{"eventId": "p3", "tenantId": "tnt_1", "eventType": "message.create", "createdAt": 5,
        "data": {"context": {"dialogId": "d9"}, "message": {"messageId": "m", "senderId": "17"}}}"#;
    for (body, said) in [
        (
            good.replace("\"17\"", "17"),
            "data.message.senderId: expected a string",
        ),
        (good.replace("p3", "p5"), "another id"),
        (
            good.replace("message.create", "dialog.typing"),
            "changes no counter",
        ),
    ] {
        let refused = client
            .edit_dead_letter(edit(&body, true))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(said), "{refused}");
    }
    let checked = client
        .edit_dead_letter(edit(good, true))
        .await?
        .into_inner();
    assert_eq!(
        (checked.event_id.as_str(), checked.job_id.as_str()),
        ("p3", "")
    );
    listed(&client, 1).await?;
    let done = client
        .edit_dead_letter(edit(good, false))
        .await?
        .into_inner();
    until("counted", || async {
        (unread(&service, "bob", "d9").await.ok()? == 1).then_some(())
    })
    .await?;
    listed(&client, 0).await?;
    let audit = client.list_dead_letter_audit(ListDeadLetterAuditRequest::default());
    let audit = audit.await?.into_inner().jobs.remove(0);
    assert_eq!((audit.kind.as_str(), audit.job_id), ("edit", done.job_id));
    assert_eq!(
        (audit.body_before, audit.letter_id),
        (poison()[3].body.clone(), letter.id.clone())
    );
    assert_eq!(audit.body_after, good.as_bytes());
    service.stop().await
}

#[tokio::test]
async fn letters_that_others_put_in_or_take_out_are_noticed() -> Result<()> {
    let world = World::new("noticed");
    let service = world.service().await?;
    let mut client = client(&service).await?;
    let (connection, channel) = world.channel().await?;
    let queue = world.config.bus.dead_letter_queue.as_str();
    for number in 0..3 {
        let body = format!("by hand {number}");
        let sent = channel.basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            BasicProperties::default(),
        );
        sent.await?.await?;
    }
    let found = listed(&client, 3).await?;
    assert!(found.iter().all(|letter| letter.reason == "unknown"));
    until("a gauge of three letters", || async {
        let waiting = service.counter("chat_counters_dead_letters_waiting", "");
        (waiting.await.ok()? == 3).then_some(())
    })
    .await?;
    // Who compares holds all letters meanwhile, and gives them back: they would
    // come through it.
    until("nobody at the queue", || async {
        let index = list(&mut client.clone(), filter()).await.ok()?.index?;
        (!index.busy && index.queued == Some(3)).then_some(())
    })
    .await?;
    channel
        .queue_purge(queue.into(), QueuePurgeOptions::default())
        .await?;
    listed(&client, 0).await?;
    let synced = client
        .sync_dead_letters(SyncDeadLettersRequest {})
        .await?
        .into_inner();
    assert_eq!(synced, SyncDeadLettersResponse::default());
    connection.close(200, "done".into()).await?;
    service.stop().await
}

/// A queue with a limit, from which what it gives up goes to the dead letters.
async fn deadly(
    world: &World,
    name: &str,
    limit: Option<(&'static str, i32)>,
    to: &str,
) -> Result<String> {
    let (connection, channel) = world.channel().await?;
    let name = format!("{}.{name}", world.config.bus.queue);
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(to));
    arguments.insert("x-expires".into(), AMQPValue::LongInt(120_000));
    if let Some((limit, value)) = limit {
        arguments.insert(limit.into(), AMQPValue::LongInt(value));
    }
    let options = QueueDeclareOptions::durable();
    let declared = channel.queue_declare(name.as_str().into(), options, arguments);
    declared.await?;
    connection.close(200, "done".into()).await?;
    Ok(name)
}

/// Puts events straight into a queue.
async fn put(world: &World, queue: &str, events: &[Wire]) -> Result<()> {
    let (connection, channel) = world.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    for event in events {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let sent = channel.basic_publish("".into(), queue.into(), options, &event.body, properties);
        sent.await?.await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Takes a message out of a queue, and refuses it for good.
async fn reject(world: &World, queue: &str) -> Result<()> {
    let (connection, channel) = world.channel().await?;
    let message = until("a message to reject", || async {
        let got = channel.basic_get(queue.into(), BasicGetOptions::default());
        got.await.ok().flatten()
    });
    let message = message.await?;
    let never = BasicRejectOptions { requeue: false };
    message.delivery.acker.reject(never).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// The one letter of a reason, once it is there.
async fn letter_of(client: &Client, reason: &str) -> Result<DeadLetter> {
    until(&format!("a letter that says {reason}"), || async {
        let mut client = client.clone();
        client
            .sync_dead_letters(SyncDeadLettersRequest {})
            .await
            .ok()?;
        let of = DeadLetterFilter {
            reasons: vec![reason.into()],
            ..filter()
        };
        let mut found = list(&mut client, of).await.ok()?.dead_letters;
        (found.len() == 1).then(|| found.remove(0))
    })
    .await
}

#[tokio::test]
async fn what_the_broker_gave_up_says_so() -> Result<()> {
    let world = World::new("deadly");
    let service = world.service().await?;
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    let mut client = client(&service).await?;
    let dead = world.config.bus.dead_letter_queue.as_str();
    let short_lived = deadly(&world, "ttl", Some(("x-message-ttl", 1)), dead).await?;
    let short = deadly(&world, "short", Some(("x-max-length", 1)), dead).await?;
    let plain = deadly(&world, "plain", None, dead).await?;
    let events = events::messages("m", "d", 4, 1_000);
    put(&world, &short_lived, &events[..1]).await?;
    put(&world, &short, &events[1..3]).await?;
    put(&world, &plain, &events[3..]).await?;
    reject(&world, &plain).await?;
    for (reason, queue, event) in [
        ("expired", &short_lived, "evt_m_0"),
        ("maxlen", &short, "evt_m_1"),
        ("rejected", &plain, "evt_m_3"),
    ] {
        let letter = letter_of(&client, reason).await?;
        assert_eq!(
            (letter.event_id.as_str(), letter.attempts),
            (event, 1),
            "{letter:?}"
        );
        assert_eq!(letter.source_routing_key, *queue);
        assert!(letter.error.contains(&format!("{queue:?}")), "{letter:?}");
        let at = letter.last_failed_at.ok_or("no time")?;
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        assert!((now - 120..=now + 1).contains(&at.seconds), "{letter:?}");
        let done = replay(
            &mut client,
            selected(DeadLetterFilter {
                reasons: vec![reason.into()],
                ..filter()
            }),
        );
        assert_eq!(done.await?.done, 1);
    }
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 3).then_some(())
    })
    .await?;

    // One that had waited elsewhere before it failed here says why it failed; once
    // the broker gives it up after that, that is said.
    let retried = deadly(
        &world,
        "retry",
        Some(("x-message-ttl", 1)),
        &world.config.bus.queue,
    );
    put(&world, &retried.await?, &poison()[3..4]).await?;
    let failed = letter_of(&client, "invalid_event").await?;
    assert_eq!((failed.event_id.as_str(), failed.attempts), ("p3", 1));
    service.stop().await?;
    let again = command(&world, &["dlq", "--direct", "replay", "--all"]).output();
    assert!(again.await?.status.success());
    reject(&world, &world.config.bus.queue).await?;
    let service = world.service().await?;
    let client = self::client(&service).await?;
    let given_up = letter_of(&client, "rejected").await?;
    assert_eq!((given_up.event_id.as_str(), given_up.attempts), ("p3", 2));
    assert_eq!(given_up.first_failed_at, failed.first_failed_at);
    assert_eq!(listed(&client, 1).await?, [given_up]);
    service.stop().await
}

/// A version that understood less of letters has given them other ids; as many
/// of them, so that no comparison of numbers tells.
#[tokio::test]
async fn an_index_of_an_earlier_version_is_made_anew() -> Result<()> {
    let world = World::new("earlier");
    let service = world.service().await?;
    let dead = world.config.bus.dead_letter_queue.as_str();
    let short_lived = deadly(&world, "ttl", Some(("x-message-ttl", 1)), dead).await?;
    put(&world, &short_lived, &events::messages("m", "d", 1, 1_000)).await?;
    let letter = letter_of(&client(&service).await?, "expired").await?;
    service.stop().await?;

    let database = world.database().await?;
    let index = database.collection::<Document>("dead_letters");
    let mut entry = index.find_one(doc! {}).await?.ok_or("no entry")?;
    index.delete_one(doc! {}).await?;
    for (field, value) in [
        ("_id", Bson::from("0".repeat(20))),
        ("reason", "unknown".into()),
        ("error", "".into()),
        ("attempts", 0_i64.into()),
    ] {
        entry.insert(field, value);
    }
    index.insert_one(entry).await?;
    let meta = database.collection::<Document>("meta");
    let earlier = doc! { "$unset": { "rules": "" } };
    meta.update_one(doc! { "_id": "dead_letters" }, earlier)
        .await?;

    // Also where no service does it.
    let replay = [
        "dlq", "--direct", "--output", "json", "discard", "--all", "--reason", "x",
    ];
    let done = command(&world, &replay).output().await?;
    let told: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    assert_eq!(
        (&told["done"], &told["missing"]),
        (&1.into(), &0.into()),
        "{told}"
    );
    let back = command(&world, &["dlq", "--direct", "undiscard", "--all"]).output();
    assert!(back.await?.status.success());

    let renamed = doc! { "$set": { "reason": "unknown" } };
    index.update_one(doc! {}, renamed).await?;
    let mut entry = index.find_one(doc! {}).await?.ok_or("no entry")?;
    entry.insert("_id", "0".repeat(20));
    index.delete_one(doc! {}).await?;
    index.insert_one(entry).await?;
    let earlier = doc! { "$unset": { "rules": "" } };
    meta.update_one(doc! { "_id": "dead_letters" }, earlier)
        .await?;
    let service = world.service().await?;
    let client = client(&service).await?;
    let found = until("a new entry", || async {
        let listed = list(&mut client.clone(), filter()).await.ok()?.dead_letters;
        (listed.len() == 1 && listed[0].reason == "expired").then_some(listed)
    });
    assert_eq!(found.await?[0].id, letter.id);
    service.stop().await
}
