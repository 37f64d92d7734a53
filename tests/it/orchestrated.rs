//! What stands between the service and its orchestrator: probes, rollouts, and
//! words at the beginning and the end.

use std::time::{Duration, Instant};

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::events::{self, TENANT, join};
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service, get, until};
use crate::world::{World, binary, unread};

#[tokio::test]
async fn a_broker_that_says_nothing_is_told_of_and_takes_no_replica_out() -> Result<()> {
    let rabbit = Server::rabbit("silent").await?;
    let mut world = World::new("silent");
    world.config.bus.url = rabbit.url.clone().into();
    let service = world.service().await?;
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    service.has_settled(1).await?;
    assert!(get(service.metrics, "/livez").await?.ends_with("ok\n"));
    let told = get(service.metrics, "/readyz?verbose").await?;
    for part in [
        "ready: yes",
        "store: answers",
        "consuming: yes",
        "stopping: no",
    ] {
        assert!(told.contains(part), "{told}");
    }

    rabbit.run("pause").await?;
    let frozen = Instant::now();
    until("not whole any more", || async {
        get(service.metrics, "/healthz")
            .await
            .is_err()
            .then_some(())
    })
    .await?;
    let noticed = frozen.elapsed();
    assert!(noticed < Duration::from_secs(12), "{noticed:?}");
    let told = get(service.metrics, "/readyz?verbose").await?;
    assert!(told.contains("ready: yes"), "{told}");
    assert!(told.contains("broker: silent for"), "{told}");
    assert_eq!(unread(&service, "bob", "d").await?, 0);
    rabbit.run("resume").await?;
    until("whole again", || async {
        get(service.metrics, "/healthz").await.ok()
    })
    .await?;
    service.stop().await
}

/// Reads from whichever replica is ready, as a balancer does that looks five
/// times a second; one more try where a replica is gone.
struct Balanced {
    replicas: Vec<(Service, CounterServiceClient<Channel>)>,
    at: Instant,
    ready: Vec<bool>,
    reads: u64,
}

impl Balanced {
    async fn look(&mut self) {
        if self.at.elapsed() < Duration::from_millis(200) {
            return;
        }
        for (ready, (service, _)) in self.ready.iter_mut().zip(&self.replicas) {
            *ready = get(service.metrics, "/readyz").await.is_ok();
        }
        self.at = Instant::now();
    }

    async fn read(&mut self) -> Result<()> {
        self.look().await;
        let turn = usize::try_from(self.reads)?;
        self.reads += 1;
        let count = self.replicas.len();
        let order = (0..count).map(|number| (turn + number) % count);
        let mut ready = order.filter(|replica| self.ready[*replica]);
        let first = ready.next().ok_or("no replica is ready")?;
        let mut tried = self.ask(first).await;
        if let (Err(status), Some(second)) = (&tried, ready.next())
            && (status.code() == Code::Unavailable || status.message() == "operation was canceled")
        {
            tried = self.ask(second).await;
        }
        Ok(tried?)
    }

    async fn ask(&self, replica: usize) -> std::result::Result<(), tonic::Status> {
        let request = v1::GetUserStatsRequest {
            tenant_id: TENANT.into(),
            user_id: "bob".into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let mut client = self.replicas[replica].1.clone();
        client.get_user_stats(request).await.map(drop)
    }
}

#[tokio::test]
async fn a_rollout_shows_a_client_not_one_error() -> Result<()> {
    let mut world = World::new("rollout");
    world.config.shutdown.delay_seconds = 2;
    let start = async || {
        let service = world.service().await?;
        let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc))?;
        let client = CounterServiceClient::new(endpoint.connect_lazy());
        Result::Ok((service, client))
    };
    let replicas = vec![start().await?, start().await?];
    world.publish(&[join("j", "d", "bob", 1)]).await?;
    let mut balanced = Balanced {
        ready: vec![true; replicas.len()],
        replicas,
        at: Instant::now(),
        reads: 0,
    };
    for replica in 0..2 {
        let (service, _) = &balanced.replicas[replica];
        service.send("-TERM").await?;
        let asked = Instant::now();
        // What is asked before the others know is answered all the same.
        balanced.ask(replica).await?;
        assert!(
            get(balanced.replicas[replica].0.metrics, "/readyz")
                .await
                .is_err()
        );
        assert!(
            get(balanced.replicas[replica].0.metrics, "/livez")
                .await
                .is_ok()
        );
        while balanced.replicas[replica].0.ended().is_none() {
            balanced.read().await?;
        }
        assert!(
            asked.elapsed() > Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        balanced.replicas[replica] = start().await?;
        balanced.at = Instant::now();
        balanced.ready[replica] = true;
    }
    for _ in 0..50 {
        balanced.read().await?;
    }
    for (service, _) in balanced.replicas {
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_log_begins_with_what_runs_and_ends_with_how_it_ended() -> Result<()> {
    let world = World::new("first_and_last");
    let file = tempfile::NamedTempFile::new()?;
    let log = file.reopen()?.into();
    let service = Service::spawn_logging(binary(), &world.config, "info", log).await?;
    until("ready", || async { service.is_ready().await.then_some(()) }).await?;
    world.publish(&events::messages("m", "d", 3, 1_000)).await?;
    service.has_settled(3).await?;
    service.stop().await?;
    let said = std::fs::read_to_string(file.path())?;
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"), "{first}");
    let settings = first["settings"].as_str().unwrap_or_default();
    let queue = format!("bus.queue = {:?}", world.config.bus.queue);
    assert!(settings.contains(&queue), "{settings}");
    let message = last["message"].as_str().unwrap_or_default();
    assert!(message.contains("what was under way is settled"), "{last}");
    Ok(())
}
