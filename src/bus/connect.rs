//! One connection to the broker.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_rs::Tokio;
use lapin::tcp::{AsyncTcpStream, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties};

use super::error::{BusError, amqp_code, answer};
use super::filter::{self, Wire};
use super::intake::Scales;
use crate::config::redacted;

/// For resolving, connecting and the handshakes, together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one question to a broker that is up.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a polite good-bye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Seconds between heartbeats where the URL says nothing else: a silent broker
/// is noticed after twice as long.
const HEARTBEAT_SECONDS: u16 = 10;
/// Largest frame, in bytes, where the URL says nothing else: RabbitMQ's own
/// default. lapin keeps 64 times as much for each connection.
const FRAME_MAX: u32 = 128 * 1024;

/// An open connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    socket: Socket,
}

impl Link {
    /// Connects once.
    ///
    /// # Errors
    /// [`BusError::is_for_operator`] for a URL, host, user or virtual host that
    /// is wrong; else [`BusError::Unreachable`].
    pub(super) async fn open(url: &str, name: &'static str) -> Result<Link, BusError> {
        Self::weighed(url, name, None).await
    }

    /// Connects once; what is read is weighed on scales, if there are any.
    ///
    /// # Errors
    /// As [`open`](Link::open).
    pub(super) async fn weighed(
        url: &str,
        name: &'static str,
        scales: Option<Arc<Scales>>,
    ) -> Result<Link, BusError> {
        let uri = parse(url)?;
        let unreachable = |why: String| BusError::Unreachable {
            url: redacted(url),
            why,
        };
        let socket = Socket::default();
        let attempt = async {
            let addresses = resolve(&uri, url).await?;
            handshake(uri, addresses, name, socket.clone(), scales)
                .await
                .map_err(|error| refused(url, &error))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(connection)) => Ok(Link { connection, socket }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                socket.cut();
                let seconds = CONNECT_TIMEOUT.as_secs();
                Err(unreachable(format!("no answer within {seconds} s")))
            }
        }
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, BusError> {
        in_time("opening a channel", self.connection.create_channel()).await
    }

    /// Says good-bye to the broker, if it is there to hear it.
    pub(super) async fn close(self) {
        let goodbye = self.connection.close(200, "OK".into());
        // An error says that the connection is gone already.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
    }
}

impl Drop for Link {
    /// Leaves nothing behind, not even towards a broker that is frozen.
    fn drop(&mut self) {
        self.socket.cut();
    }
}

/// Awaits the broker's answer for [`ANSWER_TIMEOUT`] at most.
pub(super) async fn in_time<T>(
    doing: &str,
    question: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BusError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(BusError::while_doing(doing, &error)),
        Err(_) => Err(BusError::Lost {
            doing: doing.into(),
            why: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        }),
    }
}

