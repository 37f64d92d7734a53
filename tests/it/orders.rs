//! A user's dialogs in the orders that an inbox needs: the same from memory and
//! from the store, also when dialogs move between two pages.

use chat_counters::config::Serving;
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::UserDialogOrder::{self, LastMessage, UnreadFirst, Unspecified};
use tonic::Code;

use crate::command_line::{command, stderr, stdout};
use crate::events::{self, TENANT, bulk_read, dialog_delete, join, leave, message};
use crate::kit::service::{Result, Service, until};
use crate::world::{World, client};

/// Dialogs that bob is in, when their latest message was in milliseconds, and
/// until when he has read them.
const DIALOGS: [(&str, Option<i64>, Option<i64>); 6] = [
    ("d1", Some(100), Some(100)),
    ("d2", Some(300), None),
    ("d3", Some(300), None),
    ("d4", Some(400), Some(400)),
    ("d5", None, None),
    ("d6", Some(200), None),
];

/// Those dialogs, and two with later messages that are not bob's any more.
fn inbox() -> Vec<events::Wire> {
    let mut sent = Vec::new();
    let others = [("gone", Some(500), None), ("left", Some(600), None)];
    for (dialog, at, read_until) in DIALOGS.into_iter().chain(others) {
        sent.push(join(&format!("join.{dialog}"), dialog, "bob", 1));
        if let Some(at) = at {
            let id = format!("message.{dialog}");
            sent.push(message(&id, dialog, &id, "ann", at));
        }
        if let Some(until) = read_until {
            sent.push(bulk_read(&format!("read.{dialog}"), dialog, "bob", until));
        }
    }
    sent.push(dialog_delete("delete", "gone", 700));
    sent.push(leave("leave", "left", "bob", 700));
    sent
}

fn request(
    order: UserDialogOrder,
    unread_only: bool,
    page_token: &str,
) -> v1::ListUserDialogStatsRequest {
    v1::ListUserDialogStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "bob".into(),
        unread_only,
        page_size: 2,
        page_token: page_token.into(),
        order_by: order.into(),
    }
}

/// Two dialogs, with the time of the latest message in milliseconds, and the
/// token for what comes after them.
async fn page(
    service: &Service,
    request: v1::ListUserDialogStatsRequest,
) -> Result<(Vec<(String, Option<i64>)>, String)> {
    let answer = client(service).await?.list_user_dialog_stats(request).await;
    let answer = answer.map_err(Box::new)?.into_inner();
    let dialogs = answer.user_dialog_stats.into_iter().map(|stats| {
        let at = stats.last_message_at;
        let millis = at.map(|at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000);
        (stats.dialog_id, millis)
    });
    Ok((dialogs.collect(), answer.next_page_token))
}

fn row(dialog: &str, at: i64) -> (String, Option<i64>) {
    (dialog.to_owned(), Some(at))
}

/// All pages from a token on: of each, its dialogs in a line.
async fn pages(
    service: &Service,
    order: UserDialogOrder,
    unread_only: bool,
    mut token: String,
) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let (dialogs, next) = page(service, request(order, unread_only, &token)).await?;
        let ids: Vec<String> = dialogs.into_iter().map(|(id, _)| id).collect();
        pages.push(ids.join(" "));
        if next.is_empty() {
            return Ok(pages);
        }
        token = next;
    }
}

/// One that answers from memory, and one from the store.
async fn both(world: &mut World) -> Result<[Service; 2]> {
    let memory = world.service().await?;
    world.config.serving = Serving { memory_mib: 0 };
    let store = world.service().await?;
    Ok([memory, store])
}

/// Waits until one answers from memory: on a machine that has much to do the
/// store answers before memory does.
async fn is_held(service: &Service) -> Result<()> {
    until("an order from memory", || async {
        let asked = page(service, request(LastMessage, false, "")).await;
        asked.ok()?;
        let reads = service.counter("chat_counters_serving_reads_total", "memory");
        (reads.await.ok()? > 0).then_some(())
    })
    .await
}

