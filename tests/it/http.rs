//! Counters over HTTP: what gRPC answers, in other words, and no more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chat_counters::auth::generate;
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::auth::{entry, showing, with_tokens};
use crate::events::{TENANT, bulk_read, join, message, reaction, status};
use crate::kit::http1::{Answer, Event, Events, ask, send};
use crate::kit::service::{PATIENCE, Result, Service, until};
use crate::world::{World, client};

async fn get(service: &Service, path: &str) -> Result<Answer> {
    ask(service.http, ("GET", path), &[], b"").await
}

async fn post(service: &Service, path: &str, body: Value) -> Result<Answer> {
    let headers = [("content-type", "application/json")];
    ask(
        service.http,
        ("POST", path),
        &headers,
        body.to_string().as_bytes(),
    )
    .await
}

/// Two dialogs, three members, some messages, one of them read.
async fn filled(name: &str) -> Result<(World, Service)> {
    let world = World::new(name);
    let service = world.service().await?;
    let events = [
        join("j1", "d1", "alice", 1),
        join("j2", "d1", "bob", 1),
        join("j3", "d2", "alice", 2),
        message("m1", "d1", "msg1", "bob", 10),
        message("m2", "d1", "msg2", "bob", 11),
        message("m3", "d2", "msg3", "bob", 12),
        status("s1", "d1", "msg1", "alice", "read", 13),
        reaction("r1", "msg1", "alice", "like", "set", 14),
    ];
    world.publish(&events).await?;
    world.journaled(events.len() as u64).await?;
    Ok((world, service))
}

#[tokio::test]
async fn every_question_is_answered_as_grpc_answers_it() -> Result<()> {
    let (_world, service) = filled("http_same").await?;
    let mut grpc = client(&service).await?;
    let (tenant_id, user_id) = (TENANT.to_owned(), "alice".to_owned());
    let at = |path: &str| format!("/v1/tenants/{TENANT}/{path}");
    let same = async |path: &str, expected: Value| {
        let answer = get(&service, &at(path)).await?;
        assert_eq!(answer.json()?, expected, "{path}");
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
        Result::Ok(())
    };
    let request = v1::GetUserStatsRequest {
        tenant_id: tenant_id.clone(),
        user_id: user_id.clone(),
        ..Default::default()
    };
    let stats = grpc.get_user_stats(request).await?.into_inner();
    assert_eq!((stats.total_unread_count, stats.dialog_count), (2, 2));
    same("users/alice/stats", serde_json::to_value(&stats)?).await?;
    let path = "users/alice/stats?after_event_id=r1";
    same(path, serde_json::to_value(&stats)?).await?;
    let request = v1::GetUserDialogStatsRequest {
        tenant_id: tenant_id.clone(),
        user_id: user_id.clone(),
        dialog_id: "d1".into(),
        ..Default::default()
    };
    let stats = grpc.get_user_dialog_stats(request).await?.into_inner();
    same("users/alice/dialogs/d1", serde_json::to_value(&stats)?).await?;
    let request = v1::GetDialogStatsRequest {
        tenant_id: tenant_id.clone(),
        dialog_id: "d1".into(),
        ..Default::default()
    };
    let stats = grpc.get_dialog_stats(request).await?.into_inner();
    same("dialogs/d1/stats", serde_json::to_value(&stats)?).await?;
    let request = v1::GetMessageStatsRequest {
        tenant_id: tenant_id.clone(),
        message_id: "msg1".into(),
        ..Default::default()
    };
    let stats = grpc.get_message_stats(request).await?.into_inner();
    assert_eq!(stats.read_count, 1);
    same("messages/msg1/stats", serde_json::to_value(&stats)?).await?;
    for (order, order_by) in [
        ("dialog_id", v1::UserDialogOrder::Unspecified),
        ("last_message", v1::UserDialogOrder::LastMessage),
        ("unread_first", v1::UserDialogOrder::UnreadFirst),
    ] {
        let request = v1::ListUserDialogStatsRequest {
            tenant_id: tenant_id.clone(),
            user_id: user_id.clone(),
            page_size: 1,
            unread_only: true,
            order_by: order_by.into(),
            ..Default::default()
        };
        let page = grpc.list_user_dialog_stats(request).await?.into_inner();
        let path = format!("users/alice/dialogs?page_size=1&unread_only=true&order_by={order}");
        let shown = get(&service, &at(&path)).await?.json()?;
        assert_eq!(
            shown["user_dialog_stats"],
            serde_json::to_value(&page.user_dialog_stats)?
        );
        let token = shown["next_page_token"].as_str().ok_or("no token")?;
        let next = get(&service, &at(&format!("{path}&page_token={token}"))).await?;
        let other = &next.json()?["user_dialog_stats"][0]["dialog_id"];
        assert_ne!(
            *other,
            json!(page.user_dialog_stats[0].dialog_id),
            "{order}"
        );
    }
    batches(&service, &mut grpc).await?;
    service.stop().await
}