/// A second handle on the socket. lapin has no way to give up a handshake with
/// a broker that is frozen: its thread would wait until the broker goes away.
#[derive(Debug, Clone, Default)]
pub(super) struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn keep(&self, socket: &impl AsFd) {
        let copy = socket.as_fd().try_clone_to_owned().map(TcpStream::from);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = copy.ok();
    }

    fn cut(&self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // An error says that the socket is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// The URL in parts, with our heartbeat unless it names one.
pub(super) fn parse(url: &str) -> Result<AMQPUri, BusError> {
    // The parser's own words may repeat the URL, password included.
    let not_parsed = || BusError::Url {
        why: format!("{:?} cannot be parsed", redacted(url)),
    };
    let mut uri: AMQPUri = url.parse().map_err(|_| not_parsed())?;
    // The parser takes an address in brackets for a missing host.
    if let Some(address) = bracketed(url) {
        uri.authority.host = address.into();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    // Of 0, lapin makes what the broker offers, and buffers of 64 times that.
    let frame_max = uri.query.frame_max.filter(|bytes| *bytes > 0);
    uri.query.frame_max = Some(frame_max.unwrap_or(FRAME_MAX));
    Ok(uri)
}

/// The IPv6 address of a URL such as `amqp://user@[::1]:5672`.
fn bracketed(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.strip_prefix('[')?
        .split_once(']')
        .map(|(address, _)| address)
}

/// The addresses of the broker.
pub(super) async fn resolve(uri: &AMQPUri, url: &str) -> Result<Vec<SocketAddr>, BusError> {
    let host = uri.authority.host.as_str();
    match tokio::net::lookup_host((host, uri.authority.port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        // The resolver itself is out of order: no verdict on the name.
        Err(error) if error.to_string().contains("Temporary failure") => {
            Err(BusError::Unreachable {
                url: redacted(url),
                why: error.to_string(),
            })
        }
        Err(error) => Err(BusError::UnknownHost {
            host: host.into(),
            why: error.to_string(),
        }),
    }
}

async fn handshake(
    uri: AMQPUri,
    addresses: Vec<SocketAddr>,
    name: &'static str,
    socket: Socket,
    scales: Option<Arc<Scales>>,
) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let runtime = filter::runtime(frame_max(&uri));
    Connection::connector(
        uri,
        runtime,
        async move |uri, _| {
            let wire = wire(&uri, addresses.clone(), &socket, scales.clone()).await?;
            Ok(AsyncTcpStream::Plain(wire))
        },
        properties,
    )
    .await
}

/// Connects to the broker, with TLS where the URL asks for it. What comes is
/// filtered above TLS, where it can be read.
pub(super) async fn wire(
    uri: &AMQPUri,
    addresses: Vec<SocketAddr>,
    socket: &Socket,
    scales: Option<Arc<Scales>>,
) -> std::io::Result<Wire> {
    let stream = AsyncTcpStream::connect(&Tokio::current(), addresses).await?;
    if let AsyncTcpStream::Plain(plain) = &stream {
        socket.keep(plain.get_ref());
    }
    let stream = match uri.scheme {
        AMQPScheme::AMQP => stream,
        AMQPScheme::AMQPS => {
            let host = uri.authority.host.as_str();
            stream.into_tls(host, TLSConfig::default()).await?
        }
    };
    Ok(Wire::new(stream, frame_max(uri), scales))
}

/// Bytes of a frame at most, by a URL; the broker may want smaller ones.
pub(super) fn frame_asked_for(url: &str) -> usize {
    parse(url).map_or(FRAME_MAX, |uri| frame_max(&uri)) as usize
}

fn frame_max(uri: &AMQPUri) -> u32 {
    uri.query.frame_max.unwrap_or_default()
}

/// Why the broker, or the network, refused a connection.
fn refused(url: &str, error: &lapin::Error) -> BusError {
    let url = redacted(url);
    let answer = answer(error);
    match amqp_code(error) {
        Some(403) => BusError::Credentials { url, answer },
        Some(530) => BusError::VirtualHost { url, answer },
        _ => BusError::Unreachable { url, why: answer },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_parsed_is_not_repeated_with_its_password() {
        for url in ["http://u:secret@h/", "amqp:u:secret@h", "u:secret@h", ""] {
            let error = parse(url).unwrap_err();
            assert!(error.is_for_operator());
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn addresses_in_brackets_are_hosts() {
        let host = |url: &str| parse(url).unwrap().authority.host;
        assert_eq!(host("amqp://u:p@[::1]:5672/%2f"), "::1");
        assert_eq!(host("amqp://rabbit/v"), "rabbit");
    }

    #[test]
    fn frames_are_bounded_unless_the_url_says_otherwise() {
        let frame_max = |url: &str| frame_max(&parse(url).unwrap());
        assert_eq!(frame_max("amqp://h/v"), 131_072);
        assert_eq!(frame_max("amqp://h/v?frame_max=0"), 131_072);
        assert_eq!(frame_max("amqp://h/v?frame_max=262144"), 262_144);
    }

    /// What a broker hears first from somebody who connects to this URL.
    async fn first_words(scheme: &str) -> [u8; 4] {
        use tokio::io::AsyncReadExt as _;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = broker.local_addr().unwrap().port();
        let url = format!("{scheme}://127.0.0.1:{port}/%2f");
        let connecting = tokio::spawn(async move { Link::open(&url, "test").await.is_ok() });
        let (mut stream, _) = broker.accept().await.unwrap();
        let mut words = [0; 4];
        stream.read_exact(&mut words).await.unwrap();
        drop((stream, broker));
        assert!(!connecting.await.unwrap());
        words
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tls_is_below_the_filter_and_there_when_asked_for() {
        assert_eq!(&first_words("amqp").await, b"AMQP");
        // A TLS handshake, of TLS 1.0 for the sake of old middle boxes.
        assert_eq!(first_words("amqps").await[..3], [22, 3, 1]);
    }
}
