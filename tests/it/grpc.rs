//! The gRPC contract: every method, its limits and its errors.

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use chat_counters::grpc::v1::dead_letter_service_client::DeadLetterServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::events::{self, TENANT, Wire, join};
use crate::kit::service::{Result, Service};
use crate::world::{World, client};

type Client = CounterServiceClient<Channel>;

async fn with(name: &str, events: &[Wire]) -> Result<(World, Service, Client)> {
    let world = World::new(name);
    let service = world.service().await?;
    world.publish(events).await?;
    service.has_settled(events.len() as u64).await?;
    let client = client(&service).await?;
    Ok((world, service, client))
}

fn user(user_id: &str) -> v1::GetUserStatsRequest {
    v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: user_id.into(),
        after_event_id: String::new(),
        ..Default::default()
    }
}

#[tokio::test]
async fn every_method_answers_from_the_same_facts() -> Result<()> {
    let events = [
        join("e1", "d1", "Ann", 1),
        join("e2", "d1", "bob", 1),
        join("e3", "d2", "bob", 1),
        events::topic("e4", "d1", "t1", 2),
        events::message("e5", "d1", "m1", "ann", 10),
        events::message("e6", "d1", "m2", "ann", 20),
        events::message("e7", "d2", "m3", "ann", 30),
        events::status("e8", "d1", "m1", "bob", "delivered", 31),
        events::status("e9", "d1", "m1", "bob", "Read", 32),
        events::reaction("e10", "m2", "bob", "$👍.", "set", 33),
        events::bulk_read("e11", "d2", "bob", 29),
    ];
    let (_world, service, mut client) = with("methods", &events).await?;

    let bob = client.get_user_stats(user(" BOB ")).await?.into_inner();
    assert_eq!(bob.user_id, "bob");
    assert_eq!(
        (
            bob.dialog_count,
            bob.unread_dialogs_count,
            bob.total_unread_count
        ),
        (2, 2, 2)
    );
    assert_eq!(bob.unread_by_sender_type.get("user"), Some(&2));
    assert!(bob.version > 0 && bob.updated_at.is_some());
    let ann = client.get_user_stats(user("ann")).await?.into_inner();
    assert_eq!(
        (
            ann.dialog_count,
            ann.total_messages_count,
            ann.total_unread_count
        ),
        (1, 3, 0)
    );

    let request = v1::GetUserDialogStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "bob".into(),
        dialog_id: "d2".into(),
        after_event_id: "e11".into(),
        ..Default::default()
    };
    let in_d2 = client.get_user_dialog_stats(request).await?.into_inner();
    assert!(in_d2.member);
    assert_eq!(in_d2.unread_count, 1);
    assert_eq!(in_d2.joined_at.map(|at| at.nanos), Some(1_000_000));
    assert_eq!(in_d2.read_until.map(|at| at.nanos), Some(29_000_000));
    assert_eq!(in_d2.last_message_at.map(|at| at.nanos), Some(30_000_000));

    let request = v1::GetDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_id: "d1".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let d1 = client.get_dialog_stats(request).await?.into_inner();
    assert_eq!(
        (d1.message_count, d1.member_count, d1.topic_count),
        (2, 2, 1)
    );
    assert_eq!(d1.last_message_at.map(|at| at.nanos), Some(20_000_000));

    let request = v1::BatchGetMessageStatsRequest {
        tenant_id: TENANT.into(),
        message_ids: vec!["m2".into(), "m1".into(), "m2".into()],
    };
    let messages = client
        .batch_get_message_stats(request)
        .await?
        .into_inner()
        .message_stats;
    let ids: Vec<_> = messages
        .iter()
        .map(|message| message.message_id.as_str())
        .collect();
    assert_eq!(ids, ["m2", "m1", "m2"], "in request order");
    assert_eq!(messages[0].reaction_counts.get("$👍."), Some(&1));
    assert_eq!(messages[1].status_counts.get("read"), Some(&1));
    assert_eq!(messages[1].status_counts.get("delivered"), Some(&1));
    assert_eq!(messages[1].dialog_id, "d1");
    service.stop().await
}