async fn batches(
    service: &Service,
    grpc: &mut CounterServiceClient<tonic::transport::Channel>,
) -> Result<()> {
    let at = |path: &str| format!("/v1/tenants/{TENANT}/{path}");
    let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let request = v1::BatchGetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_ids: ids(&["bob", "alice", "nobody"]),
    };
    let expected = grpc
        .batch_get_user_stats(request.clone())
        .await?
        .into_inner();
    let body = json!({ "user_ids": request.user_ids });
    let shown = post(service, &at("users/stats"), body).await?;
    assert_eq!(shown.json()?, serde_json::to_value(&expected)?);
    let request = v1::BatchGetDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_ids: ids(&["d2", "d1"]),
    };
    let expected = grpc
        .batch_get_dialog_stats(request.clone())
        .await?
        .into_inner();
    let body = json!({ "dialog_ids": request.dialog_ids });
    let shown = post(service, &at("dialogs/stats"), body).await?;
    assert_eq!(shown.json()?, serde_json::to_value(&expected)?);
    let request = v1::BatchGetMessageStatsRequest {
        tenant_id: TENANT.into(),
        message_ids: ids(&["msg1", "msg2"]),
    };
    let expected = grpc
        .batch_get_message_stats(request.clone())
        .await?
        .into_inner();
    let body = json!({ "message_ids": request.message_ids });
    let shown = post(service, &at("messages/stats"), body).await?;
    assert_eq!(shown.json()?, serde_json::to_value(&expected)?);
    Ok(())
}

#[tokio::test]
async fn names_of_any_kind_come_through_a_path() -> Result<()> {
    let world = World::new("http_names");
    let service = world.service().await?;
    let user = "ä/b c%?#&\"";
    world.publish(&[join("j1", "d/1", user, 1)]).await?;
    world.journaled(1).await?;
    let path = "/v1/tenants/tnt_1/users/%C3%A4%2Fb%20c%25%3F%23%26%22/dialogs/d%2F1";
    let answer = get(&service, path).await?.json()?;
    assert_eq!(
        (&answer["user_id"], &answer["dialog_id"], &answer["member"]),
        (&json!(user), &json!("d/1"), &json!(true))
    );
    service.stop().await
}

