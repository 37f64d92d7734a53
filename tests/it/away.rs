//! Looking at dead letters, and maintenance, while one of the servers is away: an
//! answer without what it would have said, or one clean refusal; neither takes long.

use std::time::{Duration, Instant};

use chat_counters::grpc::v1::maintenance_service_client::MaintenanceServiceClient;
use chat_counters::grpc::v1::*;
use lapin::options::QueueDeleteOptions;
use tonic::{Code, Request, Status};

use crate::dlq::{Client, client, poison};
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service, until};
use crate::world::World;

/// What a caller hears of a database that is away.
const CLEAN: &str = "the store cannot be reached, try again later";
/// A second for the broker, the rest for a busy machine: without what is tested here
/// it is ten for the broker, and whatever the caller allows for the store.
const SOON: Duration = Duration::from_secs(8);
/// What callers allow: so that whoever refuses is the service.
const DEADLINE: Duration = Duration::from_secs(60);

fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

async fn in_time<T>(what: &str, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = call.await;
    let took = began.elapsed();
    assert!(took < SOON, "{what} took {took:?}");
    answer
}

async fn looks_without_the_broker(client: &mut Client, letters: i64) -> Result<()> {
    let list = client.list_dead_letters(patient(ListDeadLettersRequest::default()));
    let list = in_time("listing", list).await?.into_inner();
    let index = list.index.ok_or("no state of the index")?;
    assert_eq!((list.total, index.queued), (letters, None));
    let groups = client.list_dead_letter_groups(patient(ListDeadLetterGroupsRequest::default()));
    let groups = in_time("grouping", groups).await?.into_inner();
    assert_eq!(groups.total, letters);
    let id = list.dead_letters[0].id.clone();
    let letter = client.get_dead_letter(patient(GetDeadLetterRequest { id }));
    in_time("showing", letter).await?;
    let audit = client.list_dead_letter_audit(patient(ListDeadLetterAuditRequest::default()));
    in_time("the audit", audit).await?;
    Ok(())
}

/// The refusals of all kinds of calls.
async fn refusals(service: &Service) -> Result<Vec<Status>> {
    let mut letters = client(service).await?;
    let address = format!("http://{}", service.admin);
    let mut maintenance = MaintenanceServiceClient::connect(address).await?;
    let selection = Some(DeadLetterSelection {
        filter: Some(DeadLetterFilter::default()),
        all: true,
        ..Default::default()
    });
    let list = letters.list_dead_letters(patient(ListDeadLettersRequest::default()));
    let list = list.await.map(drop);
    let replay = ReplayDeadLettersRequest {
        selection,
        ..Default::default()
    };
    let replay = match letters.replay_dead_letters(patient(replay)).await {
        Ok(answers) => answers.into_inner().message().await.map(drop),
        Err(refusal) => Err(refusal),
    };
    let verify = VerifyCountersRequest::default();
    let verify = match maintenance.verify_counters(patient(verify)).await {
        Ok(answers) => answers.into_inner().message().await.map(drop),
        Err(refusal) => Err(refusal),
    };
    let outcomes = [list, replay, verify].into_iter();
    Ok(outcomes.filter_map(|outcome| outcome.err()).collect())
}

#[tokio::test]
async fn a_server_that_is_away_delays_nobody_who_works_with_letters() -> Result<()> {
    let (rabbit, mongod) = tokio::try_join!(Server::rabbit("looks"), Server::mongod("looks"))?;
    let mut world = World::new("looks");
    world.config.bus.url = rabbit.url.clone().into();
    world.config.store.url = mongod.url.clone().into();
    let service = world.service().await?;
    let letters = poison();
    world.publish(&letters).await?;
    let mut looking = client(&service).await?;
    crate::dlq::listed(&looking, letters.len()).await?;

    rabbit.run("pause").await?;
    // The first finds a connection that is there, the second none.
    for _ in 0..2 {
        looks_without_the_broker(&mut looking, letters.len() as i64).await?;
    }
    rabbit.run("resume").await?;
    until("the broker is asked again", || async {
        let list = looking
            .clone()
            .list_dead_letters(ListDeadLettersRequest::default())
            .await;
        list.ok()?.into_inner().index?.queued
    })
    .await?;

    // Nobody writes a letter, and it is there again.
    let (_connection, channel) = world.channel().await?;
    let queue = world.config.bus.dead_letter_queue.as_str();
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    until("the dead-letter queue is declared again", || async {
        (world.depth(queue).await.ok()? == 0).then_some(())
    })
    .await?;

    mongod.run("kill").await?;
    // Before that is known, the driver is waited for; after that nobody is.
    let early = refusals(&service).await?;
    until("not ready", || async {
        (!service.is_ready().await).then_some(())
    })
    .await?;
    until("refused at once", || async {
        let began = Instant::now();
        let mut client = client(&service).await.ok()?;
        let refused = client.list_dead_letters(patient(ListDeadLettersRequest::default()));
        refused.await.err()?;
        (began.elapsed() < Duration::from_secs(1)).then_some(())
    })
    .await?;
    let late = in_time("three refusals", refusals(&service)).await?;
    assert_eq!((early.len(), late.len()), (3, 3), "{early:?} {late:?}");
    for refusal in early.iter().chain(&late) {
        assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
        assert!(refusal.message().ends_with(CLEAN), "{refusal:?}");
    }
    mongod.start().await?;
    service.stop().await
}
