//! One test's own exchange, queues and database, and what it does with them.

use std::path::Path;

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::config::Config;
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use lapin::{Channel, Connection};
use mongodb::bson::{Document, doc};
use mongodb::options::ReadConcern;
use tonic::transport::Channel as GrpcChannel;

use crate::events::{TENANT, Wire};
use crate::kit::broker::{self, Letter};
use crate::kit::scenario::Published;
use crate::kit::service::{PATIENCE, Result, Service, config, until};

/// The real binary, as cargo built it for this test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_chat-counters"))
}

/// A test's own corner of the servers.
pub(crate) struct World {
    pub config: Config,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        // The library's connections are made in this process too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            config: config(name),
        }
    }

    pub(crate) async fn service(&self) -> Result<Service> {
        Service::start(binary(), &self.config).await
    }

    /// Publishes to the test's exchange; all must be confirmed.
    pub(crate) async fn publish<'w>(
        &self,
        events: impl IntoIterator<Item = &'w Wire>,
    ) -> Result<()> {
        let mut publisher = Publisher::connect(&self.config.bus).await?;
        let mut published = 0;
        for event in events {
            let headers = EventHeaders {
                event_type: &event.event_type,
                entity_type: &event.entity_type,
                tenant_id: TENANT,
            };
            let key = headers.routing_key();
            publisher.publish(&key, Some(&headers), &event.body).await?;
            published += 1;
        }
        let tally = tokio::time::timeout(PATIENCE, publisher.finish()).await??;
        assert_eq!(tally.confirmed, published, "{tally:?}");
        Ok(())
    }

    /// Publishes a scenario, or a part of it; returns how many messages that
    /// were.
    pub(crate) async fn publish_all(&self, part: &[Published]) -> Result<u64> {
        let published = part.iter().map(|published| Wire {
            event_type: published.event_type.clone(),
            entity_type: published.entity_type.clone(),
            body: published.body.clone(),
        });
        let published: Vec<_> = published.collect();
        self.publish(&published).await?;
        Ok(published.len() as u64)
    }

    pub(crate) async fn channel(&self) -> Result<(Connection, Channel)> {
        broker::channel(&self.config.bus).await
    }

    /// How many messages are ready in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> Result<u32> {
        broker::depth(&self.config.bus, queue).await
    }

    /// Stops a service that has settled everything, and the next ones until
    /// nothing is left in the queue: what is unacknowledged is in no queue's
    /// depth, only a stop shows it. An ack has no confirm, so a broker that is
    /// slow may give back what was settled just before; whoever takes that next
    /// has nothing to count and settles it.
    pub(crate) async fn stopped_with_nothing_left(&self, service: Service) -> Result<()> {
        const STOPS: usize = 3;
        service.stop().await?;
        for _ in 1..STOPS {
            if self.depth(&self.config.bus.queue).await? == 0 {
                return Ok(());
            }
            let next = self.service().await?;
            until("an empty queue", || async {
                let depth = self.depth(&self.config.bus.queue).await.ok()?;
                (depth == 0).then_some(())
            })
            .await?;
            next.stop().await?;
        }
        let left = self.depth(&self.config.bus.queue).await?;
        assert_eq!(left, 0, "in the queue after {STOPS} stops");
        Ok(())
    }

    /// Takes so many dead letters out of their queue.
    pub(crate) async fn letters(&self, count: usize) -> Result<Vec<Letter>> {
        broker::letters(&self.config.bus, count).await
    }

    pub(crate) fn database(&self) -> impl Future<Output = Result<mongodb::Database>> {
        let (url, name) = (self.config.store.url.clone(), &self.config.store.database);
        async move {
            let client = mongodb::Client::with_uri_str(url.expose()).await?;
            Ok(client.database(name))
        }
    }

    /// Documents in a collection: those that the service's reads see, too.
    pub(crate) async fn documents(&self, collection: &str) -> Result<u64> {
        let collection = self.database().await?.collection::<Document>(collection);
        // A journal begins with a record of no event.
        let events = doc! { "type": { "$ne": "counters.origin" } };
        let count = collection.count_documents(events);
        Ok(count.read_concern(ReadConcern::majority()).await?)
    }

    /// Waits until the journal has so many events.
    pub(crate) async fn journaled(&self, events: u64) -> Result<()> {
        until(&format!("{events} events in the journal"), || async {
            (self.documents("journal").await.ok()? >= events).then_some(())
        })
        .await
    }
}

/// A gRPC client of a service.
pub(crate) async fn client(service: &Service) -> Result<CounterServiceClient<GrpcChannel>> {
    Ok(CounterServiceClient::connect(format!("http://{}", service.grpc)).await?)
}

/// Unread of a user in a dialog, over gRPC.
pub(crate) async fn unread(service: &Service, user: &str, dialog: &str) -> Result<i64> {
    let request = v1::GetUserDialogStatsRequest {
        tenant_id: TENANT.into(),
        user_id: user.into(),
        dialog_id: dialog.into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let answer = client(service)
        .await?
        .get_user_dialog_stats(request)
        .await?;
    Ok(answer.into_inner().unread_count)
}

/// Messages and members of a dialog, over gRPC.
pub(crate) async fn dialog(service: &Service, dialog: &str) -> Result<(i64, i64)> {
    let request = v1::GetDialogStatsRequest {
        tenant_id: TENANT.into(),
        dialog_id: dialog.into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let answer = client(service)
        .await?
        .get_dialog_stats(request)
        .await?
        .into_inner();
    Ok((answer.message_count, answer.member_count))
}