#[tokio::test]
async fn what_was_never_heard_of_has_zeros() -> Result<()> {
    let (_world, service, mut client) = with("zeros", &[]).await?;
    let nobody = client.get_user_stats(user("nobody")).await?.into_inner();
    let expected = v1::UserStats {
        tenant_id: TENANT.into(),
        user_id: "nobody".into(),
        ..v1::UserStats::default()
    };
    assert_eq!(nobody, expected);
    let request = v1::BatchGetDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_ids: vec!["none".into()],
    };
    let none = client
        .batch_get_dialog_stats(request)
        .await?
        .into_inner()
        .dialog_stats;
    assert_eq!((none[0].message_count, none[0].version), (0, 0));
    service.stop().await
}

fn violations(refused: std::result::Result<impl std::fmt::Debug, Status>) -> Vec<String> {
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status
        .get_details_bad_request()
        .expect("google.rpc.BadRequest");
    details
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[tokio::test]
async fn wrong_arguments_are_named() -> Result<()> {
    let (_world, service, mut client) = with("arguments", &[]).await?;
    let request = v1::GetUserStatsRequest::default();
    assert_eq!(
        violations(client.get_user_stats(request).await),
        ["tenant_id", "user_id"]
    );

    let request = v1::BatchGetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_ids: vec!["a".into(), "b".into(), "x".repeat(513)],
    };
    assert_eq!(
        violations(client.batch_get_user_stats(request).await),
        ["user_ids[2]"]
    );

    let request = v1::BatchGetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_ids: vec!["a".into(); 1_001],
    };
    assert_eq!(
        violations(client.batch_get_user_stats(request).await),
        ["user_ids"]
    );

    let request = v1::ListUserDialogStatsRequest {
        tenant_id: "control\u{7}".into(),
        user_id: "a".into(),
        page_size: -1,
        page_token: "nonsense".into(),
        unread_only: false,
        order_by: 3,
    };
    let fields = violations(client.list_user_dialog_stats(request).await);
    assert_eq!(fields, ["tenant_id", "page_size", "order_by"]);
    service.stop().await
}

#[tokio::test]
async fn tenants_never_meet() -> Result<()> {
    let world = World::new("tenants");
    let service = world.service().await?;
    // The same ids, and ids that would meet if they were glued together.
    let mut events = Vec::new();
    for (number, tenant, dialog) in [(1, "a", "b|c"), (2, "a|b", "c"), (3, "a", "b|c")] {
        let mut event = events::message(&format!("e{number}"), dialog, "m", "ann", number);
        let body = String::from_utf8(event.body)?.replace("tnt_1", tenant);
        event.body = body.into_bytes();
        events.push(event);
    }
    world.publish(&events).await?;
    service.has_settled(3).await?;
    let mut client = client(&service).await?;
    for (tenant, dialog, messages) in [("a", "b|c", 1), ("a|b", "c", 1), ("a", "c", 0)] {
        let request = v1::GetDialogStatsRequest {
            tenant_id: tenant.into(),
            dialog_id: dialog.into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let stats = client.get_dialog_stats(request).await?.into_inner();
        assert_eq!(stats.message_count, messages, "{tenant} {dialog}");
    }
    service.stop().await
}

#[tokio::test]
async fn a_deleted_dialog_counts_for_nobody() -> Result<()> {
    let mut gone = events::topic("e5", "d", "t", 40);
    gone.body = String::from_utf8(gone.body)?
        .replace("dialog.topic.create", "dialog.delete")
        .into_bytes();
    let events = [
        join("e1", "d", "ann", 1),
        join("e2", "d", "bob", 1),
        events::message("e3", "d", "m1", "ann", 10),
        events::reaction("e4", "m1", "bob", "x", "set", 11),
        gone,
        events::message("e6", "d", "m2", "ann", 50),
    ];
    let (_world, service, mut client) = with("gone", &events).await?;
    // What was sent stays sent, and one more was sent since.
    for (name, sent) in [("ann", 2), ("bob", 0)] {
        let stats = client.get_user_stats(user(name)).await?.into_inner();
        let counts = (
            stats.dialog_count,
            stats.total_unread_count,
            stats.total_messages_count,
        );
        assert_eq!(counts, (0, 0, sent), "{name}");
        assert!(stats.version > 0, "a version never goes down");
    }
    let request = v1::GetMessageStatsRequest {
        tenant_id: TENANT.into(),
        message_id: "m1".into(),
        after_event_id: String::new(),
    };
    let message = client.get_message_stats(request).await?.into_inner();
    assert!(message.reaction_counts.is_empty());
    service.stop().await
}

#[tokio::test]
async fn health_and_reflection_are_served() -> Result<()> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

    let (_world, service, _client) = with("health", &[]).await?;
    let at = |address| Channel::from_shared(format!("http://{address}"));
    let counters = at(service.grpc)?.connect().await?;
    let admin = at(service.admin)?.connect().await?;
    for (channel, name) in [
        (&counters, ""),
        (&counters, "chatcounters.v1.CounterService"),
        (&admin, "chatcounters.v1.DeadLetterService"),
        (&admin, "chatcounters.v1.MaintenanceService"),
    ] {
        let request = HealthCheckRequest {
            service: name.into(),
        };
        let answer = HealthClient::new(channel.clone()).check(request).await?;
        assert_eq!(answer.into_inner().status, 1, "{name:?} is serving");
    }
    let request = || {
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..ServerReflectionRequest::default()
        };
        futures::stream::iter([request])
    };
    let mut reflection = ServerReflectionClient::new(admin);
    let answers = reflection.server_reflection_info(request()).await?;
    let answer = answers.into_inner().message().await?;
    assert!(
        format!("{answer:?}").contains("chatcounters.v1.CounterService"),
        "{answer:?}"
    );
    // Whoever reads counters is not told what else there is, nor given it.
    let mut reflection = ServerReflectionClient::new(counters.clone());
    let refused = reflection.server_reflection_info(request()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let mut letters = DeadLetterServiceClient::new(counters);
    let refused = letters.list_dead_letters(v1::ListDeadLettersRequest::default());
    assert_eq!(refused.await.unwrap_err().code(), Code::Unimplemented);
    service.stop().await
}