#[tokio::test]
async fn pages_in_each_order_are_the_same_from_memory_and_from_the_store() -> Result<()> {
    let mut world = World::new("orders");
    let services = both(&mut world).await?;
    let sent = inbox();
    world.publish(&sent).await?;
    world.journaled(sent.len() as u64).await?;
    is_held(&services[0]).await?;
    for service in &services {
        for (order, unread_only, expected) in [
            (Unspecified, false, &["d1 d2", "d3 d4", "d5 d6"][..]),
            (Unspecified, true, &["d2 d3", "d6"][..]),
            (LastMessage, false, &["d4 d2", "d3 d6", "d1 d5"][..]),
            (LastMessage, true, &["d2 d3", "d6"][..]),
            (UnreadFirst, false, &["d2 d3", "d6 d4", "d1 d5"][..]),
            (UnreadFirst, true, &["d2 d3", "d6"][..]),
        ] {
            let found = pages(service, order, unread_only, String::new()).await?;
            assert_eq!(found, expected, "{order:?}, unread only: {unread_only}");
        }
        let mut everything = request(Unspecified, false, "");
        everything.page_size = 0;
        let (found, _) = page(service, everything).await?;
        let expected = DIALOGS.map(|(dialog, at, _)| (dialog.to_owned(), at));
        assert_eq!(found, expected);

        let (_, token) = page(service, request(LastMessage, false, "")).await?;
        for order in [Unspecified, UnreadFirst] {
            let other = request(order, false, &token);
            let refused = client(service).await?.list_user_dialog_stats(other).await;
            let status = refused.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("page_token"), "{status}");
        }
    }
    for service in services {
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_dialog_that_moves_between_two_pages_comes_twice_or_not_at_all() -> Result<()> {
    let mut world = World::new("orders_move");
    let services = both(&mut world).await?;
    let sent = inbox();
    world.publish(&sent).await?;
    world.journaled(sent.len() as u64).await?;
    is_held(&services[0]).await?;
    let mut tokens = Vec::new();
    for service in &services {
        let (first, by_last_message) = page(service, request(LastMessage, false, "")).await?;
        assert_eq!(first, [row("d4", 400), row("d2", 300)]);
        let (first, unread_first) = page(service, request(UnreadFirst, false, "")).await?;
        assert_eq!(first, [row("d2", 300), row("d3", 300)]);
        tokens.push([by_last_message, unread_first]);
    }
    // One moves to the top, and one from the unread ones to the others.
    world
        .publish(&[
            message("message.d5", "d5", "message.d5", "ann", 800),
            bulk_read("read.d2", "d2", "bob", 300),
        ])
        .await?;
    world.journaled(sent.len() as u64 + 2).await?;
    for (service, [by_last_message, unread_first]) in services.iter().zip(tokens) {
        let rest = pages(service, LastMessage, false, by_last_message).await?;
        assert_eq!(rest, ["d3 d6", "d1"], "without d5");
        let rest = pages(service, UnreadFirst, false, unread_first).await?;
        assert_eq!(rest, ["d6 d4", "d2 d1"], "d2 again, without d5");
        // The first page has what moved up.
        let (first, _) = page(service, request(LastMessage, false, "")).await?;
        assert_eq!(first, [row("d5", 800), row("d4", 400)]);
        let all = pages(service, UnreadFirst, false, String::new()).await?;
        assert_eq!(all, ["d5 d3", "d6 d4", "d2 d1"]);
    }
    for service in services {
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_command_line_lists_in_each_order() -> Result<()> {
    let world = World::new("orders_command");
    let service = world.service().await?;
    let sent = inbox();
    world.publish(&sent).await?;
    world.journaled(sent.len() as u64).await?;
    let address = format!("http://{}", service.grpc);
    for (order, expected) in [
        ("dialog-id", "d1 d2 d3 d4 d5 d6"),
        ("last-message", "d4 d2 d3 d6 d1 d5"),
        ("unread-first", "d2 d3 d6 d4 d1 d5"),
    ] {
        let get = ["get", "user-dialogs", "bob", "--order-by", order];
        let of = ["--tenant", TENANT, "--address", &address];
        let arguments = [&get[..], &of[..], &["--output", "json"]].concat();
        let output = command(&world, &arguments).output().await?;
        assert!(output.status.success(), "{}", stderr(&output));
        let listed: Vec<serde_json::Value> = serde_json::from_str(&stdout(&output))?;
        let ids = listed.iter().filter_map(|one| one["dialog_id"].as_str());
        assert_eq!(ids.collect::<Vec<_>>().join(" "), expected, "{order}");
        let first = &listed[0]["last_message_at"];
        assert!(first.as_str().is_some_and(|at| at.starts_with("1970")));
    }
    service.stop().await
}
