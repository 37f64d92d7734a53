//! The servers that runs are played on, with proxies in front of them.

use std::net::SocketAddr;
use std::time::Duration;

use chat_counters::config;
use mongodb::bson::{Document, doc};

use super::proxy::Proxy;
use crate::kit::servers::{Server, free_ports};
use crate::kit::service::{Result, until};

/// Nodes of each cluster: the fewest of which one may be away.
const NODES: u16 = 3;
/// How long a consumer may hold a message, in milliseconds: longer than any one
/// fault lasts, shorter than several.
const CONSUMER_TIMEOUT_MS: u64 = 10_000;
/// A node that does not answer by then is down or frozen.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// A RabbitMQ cluster and a MongoDB replica set.
pub(crate) struct Stage {
    pub brokers: Vec<Server>,
    /// One a replica, each in front of all brokers.
    pub bus: Vec<Proxy>,
    pub databases: Vec<Server>,
    /// One a database node. The nodes, too, reach each other through them.
    pub store: Vec<Proxy>,
}

impl Stage {
    /// Starts everything.
    pub(crate) async fn new(replicas: usize) -> Result<Self> {
        let brokers = Server::impatient_rabbits("chaosbus", NODES, CONSUMER_TIMEOUT_MS);
        let (brokers, (databases, store)) = futures::try_join!(brokers, databases())?;
        let addresses: Result<Vec<_>> = brokers.iter().map(address).collect();
        let addresses = addresses?;
        let mut bus = Vec::new();
        for _ in 0..replicas {
            bus.push(Proxy::new(addresses.clone()).await?);
        }
        Ok(Self {
            brokers,
            bus,
            databases,
            store,
        })
    }

    /// Where a replica finds the broker.
    pub(crate) fn bus_url(&self, replica: usize) -> config::Url {
        let address = self.bus[replica].address;
        format!("amqp://guest:guest@{address}/%2f").into()
    }

    /// Where replicas find the database.
    pub(crate) fn store_url(&self) -> config::Url {
        let members: Vec<_> = self.store.iter().map(|p| p.address.to_string()).collect();
        format!("mongodb://{}/?replicaSet=rs0", members.join(",")).into()
    }

    /// Each broker, past the proxies.
    pub(crate) fn direct(&self, bus: &config::Bus) -> Vec<config::Bus> {
        let direct = self.brokers.iter().map(|server| config::Bus {
            url: server.url.as_str().into(),
            ..bus.clone()
        });
        direct.collect()
    }

    /// The database node that takes writes, as soon as there is one.
    pub(crate) async fn primary(&self) -> Result<usize> {
        until("a primary", || async {
            for (index, server) in self.databases.iter().enumerate() {
                let hello = admin(server, doc! { "hello": 1 }).await;
                let is_primary = hello
                    .is_ok_and(|hello| matches!(hello.get_bool("isWritablePrimary"), Ok(true)));
                if is_primary {
                    return Some(index);
                }
            }
            None
        })
        .await
    }
}

/// Runs an administrator's command on one database node.
pub(crate) async fn admin(server: &Server, what: Document) -> Result<Document> {
    command(server, "admin", what).await
}

/// Runs a command about a database on one of its nodes.
pub(crate) async fn command(server: &Server, database: &str, what: Document) -> Result<Document> {
    let client = mongodb::Client::with_uri_str(&server.url).await?;
    let answer = async { client.database(database).run_command(what).await };
    Ok(tokio::time::timeout(ANSWER_PATIENCE, answer).await??)
}

async fn databases() -> Result<(Vec<Server>, Vec<Proxy>)> {
    let first = free_ports(NODES).await?;
    let ports: Vec<u16> = (first..first + NODES).collect();
    let mut proxies = Vec::new();
    for port in &ports {
        proxies.push(Proxy::new(vec![SocketAddr::from(([127, 0, 0, 1], *port))]).await?);
    }
    let members: Vec<_> = proxies.iter().map(|p| p.address.to_string()).collect();
    let servers = Server::mongod_set("chaosdb", &ports, &members).await?;
    Ok((servers, proxies))
}

/// The address in a URL of ours.
fn address(server: &Server) -> Result<SocketAddr> {
    let authority = server
        .url
        .split(['@', '/'])
        .find(|part| part.starts_with("127."));
    Ok(authority.ok_or("a server without an address")?.parse()?)
}