/// A request as a caller writes it who knows no UTF-8: its strings are bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Bytes {
    #[prost(bytes = "vec", tag = "1")]
    tenant_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    user_id: Vec<u8>,
}

#[tokio::test]
async fn what_no_method_can_take_is_refused_in_words_of_grpc() -> Result<()> {
    let (_world, service, mut client) = with("edges", &[join("e1", "d1", "ann", 1)]).await?;
    let at = |address| Channel::from_shared(format!("http://{address}"));
    let counters = at(service.grpc)?.connect().await?;
    let admin = at(service.admin)?.connect().await?;
    for (channel, method) in [
        (&counters, "chatcounters.v1.CounterService/GetUserStats"),
        (&admin, "chatcounters.v1.DeadLetterService/GetDeadLetter"),
        (&admin, "chatcounters.v1.MaintenanceService/VerifyCounters"),
        (&counters, "grpc.health.v1.Health/Check"),
    ] {
        let mut raw = tonic::client::Grpc::new(channel.clone());
        raw.ready().await?;
        let request = tonic::Request::new(Bytes {
            tenant_id: b"J\xf6rg".to_vec(),
            user_id: b"J\xf6rg".to_vec(),
        });
        let path: tonic::codegen::http::uri::PathAndQuery = format!("/{method}").parse()?;
        let codec = tonic_prost::ProstCodec::<Bytes, v1::UserStats>::default();
        let refused = raw.unary(request, path.clone(), codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{method}: {refused}");

        raw.ready().await?;
        let mut request = tonic::Request::new(Bytes::default());
        let metadata = "x".repeat(20_000).parse()?;
        request.metadata_mut().insert("x-large", metadata);
        let codec = tonic_prost::ProstCodec::<Bytes, v1::UserStats>::default();
        let refused = raw.unary(request, path, codec).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::ResourceExhausted,
            "{method}: {refused}"
        );
    }

    // Beside calls that are answered, on one connection.
    for bytes in [20_000, 60_000, 1_000] {
        let mut request = tonic::Request::new(user("ann"));
        let metadata = "x".repeat(bytes).parse()?;
        request.metadata_mut().insert("x-large", metadata);
        let answer = client.get_user_stats(request).await;
        match answer {
            Ok(answer) => {
                assert_eq!(bytes, 1_000);
                assert_eq!(answer.into_inner().dialog_count, 1);
            }
            Err(refused) => {
                assert_eq!(
                    refused.code(),
                    Code::ResourceExhausted,
                    "{bytes}: {refused}"
                );
                assert!(refused.message().contains("16384"), "{refused}");
            }
        }
        let answer = client.get_user_stats(user("ann")).await?;
        assert_eq!(answer.into_inner().dialog_count, 1);
    }
    service.stop().await
}
