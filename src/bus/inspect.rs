//! A look at the broker that changes nothing.

use std::future::poll_fn;
use std::pin::Pin;

use futures::io::{AsyncRead, AsyncWrite};
use lapin::types::FieldTable;
use serde::Serialize;

use super::connect::{ANSWER_TIMEOUT, Link, Secured, Socket, Target};
use super::error::BusError;
use super::field_table::text_at;
use super::topology;
use crate::config;
use crate::pki::Certificate;

/// The oldest RabbitMQ whose quorum queues dead-letter at least once.
const OLDEST_VERSION: (u32, u32) = (3, 10);
/// The oldest RabbitMQ that heeds a queue's own consumer timeout.
const HEEDS_QUEUE_TIMEOUT: (u32, u32) = (3, 12);
/// The largest greeting that is read, in bytes.
const MAX_GREETING_BYTES: usize = 64 * 1024;

/// What was found at the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inspection {
    /// The broker, without user information.
    pub url: String,
    /// `RabbitMQ`, where the broker says so.
    pub product: Option<String>,
    /// The broker's version, where the broker says so.
    pub version: Option<String>,
    /// The name of the broker's cluster, where the broker says so.
    pub cluster: Option<String>,
    /// How the connection is secured, if it is.
    pub tls: Option<Security>,
    /// The exchange that events come from.
    pub exchange: Found,
    /// The exchange of notifications, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify_exchange: Option<Found>,
    /// The service's queue.
    pub queue: Found,
    /// The dead-letter queue.
    pub dead_letter_queue: Found,
    /// What keeps the service from working, and what to do about it.
    pub problems: Vec<String>,
    /// What is worth knowing and no problem.
    pub notes: Vec<String>,
}

/// TLS towards the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Security {
    /// The version that was agreed.
    pub version: String,
    /// Who we are to the broker by our certificate; absent where a user and a
    /// password say it.
    pub external: Option<String>,
    /// The broker's certificate and ours.
    pub certificates: Vec<Certificate>,
}

impl Security {
    fn of(secured: &Secured) -> Self {
        let agreed = secured.agreed.as_ref();
        let broker = agreed.and_then(|agreed| agreed.broker.clone());
        let ours = secured.certificates.iter().cloned();
        Self {
            version: agreed.map_or(String::new(), |agreed| agreed.version.clone()),
            external: secured.external.clone(),
            certificates: broker.into_iter().chain(ours).collect(),
        }
    }
}

/// An exchange or a queue as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    /// The name by the configuration.
    pub name: String,
    /// Whether it exists at the broker.
    pub exists: bool,
    /// Whether it exists in the form that the service needs, as far as AMQP
    /// tells: policies are not seen.
    pub fits: bool,
    /// The number of messages ready for delivery; 0 for an exchange.
    pub messages: u32,
    /// The number of consumers; 0 for an exchange.
    pub consumers: u32,
}

impl Found {
    fn new(name: &str) -> Self {
        Found {
            name: name.into(),
            exists: false,
            fits: false,
            messages: 0,
            consumers: 0,
        }
    }
}

/// Connects and reports. Declares, binds and consumes nothing: what exists is
/// compared, what is missing stays so.
///
/// # Errors
/// When the broker cannot be reached, or refuses the user or the virtual host.
pub(crate) async fn inspect(
    bus: &config::Bus,
    notify: &config::Notify,
) -> Result<Inspection, BusError> {
    let link = Link::open(bus, "chat-counters check").await?;
    let report = report(&link, bus, notify).await;
    link.close().await;
    report
}

async fn report(
    link: &Link,
    bus: &config::Bus,
    notify: &config::Notify,
) -> Result<Inspection, BusError> {
    let greeting = greeting(bus).await.unwrap_or_default();
    let mut report = Inspection {
        url: bus.present_url().await?.redacted(),
        tls: link.secured.as_ref().map(Security::of),
        product: text_at(&greeting, "product"),
        version: text_at(&greeting, "version"),
        cluster: text_at(&greeting, "cluster_name"),
        exchange: Found::new(&bus.exchange),
        notify_exchange: None,
        queue: Found::new(&bus.queue),
        dead_letter_queue: Found::new(&bus.dead_letter_queue),
        problems: Vec::new(),
        notes: Vec::new(),
    };
    report.version_fits();
    report.certificates_last();
    report.exchange = report
        .exchange_of(link, ("bus.exchange", &bus.exchange))
        .await?;
    if notify.format != config::NotifyFormat::Off {
        let exchange = ("notify.exchange", notify.exchange.as_str());
        report.notify_exchange = Some(report.exchange_of(link, exchange).await?);
    }
    report.queues(link, bus).await?;
    Ok(report)
}