#[tokio::test]
async fn who_has_an_answer_already_is_told_so() -> Result<()> {
    let (world, service) = filled("http_etag").await?;
    let batch = json!({ "user_ids": ["alice"] }).to_string();
    let user = format!("/v1/tenants/{TENANT}/users/alice/stats");
    let users = format!("/v1/tenants/{TENANT}/users/stats");
    let list = format!("/v1/tenants/{TENANT}/users/alice/dialogs");
    let questions = [(("GET", user.as_str()), ""), (("GET", list.as_str()), "")];
    let mut tags = Vec::new();
    for (request, body) in questions {
        let first = ask(service.http, request, &[], body.as_bytes()).await?;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with("W/\""), "{tag}");
        let known = [("if-none-match", tag.as_str())];
        let again = ask(service.http, request, &known, body.as_bytes()).await?;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
        assert_eq!(again.header("etag"), tag);
        tags.push(tag);
    }
    // What is not a read of one thing, and what says as of when it is, is told
    // each time.
    let known = [("if-none-match", "*")];
    let request = ("POST", users.as_str());
    let again = ask(service.http, request, &known, batch.as_bytes()).await?;
    assert_eq!(again.status, 200);
    let dated = format!("{user}?max_staleness_ms=1000");
    let again = ask(service.http, ("GET", &dated), &known, b"").await?;
    assert_eq!((again.status.as_u16(), again.header("etag")), (200, ""));
    assert!(again.json()?["as_of"].is_string());
    world
        .publish(&[message("m9", "d1", "msg9", "bob", 20)])
        .await?;
    world.journaled(9).await?;
    for ((request, body), tag) in questions.iter().zip(&tags) {
        let known = [("if-none-match", tag.as_str())];
        let changed = ask(service.http, *request, &known, body.as_bytes()).await?;
        assert_eq!(changed.status, 200, "{request:?}");
        assert_ne!(changed.header("etag"), tag);
    }
    service.stop().await
}

/// Every way to ask wrongly, and what is said of it: as gRPC does, where it can
/// be asked so.
#[tokio::test]
async fn what_is_wrong_is_told_as_a_problem() -> Result<()> {
    let (_world, service) = filled("http_wrong").await?;
    let (long, many) = ("x".repeat(513), json!({ "user_ids": vec!["u"; 1_001] }));
    let rows: Vec<(&str, String, String, u16, &str, &str)> = vec![
        ("GET", "/".into(), String::new(), 404, "UNIMPLEMENTED", ""),
        (
            "GET",
            "/v1/tenants/t/users".into(),
            String::new(),
            404,
            "UNIMPLEMENTED",
            "",
        ),
        (
            "PUT",
            "/v1/tenants/t/users/u/stats".into(),
            String::new(),
            405,
            "UNIMPLEMENTED",
            "",
        ),
        (
            "GET",
            format!("/v1/tenants/t/users/{long}/stats"),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "user_id",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/stats?nope=1".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "nope",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/stats?max_staleness_ms=x".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "max_staleness_ms",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/stats?max_staleness_ms=-1".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "max_staleness_ms",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/stats?max_staleness_ms=1&max_staleness_ms=2".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "max_staleness_ms",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/dialogs?order_by=name".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "order_by",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/dialogs?page_size=501".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "page_size",
        ),
        (
            "GET",
            "/v1/tenants/t/users/%FF/stats".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            "POST",
            "/v1/tenants/t/users/stats".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            "POST",
            "/v1/tenants/t/users/stats".into(),
            "{\"user_ids\":7}".into(),
            400,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            "POST",
            "/v1/tenants/t/users/stats".into(),
            "{\"dialog_ids\":[]}".into(),
            400,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            "POST",
            "/v1/tenants/t/users/stats".into(),
            many.to_string(),
            400,
            "INVALID_ARGUMENT",
            "user_ids",
        ),
        (
            "POST",
            "/v1/tenants/t/users/stats".into(),
            format!("{{\"user_ids\":[\"{}\"]}}", "x".repeat(1 << 20)),
            413,
            "OUT_OF_RANGE",
            "",
        ),
        (
            "GET",
            "/v1/tenants/t/users/events".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "user_id",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/events?min_interval_ms=1".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "min_interval_ms",
        ),
        (
            "GET",
            "/v1/tenants/t/users/u/stats?after_event_id=never&x".into(),
            String::new(),
            400,
            "INVALID_ARGUMENT",
            "x",
        ),
    ];
    for (method, path, body, status, code, field) in rows {
        let shown = path.get(..80).unwrap_or(&path);
        let asked = ask(service.http, (method, &path), &[], body.as_bytes());
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| format!("{method} {shown}: no answer"))??;
        let problem = answer.json()?;
        assert_eq!(answer.status, status, "{method} {shown}: {problem}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status, "{method} {shown}");
        assert_eq!(problem["code"], code, "{method} {shown}");
        let found = problem["violations"][0]["field"].as_str().unwrap_or("");
        assert_eq!(found, field, "{method} {shown}: {problem}");
    }
    let request = v1::GetUserStatsRequest {
        tenant_id: "t".into(),
        user_id: long.clone(),
        ..Default::default()
    };
    let by_grpc = client(&service).await?.get_user_stats(request).await;
    let by_grpc = by_grpc.expect_err("too long");
    let bad = by_grpc.get_details_bad_request().ok_or("no details")?;
    let path = format!("/v1/tenants/t/users/{long}/stats");
    let problem = get(&service, &path).await?.json()?;
    assert_eq!(problem["detail"], by_grpc.message());
    assert_eq!(
        problem["violations"][0]["description"],
        bad.field_violations[0].description
    );
    service.stop().await
}

