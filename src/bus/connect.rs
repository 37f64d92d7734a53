//! One connection to the broker.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_rs::Tokio;
use futures::io::AsyncRead as _;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};

use super::error::{BusError, amqp_code, answer};
use super::filter::{self, Wire};
use super::intake::Scales;
use super::tls::{self, Agreed, Tls};
use crate::config::{self, Url, redacted};
use crate::pki::Certificate;

/// How long resolving, connecting and the handshakes may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question to a broker that is up may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the broker may take to say what it has against a certificate.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Seconds between heartbeats where the URL says nothing else: a silent broker
/// is noticed after twice as long.
const HEARTBEAT_SECONDS: u16 = 10;
/// The largest frame, in bytes, where the URL says nothing else: RabbitMQ's own
/// default. lapin keeps 64 times as much for each connection.
const FRAME_MAX_BYTES: u32 = 128 * 1024;

// What to do about a broker that cannot be reached, by how that shows.
const REFUSED: &str = "Nothing listens there: start it, or correct host and port of bus.url (CHAT_COUNTERS__BUS__URL)";
const SILENT: &str = "See whether it is frozen or overloaded, and whether a firewall is in between";
const NO_WAY: &str = "There is no way to that host from here: look at the network";
const NO_RESOLVER: &str = "Look at the resolver of names (DNS)";
const IN_THE_MIDDLE: &str = "It may be starting or stopping; if it is up, see whether bus.url has the right port, and whether that one wants TLS (amqps://)";

/// An open connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    socket: Socket,
    /// What is known of a connection with TLS.
    pub(super) secured: Option<Secured>,
}

/// What is known of a connection with TLS.
pub(super) struct Secured {
    pub(super) agreed: Option<Agreed>,
    /// The certificates in the configured files.
    pub(super) certificates: Vec<Certificate>,
    /// The user name of a certificate that the connection has logged in by.
    pub(super) external: Option<String>,
}

impl Link {
    /// Connects once, with what the files of the configuration say now.
    ///
    /// # Errors
    /// [`BusError::is_for_operator`] for a URL, host, user, virtual host or
    /// certificate that is wrong; else [`BusError::Unreachable`].
    pub(super) async fn open(bus: &config::Bus, name: &'static str) -> Result<Link, BusError> {
        Self::weighed(bus, name, None).await
    }

