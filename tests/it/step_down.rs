//! A primary that steps down in the middle of a call: whoever asks is told to try
//! again later, whichever service was asked.

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::maintenance_service_client::MaintenanceServiceClient;
use mongodb::bson::{Document, doc};
use tonic::{Code, Response, Status};

use crate::dlq;
use crate::events::{TENANT, join};
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service};
use crate::world::{World, client};

/// What the server says of itself while it is no primary any more, and a
/// connection that it closes without a word.
fn failures() -> Vec<(&'static str, Document)> {
    vec![
        ("NotWritablePrimary", doc! { "errorCode": 10_107 }),
        (
            "InterruptedDueToReplStateChange",
            doc! { "errorCode": 11_602 },
        ),
        ("PrimarySteppedDown", doc! { "errorCode": 189 }),
        ("ShutdownInProgress", doc! { "errorCode": 91 }),
        ("a closed connection", doc! { "closeConnection": true }),
    ]
}

/// Has the server fail all that the service reads and writes, and nothing that
/// others do.
async fn fail(world: &World, how: Option<&Document>) -> Result<()> {
    let commands = [
        "aggregate",
        "count",
        "delete",
        "find",
        "findAndModify",
        "getMore",
        "insert",
        "update",
    ];
    let mut command = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    if let Some(how) = how {
        let mut data = doc! { "failCommands": &commands[..], "appName": "chat-counters" };
        data.extend(how.clone());
        command.insert("mode", "alwaysOn");
        command.insert("data", data);
    }
    let database = world.database().await?;
    let admin = database.client().database("admin");
    admin.run_command(command).await?;
    Ok(())
}

type Answer<T> = std::result::Result<Response<T>, Status>;

async fn refusal<T>(call: impl Future<Output = Answer<T>>) -> Status {
    match call.await {
        Ok(_) => Status::ok("answered"),
        Err(status) => status,
    }
}

/// What each of the services answers.
async fn answers(service: &Service) -> Result<Vec<(&'static str, Status)>> {
    let mut counters = client(service).await?;
    let stats = counters.get_user_stats(v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "bob".into(),
        ..Default::default()
    });
    let stats = refusal(stats).await;
    let mut letters = dlq::client(service).await?;
    let listed = letters.list_dead_letters(v1::ListDeadLettersRequest::default());
    let listed = refusal(listed).await;
    let audit = letters.list_dead_letter_audit(v1::ListDeadLetterAuditRequest::default());
    let audit = refusal(audit).await;
    let mut maintenance =
        MaintenanceServiceClient::connect(format!("http://{}", service.admin)).await?;
    let verified = maintenance.verify_counters(v1::VerifyCountersRequest::default());
    let verified = refusal(verified).await;
    let abandoned = maintenance.abandon_rebuild(v1::AbandonRebuildRequest {});
    let abandoned = refusal(abandoned).await;
    Ok(vec![
        ("GetUserStats", stats),
        ("ListDeadLetters", listed),
        ("ListDeadLetterAudit", audit),
        ("VerifyCounters", verified),
        ("AbandonRebuild", abandoned),
    ])
}

#[tokio::test]
async fn every_service_says_unavailable_while_the_primary_steps_down() -> Result<()> {
    let mongod = Server::mongod("step_down").await?;
    let mut world = World::new("step_down");
    world.config.store.url = mongod.url.clone().into();
    let service = world.service().await?;
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    service.has_settled(1).await?;
    let committed = "name=\"commit\",outcome=\"committed\"";
    let transactions = "chat_counters_store_transactions_total";
    assert!(service.counter(transactions, committed).await? >= 1);

    let mut wrong = Vec::new();
    for (failure, how) in failures() {
        fail(&world, Some(&how)).await?;
        let answers = answers(&service).await;
        fail(&world, None).await?;
        for (call, status) in answers? {
            let is_told = status.message().contains("the store cannot be reached");
            if status.code() != Code::Unavailable || !is_told {
                wrong.push(format!("{failure}: {call}: {status:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    service.stop().await
}