#[tokio::test]
async fn nobody_reaches_over_http_what_is_not_theirs() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (reader, own) = (generate()?, generate()?);
    let entries = [
        entry("reader", &reader, "\"reader\"", "\"tnt_1\"", ""),
        entry("own", &own, "\"user\"", "\"tnt_1\"", "alice"),
    ];
    let world = with_tokens("http_auth", &directory, &entries.join("\n"))?;
    let service = world.service().await?;
    let stats = "/v1/tenants/tnt_1/users/alice/stats";
    let of_bob = "/v1/tenants/tnt_1/users/bob/stats";
    let dialog = "/v1/tenants/tnt_1/dialogs/d/stats";
    let forged = "/v1/tenants/tnt_2/users/alice/stats";
    let events = "/v1/tenants/tnt_1/users/bob/events";
    let rows = [
        ("", stats, 401, "CREDENTIALS_MISSING"),
        ("nonsense", stats, 401, "CREDENTIALS_INVALID"),
        (&reader, stats, 200, ""),
        (&reader, forged, 403, "TENANT_DENIED"),
        (&own, stats, 200, ""),
        (&own, of_bob, 403, "USER_DENIED"),
        (&own, events, 403, "USER_DENIED"),
        (&own, dialog, 403, "ROLE_MISSING"),
        ("", events, 401, "CREDENTIALS_MISSING"),
        // Nobody is told what is wrong with a question that they may not ask.
        (
            "",
            "/v1/tenants/tnt_1/users/alice/stats?nope=1",
            401,
            "CREDENTIALS_MISSING",
        ),
        (
            "",
            "/v1/tenants/tnt_1/users/events",
            401,
            "CREDENTIALS_MISSING",
        ),
    ];
    for (token, path, status, reason) in rows {
        let shown = format!("Bearer {token}");
        let headers = [("authorization", shown.as_str())];
        let headers = if token.is_empty() {
            &headers[..0]
        } else {
            &headers
        };
        let answer = ask(service.http, ("GET", path), headers, b"").await?;
        let problem = answer.json()?;
        assert_eq!(answer.status, status, "{path}: {problem}");
        assert_eq!(problem["reason"].as_str().unwrap_or(""), reason, "{path}");
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    // A batch is read after its caller is known, and says the same as gRPC.
    let headers = [("authorization", format!("Bearer {own}"))];
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let body = json!({ "user_ids": ["alice", "bob"] }).to_string();
    let path = "/v1/tenants/tnt_1/users/stats";
    let answer = ask(service.http, ("POST", path), &headers, body.as_bytes()).await?;
    assert_eq!(answer.json()?["reason"], "USER_DENIED");
    let mut grpc = CounterServiceClient::new(showing(service.grpc, Some(&own)).await?);
    let request = v1::BatchGetUserStatsRequest {
        tenant_id: "tnt_1".into(),
        user_ids: vec!["alice".into(), "bob".into()],
    };
    let refused = grpc
        .batch_get_user_stats(request)
        .await
        .expect_err("denied");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(answer.json()?["detail"], refused.message());
    // The description is everybody's.
    let described = get(&service, "/v1/openapi.json").await?;
    assert_eq!(described.json()?["openapi"], "3.1.0");
    service.stop().await
}