    /// Connects once; what is read is weighed on scales, if there are any.
    ///
    /// # Errors
    /// As [`open`](Link::open).
    pub(super) async fn weighed(
        bus: &config::Bus,
        name: &'static str,
        scales: Option<Arc<Scales>>,
    ) -> Result<Link, BusError> {
        let target = Target::of(bus).await?;
        let socket = Socket::default();
        let attempt = async {
            let (wire, agreed) = target.wire(bus, &socket, scales).await?;
            match target.log_in(wire, name).await {
                Ok(connection) => Ok((connection, agreed)),
                Err(error) => Err(target.verdict(bus, target.refused(bus, &error)).await),
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok((connection, agreed))) => Ok(Link {
                connection,
                socket,
                secured: target.secured(agreed),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                socket.cut();
                let seconds = CONNECT_TIMEOUT.as_secs();
                Err(target.unreachable(format!("no answer within {seconds} s"), SILENT))
            }
        }
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, BusError> {
        in_time("opening a channel", self.connection.create_channel()).await
    }

    /// Closes the connection, if the broker is there to hear of it.
    pub(super) async fn close(self) {
        let closed = self.connection.close(200, "OK".into());
        // An error says that the connection is gone already.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
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
    uri.query.frame_max = Some(frame_max.unwrap_or(FRAME_MAX_BYTES));
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
async fn resolve(uri: &AMQPUri, url: &Url) -> Result<Vec<SocketAddr>, BusError> {
    let host = uri.authority.host.as_str();
    match tokio::net::lookup_host((host, uri.authority.port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        // The resolver itself is out of order: no verdict on the name.
        Err(error) if error.to_string().contains("Temporary failure") => {
            Err(BusError::Unreachable {
                url: url.redacted(),
                why: error.to_string(),
                cure: NO_RESOLVER,
            })
        }
        Err(error) => Err(BusError::UnknownHost {
            host: host.into(),
            why: error.to_string(),
        }),
    }
}

/// A broker, and what it takes to get to it.
pub(super) struct Target {
    url: Url,
    uri: AMQPUri,
    tls: Option<Tls>,
}

impl Target {
    /// Reads all files anew.
    pub(super) async fn of(bus: &config::Bus) -> Result<Self, BusError> {
        let url = bus.present_url().await?;
        let mut uri = parse(url.expose())?;
        let tls = match uri.scheme {
            AMQPScheme::AMQPS => Some(Tls::read(&bus.tls).await?),
            AMQPScheme::AMQP if bus.tls != config::BusTls::default() => {
                return Err(BusError::NoTls);
            }
            AMQPScheme::AMQP => None,
        };
        // Else it would be the user guest, whatever the certificate says.
        let certified = tls.as_ref().is_some_and(|tls| tls.name.is_some());
        if certified && url.user().is_none() {
            uri.query
                .auth_mechanism
                .get_or_insert(SASLMechanism::External);
        }
        Ok(Self { url, uri, tls })
    }

    /// Connects, with TLS where the URL asks for it. What comes is filtered
    /// above TLS, where it can be read.
    pub(super) async fn wire(
        &self,
        bus: &config::Bus,
        socket: &Socket,
        scales: Option<Arc<Scales>>,
    ) -> Result<(Wire, Option<Agreed>), BusError> {
        let addresses = resolve(&self.uri, &self.url).await?;
        let connected = AsyncTcpStream::connect(&Tokio::current(), addresses).await;
        let mut stream = connected.map_err(|error| self.lost(bus, &error))?;
        if let AsyncTcpStream::Plain(plain) = &stream {
            socket.keep(plain.get_ref());
        }
        let mut agreed = None;
        if let Some(tls) = &self.tls {
            let host = self.uri.authority.host.as_str();
            let shaken = stream.into_rustls(&tls.connector, host).await;
            stream = shaken.map_err(|error| self.lost(bus, &error))?;
            if let AsyncTcpStream::Rustls(stream) = &stream {
                agreed = Some(Agreed::of(stream.get_ref().1));
            }
        }
        Ok((Wire::new(stream, frame_max(&self.uri), scales), agreed))
    }

    async fn log_in(&self, wire: Wire, name: &'static str) -> lapin::Result<Connection> {
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = filter::runtime(frame_max(&self.uri));
        // It asks once: no recovery is configured.
        let wire = Mutex::new(Some(wire));
        let hand_over = async move |_, _| {
            let wire = wire.lock().unwrap_or_else(PoisonError::into_inner).take();
            let wire = wire.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            Ok(AsyncTcpStream::Plain(wire))
        };
        Connection::connector(self.uri.clone(), runtime, hand_over, properties).await
    }

    /// Who logs in by a certificate.
    fn external(&self) -> Option<&str> {
        let external = self.uri.query.auth_mechanism == Some(SASLMechanism::External);
        let tls = self.tls.as_ref().filter(|_| external)?;
        Some(tls.name.as_deref().unwrap_or("nobody"))
    }

    fn secured(&self, agreed: Option<Agreed>) -> Option<Secured> {
        let tls = self.tls.as_ref()?;
        Some(Secured {
            agreed,
            certificates: tls.certificates.clone(),
            external: self.external().map(Into::into),
        })
    }

    /// Why the broker, or the network, refused a connection.
    fn refused(&self, bus: &config::Bus, error: &lapin::Error) -> BusError {
        let (url, answer) = (self.url.redacted(), answer(error));
        let by = self.external();
        match (amqp_code(error), error.kind()) {
            // The second is that of a mechanism that is not switched on.
            (Some(403 | 503), _) if by.is_some() => BusError::External {
                url,
                name: by.unwrap_or_default().into(),
                answer,
            },
            (Some(403), _) => BusError::Credentials {
                url,
                user: self.uri.authority.userinfo.username.clone(),
                key: bus.password_key(),
                answer,
            },
            (Some(530), _) => BusError::VirtualHost { url, answer },
            (None, ErrorKind::IOError(error)) => self.lost(bus, error),
            _ => self.unreachable(answer, IN_THE_MIDDLE),
        }
    }

    /// What the broker has against our certificate, if that may be why it has
    /// ended the connection. With TLS 1.3 it says so after the handshake, and
    /// the words are lost when something of ours waits there unread: so this
    /// connects once more, and says nothing.
    async fn verdict(&self, bus: &config::Bus, error: BusError) -> BusError {
        let certified = self.tls.as_ref().is_some_and(|tls| tls.name.is_some());
        if !certified || !matches!(error, BusError::Unreachable { .. }) {
            return error;
        }
        let listened = async {
            let (mut wire, _) = self.wire(bus, &Socket::default(), None).await?;
            let mut byte = [0];
            let heard = poll_fn(|cx| Pin::new(&mut wire).poll_read(cx, &mut byte)).await;
            heard.map_err(|error| self.lost(bus, &error)).map(drop)
        };
        match tokio::time::timeout(VERDICT_TIMEOUT, listened).await {
            Ok(Err(fault @ BusError::Handshake { .. })) => fault,
            _ => error,
        }
    }

    /// What an error of the network comes from.
    fn lost(&self, bus: &config::Bus, error: &io::Error) -> BusError {
        if let Some(fault) = tls::fault(error, &self.uri.authority.host, &bus.tls) {
            return BusError::Handshake {
                url: self.url.redacted(),
                fault,
            };
        }
        let cure = match error.kind() {
            io::ErrorKind::ConnectionRefused => REFUSED,
            io::ErrorKind::TimedOut => SILENT,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => NO_WAY,
            _ => IN_THE_MIDDLE,
        };
        self.unreachable(error.to_string(), cure)
    }

    fn unreachable(&self, why: String, cure: &'static str) -> BusError {
        let url = self.url.redacted();
        BusError::Unreachable { url, why, cure }
    }
}

/// The size of the largest frame by the present URL, in bytes; the broker may want smaller
/// ones.
pub(super) async fn requested_frame_max(bus: &config::Bus) -> usize {
    let uri = match bus.present_url().await {
        Ok(url) => parse(url.expose()).ok(),
        Err(_) => None,
    };
    uri.map_or(FRAME_MAX_BYTES, |uri| frame_max(&uri)) as usize
}

fn frame_max(uri: &AMQPUri) -> u32 {
    uri.query.frame_max.unwrap_or_default()
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
        let bus = config::Bus {
            url: format!("{scheme}://127.0.0.1:{port}/%2f").into(),
            ..Default::default()
        };
        let connecting = tokio::spawn(async move { Link::open(&bus, "test").await.is_ok() });
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