impl Inspection {
    fn version_fits(&mut self) {
        let version = self.version.as_deref().unwrap_or_default();
        let mut parts = version.split('.').map_while(|part| part.parse().ok());
        let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
            self.notes
                .push("the broker does not tell its version".into());
            return;
        };
        if (major, minor) < OLDEST_VERSION {
            self.problems.push(format!(
                "RabbitMQ {version} is too old: the service needs {}.{} or later, whose quorum queues dead-letter at least once",
                OLDEST_VERSION.0, OLDEST_VERSION.1
            ));
        }
        if (major, minor) < HEEDS_QUEUE_TIMEOUT {
            self.notes.push(format!(
                "RabbitMQ {version} ignores x-consumer-timeout of a queue: it ends a consumer that holds a message for the broker's own consumer_timeout (30 minutes unless it is set), which counts as a failed delivery. Keep bus.hold_seconds well below it, or raise it; {}.{} and later heed the queue",
                HEEDS_QUEUE_TIMEOUT.0, HEEDS_QUEUE_TIMEOUT.1
            ));
        }
    }

    fn certificates_last(&mut self) {
        let certificates = self.tls.iter().flat_map(|tls| &tls.certificates);
        self.notes
            .extend(certificates.filter_map(Certificate::ends_soon));
    }

    /// A topic exchange, by the key of the configuration that names it.
    async fn exchange_of(
        &mut self,
        link: &Link,
        (key, name): (&'static str, &str),
    ) -> Result<Found, BusError> {
        let mut found = Found::new(name);
        found.exists = topology::exchange_exists(link, key, name).await?;
        if found.exists {
            let compared = topology::topic_exchange(link, key, name).await;
            found.fits = self.judge(compared)?;
        } else {
            self.notes.push(format!(
                "the exchange {name:?} does not exist yet: serve declares it"
            ));
        }
        Ok(found)
    }

    async fn queues(&mut self, link: &Link, bus: &config::Bus) -> Result<(), BusError> {
        if let Some(counts) = topology::counts(link, "bus.queue", &bus.queue).await? {
            self.queue.exists = true;
            (self.queue.messages, self.queue.consumers) = (counts.ready, counts.consumers);
            let arguments = topology::arguments(bus);
            let compared = topology::queue(link, "bus.queue", &bus.queue, arguments).await;
            self.queue.fits = self.judge(compared)?;
        } else {
            self.missing(&bus.queue);
        }
        let (key, name) = ("bus.dead_letter_queue", &bus.dead_letter_queue);
        if let Some(counts) = topology::counts(link, key, name).await? {
            let found = &mut self.dead_letter_queue;
            found.exists = true;
            (found.messages, found.consumers) = (counts.ready, counts.consumers);
            let compared = topology::dead_letter_queue(link, bus).await;
            self.dead_letter_queue.fits = self.judge(compared)?;
        } else {
            self.missing(name);
        }
        Ok(())
    }

    fn missing(&mut self, queue: &str) {
        self.notes.push(format!(
            "the queue {queue:?} does not exist yet: serve declares it"
        ));
    }

    /// Whether it fits; what does not is a problem, a lost connection an error.
    fn judge(&mut self, compared: Result<(), BusError>) -> Result<bool, BusError> {
        match compared {
            Ok(()) => Ok(true),
            Err(error) if error.is_for_operator() => {
                self.problems.push(error.to_string());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// What the broker says of itself when a client greets it. lapin keeps that
/// to itself, so this greets the broker a second time and hangs up. `None`
/// when it cannot be had: it is for information only.
async fn greeting(bus: &config::Bus) -> Option<FieldTable> {
    let frame = tokio::time::timeout(ANSWER_TIMEOUT, greet(bus)).await;
    let payload = frame.ok()?.ok()?;
    // Connection.Start: class, method, version major and minor, then the table.
    let (header, table) = payload.split_at_checked(6)?;
    if header[..4] != [0, 10, 0, 10] {
        return None;
    }
    let (_, table) = lapin::types::parsing::parse_field_table(table).ok()?;
    Some(table)
}

/// The payload of the broker's first frame.
async fn greet(bus: &config::Bus) -> std::io::Result<Vec<u8>> {
    let target = Target::of(bus).await.map_err(std::io::Error::other)?;
    let wire = target.wire(bus, &Socket::default(), None).await;
    let (mut stream, _) = wire.map_err(std::io::Error::other)?;
    let mut hello: &[u8] = b"AMQP\x00\x00\x09\x01";
    while !hello.is_empty() {
        let sent = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, hello)).await?;
        hello = &hello[sent..];
    }
    // Type, channel, size of the payload.
    let mut head = [0; 7];
    fill(&mut stream, &mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if head[0] != 1 || size > MAX_GREETING_BYTES {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; size];
    fill(&mut stream, &mut payload).await?;
    Ok(payload)
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), mut rest: &mut [u8]) -> std::io::Result<()> {
    while !rest.is_empty() {
        let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, rest)).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        rest = &mut rest[read..];
    }
    Ok(())
}