async fn events(address: SocketAddr, path: &str, last: &str) -> Result<Events> {
    let headers = [("last-event-id", last)];
    let headers = if last.is_empty() {
        &headers[..0]
    } else {
        &headers
    };
    Events::of(send(address, ("GET", path), headers, b"").await?).await
}

/// Reads on until an event has somebody's unread count at so many.
async fn told(events: &mut Events, user: &str, unread: i64) -> Result<Event> {
    let read_on = async {
        while let Some(event) = events.next().await? {
            let data: Value = serde_json::from_str(&event.data)?;
            let updates = data["updates"].as_array().cloned().unwrap_or_default();
            let is_so = updates.iter().any(|update| {
                let stats = &update["user_stats"];
                stats["user_id"] == user && stats["total_unread_count"] == unread
            });
            if is_so {
                return Ok(event);
            }
        }
        Err("the stream has ended".into())
    };
    tokio::time::timeout(PATIENCE, read_on).await?
}

#[tokio::test]
async fn changes_come_as_events_and_after_a_cut_only_what_differs() -> Result<()> {
    let (world, service) = filled("http_events").await?;
    world.publish(&[join("j4", "d3", "carol", 3)]).await?;
    world.journaled(9).await?;
    let query = "user_id=alice&user_id=carol&min_interval_ms=10";
    let path = format!("/v1/tenants/{TENANT}/users/events?{query}");
    let mut first = events(service.http, &path, "").await?;
    told(&mut first, "alice", 2).await?;
    let sent = 1;
    world
        .publish(&[message("n1", "d1", "msg_n1", "bob", 20 + sent)])
        .await?;
    let changed = told(&mut first, "alice", 2 + sent).await?;
    assert_eq!(changed.name, "update");
    let data: Value = serde_json::from_str(&changed.data)?;
    let dialogs = &data["updates"][0]["user_dialog_stats"];
    assert_eq!(dialogs[0]["dialog_id"], "d1", "{data}");
    // Where to go on from is said once a second at most, and a second later if nothing
    // else happens.
    let mut id = changed.id;
    let began = Instant::now();
    while id.is_empty() {
        let next = tokio::time::timeout(PATIENCE, first.next()).await??;
        id = next.ok_or("the stream has ended")?.id;
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "only the next heartbeat had it"
    );
    drop(first);
    let read = bulk_read("b1", "d1", "alice", 20 + sent);
    world.publish(&[read]).await?;
    world.journaled(10 + u64::try_from(sent)?).await?;
    // Nothing of Carol's has changed.
    let mut resumed = events(service.http, &path, &id).await?;
    let mut others = 0;
    loop {
        let event = tokio::time::timeout(PATIENCE, resumed.next()).await??;
        let event = event.ok_or("the stream has ended")?;
        let data: Value = serde_json::from_str(&event.data)?;
        for update in data["updates"].as_array().into_iter().flatten() {
            let stats = &update["user_stats"];
            match stats["user_id"].as_str() {
                Some("alice") => assert_eq!(stats["total_unread_count"], 1),
                _ => others += 1,
            }
        }
        if data["all_told"] == true {
            break;
        }
    }
    assert_eq!(others, 0, "who has not changed is not told");
    // A token of no use has all of them told.
    let mut anew = events(service.http, &path, "from another time").await?;
    told(&mut anew, "alice", 1).await?;
    let path = format!("/v1/tenants/{TENANT}/dialogs/d1/events");
    let mut dialog = events(service.http, &path, "").await?;
    let counted = async {
        loop {
            let event = dialog.next().await?.ok_or("the stream has ended")?;
            let messages = format!("\"message_count\":{},", 2 + sent);
            if event.data.contains(&messages) {
                return Result::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, counted).await??;
    service.stop().await
}

#[tokio::test]
async fn a_stop_ends_events_with_a_time_to_come_back() -> Result<()> {
    let (_world, service) = filled("http_stop").await?;
    let path = format!("/v1/tenants/{TENANT}/users/alice/events");
    let mut events = events(service.http, &path, "").await?;
    told(&mut events, "alice", 2).await?;
    service.send("-TERM").await?;
    let mut last = Event::default();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.next()).await?? {
        last = event;
    }
    assert_eq!(last.name, "end", "{last:?}");
    assert!(last.retry.is_some_and(|wait| (1..=1_000).contains(&wait)));
    Ok(())
}

/// Streams that take connections leave some to those who only ask.
#[tokio::test]
async fn streams_of_events_do_not_take_the_port() -> Result<()> {
    let mut world = World::new("http_port");
    world.config.http.max_connections = 16;
    let service = world.service().await?;
    let path = format!("/v1/tenants/{TENANT}/users/alice/events");
    let (mut streams, mut refused) = (Vec::new(), 0);
    for _ in 0..40 {
        match events(service.http, &path, "").await {
            Ok(events) => streams.push(events),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((streams.len(), refused), (6, 34), "half of three quarters");
    let stats = format!("/v1/tenants/{TENANT}/users/alice/stats");
    assert_eq!(get(&service, &stats).await?.status, 200);
    service.stop().await
}

#[tokio::test]
async fn half_a_request_and_large_headers_end_in_time() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new("http_headers");
    let service = world.service().await?;
    let mut half = tokio::net::TcpStream::connect(service.http).await?;
    half.write_all(b"PRI * HTTP/2.0\r\n").await?;
    let large = "x".repeat(100_000);
    let path = format!("/v1/tenants/{TENANT}/users/alice/stats");
    let headers = [("x-large", large.as_str())];
    let answer = ask(service.http, ("GET", &path), &headers, b"").await;
    let refused = answer.map_or(true, |answer| answer.status == 431);
    assert!(refused, "headers of 100 kB are taken");
    let mut byte = [0];
    let ended = tokio::time::timeout(Duration::from_secs(30), half.read(&mut byte)).await?;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    service.stop().await
}

/// A thousand pages of one caller that would look on: half of all streams are
/// theirs, the others are told why not, and nobody waits. Some never read.
#[tokio::test]
async fn a_thousand_streams_of_events_keep_nobody_waiting() -> Result<()> {
    const STREAMS: usize = 1_000;
    let mut world = World::new("http_thousand");
    world.config.http.max_connections = 2 * STREAMS;
    let service = world.service().await?;
    let mut sent = vec![join("j1", "d1", "alice", 1), join("j2", "d1", "bob", 1)];
    world.publish(&sent).await?;
    world.journaled(2).await?;
    let path = format!("/v1/tenants/{TENANT}/users/alice/events?min_interval_ms=10");
    let (mut streams, mut refused) = (Vec::new(), 0);
    for _ in 0..STREAMS {
        match events(service.http, &path, "").await {
            Ok(events) => streams.push(events),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("429") && error.contains("RESOURCE_EXHAUSTED"),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    assert_eq!((streams.len(), refused), (STREAMS / 2, STREAMS / 2));
    sent = vec![message("m9", "d1", "msg9", "bob", 20)];
    world.publish(&sent).await?;
    world.journaled(3).await?;
    let stats = format!("/v1/tenants/{TENANT}/users/alice/stats");
    let answer = get(&service, &stats).await?;
    assert_eq!(answer.json()?["total_unread_count"], 1);
    // Every other one has read nothing yet.
    for events in streams.iter_mut().step_by(2) {
        told(events, "alice", 1).await?;
    }
    drop(streams);
    until("all streams are gone", || async {
        let open = service.counter("chat_counters_serving_watch_streams", "");
        (open.await.ok()? == 0).then_some(())
    })
    .await?;
    service.stop().await
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_by_itself() -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new("http_slow");
    let service = world.service().await?;
    let mut stream = tokio::net::TcpStream::connect(service.http).await?;
    let head = "POST /v1/tenants/t/users/stats HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await?;
    let mut answer = vec![0; 4_096];
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    service.stop().await
}

#[tokio::test]
async fn pages_of_the_sites_that_are_named_may_ask_and_no_others() -> Result<()> {
    let mut world = World::new("http_cors");
    world.config.http.allowed_origins = "https://chat.example.org, http://localhost:3000".into();
    let service = world.service().await?;
    let path = "/v1/tenants/t/users/u/stats";
    for (origin, may) in [
        ("https://chat.example.org", true),
        ("http://localhost:3000", true),
        ("https://chat.example.org.evil.example", false),
        ("null", false),
    ] {
        let preflight = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "authorization"),
        ];
        let expected = if may { origin } else { "" };
        let asked = ask(service.http, ("OPTIONS", path), &preflight, b"").await?;
        assert_eq!(asked.header("access-control-allow-origin"), expected);
        let simple = [("origin", origin)];
        let asked = ask(service.http, ("GET", path), &simple, b"").await?;
        assert_eq!(asked.header("access-control-allow-origin"), expected);
    }
    service.stop().await
}

#[tokio::test]
async fn a_browser_s_grpc_is_answered_as_any() -> Result<()> {
    let (_world, service) = filled("http_grpc_web").await?;
    let message = v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "alice".into(),
        ..Default::default()
    };
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.encoded_len())?.to_be_bytes());
    framed.extend_from_slice(&message.encode_to_vec());
    let path = "/chatcounters.v1.CounterService/GetUserStats";
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("x-grpc-web", "1"),
    ];
    let answer = ask(service.http, ("POST", path), &headers, &framed).await?;
    assert_eq!(answer.status, 200);
    let length = u32::from_be_bytes(answer.body[1..5].try_into()?) as usize;
    let stats = v1::UserStats::decode(&answer.body[5..5 + length])?;
    assert_eq!(stats.total_unread_count, 2);
    let trailers = String::from_utf8_lossy(&answer.body[5 + length..]);
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    // What is an operator's is nowhere here.
    let path = "/chatcounters.v1.MaintenanceService/VerifyCounters";
    let answer = ask(service.http, ("POST", path), &headers, &framed).await?;
    assert_eq!(answer.status, 404);
    service.stop().await
}

/// The document that describes it names all that there is: each path of it is
/// answered, one way or the other, by a method of gRPC.
#[tokio::test]
async fn every_path_that_is_described_is_there() -> Result<()> {
    let (_world, service) = filled("http_openapi").await?;
    let document = get(&service, "/v1/openapi.json").await?.json()?;
    let paths = document["paths"].as_object().ok_or("no paths")?;
    assert!(paths.len() >= 12, "{}", paths.len());
    for (path, verbs) in paths {
        let real = path
            .replace("{tenant_id}", TENANT)
            .replace("{user_id}", "alice")
            .replace("{dialog_id}", "d1")
            .replace("{message_id}", "msg1");
        for (verb, operation) in verbs.as_object().ok_or("no verbs")? {
            let parameters = operation["parameters"].as_array().ok_or("no parameters")?;
            let in_query = parameters.iter().filter(|p| p["in"] == "query");
            // All of them: none is described that is not known.
            let query: Vec<String> = in_query
                .filter_map(|p| {
                    let value = match p["schema"]["type"].as_str()? {
                        "array" => "alice",
                        "integer" => "0",
                        "boolean" => "true",
                        _ => "",
                    };
                    Some(format!("{}={value}", p["name"].as_str()?))
                })
                .collect();
            let body =
                operation["requestBody"]["content"]["application/json"]["schema"]["required"][0]
                    .as_str()
                    .map_or(String::new(), |field| json!({ field: ["x"] }).to_string());
            let asked = format!("{real}?{}", query.join("&"));
            let verb = verb.to_uppercase();
            let answer = send(service.http, (&verb, &asked), &[], body.as_bytes()).await?;
            assert_eq!(answer.status(), 200, "{verb} {path}");
        }
    }
    service.stop().await
}
