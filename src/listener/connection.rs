//! A connection as a server has it, and who is at its other end.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::places::Activity;

/// The client at the other end of a connection: in the extensions of every request.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The address of the other end, or of the proxy before it.
    pub address: SocketAddr,
    /// The number of the connection, among all that this process has ever had.
    pub connection: u64,
    /// The certificate that it proved at the handshake to be its own, where that is
    /// asked for.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Ends the connection on the spot.
    pub kill_switch: KillSwitch,
    /// Counts the calls that are under way: a connection without any gives way to
    /// others.
    pub activity: Option<Activity>,
    /// When the connection has its age, and is to end gently.
    pub ends_at: Option<Instant>,
}

/// Ends a connection on the spot, from wherever it is known that it must end.
#[derive(Debug, Clone, Default)]
pub(crate) struct KillSwitch(Arc<(AtomicBool, AtomicWaker)>);

impl KillSwitch {
    /// Makes whatever is read or written from now on fail.
    pub(crate) fn trigger(&self) {
        self.0.0.store(true, Ordering::Release);
        self.0.1.wake();
    }

    /// Whether it was cut; wakes who asks when it is later on.
    fn is_done(&self, context: &mut Context<'_>) -> bool {
        self.0.1.register(context.waker());
        self.0.0.load(Ordering::Acquire)
    }
}

impl Peer {
    /// Returns the peer of a request, if a [`Connection`] brought it. What tonic says
    /// of its own connections it does not say of ours.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Option<&Peer> {
        request.extensions().get()
    }

    /// Returns the address of the peer of a request.
    pub(crate) fn address_of<T>(request: &tonic::Request<T>) -> Option<SocketAddr> {
        Peer::of(request).map(|peer| peer.address)
    }
}

/// The certificate of a client, which an authority of ours has signed. A connection
/// outlives it: whoever looks at it looks at its time as well.
#[derive(Debug)]
pub(crate) struct PeerCertificate {
    /// The certificates as sent, the client's own first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Bytes there and back, with TLS or without.
pub(super) trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send> Duplex for T {}

/// A connection whose client has begun to speak.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Box<dyn Duplex>,
    peer: Peer,
    /// What was read before the server had it, and how much of it was given.
    begun: (Vec<u8>, usize),
    cut: Option<Pin<Box<Sleep>>>,
    _alive: Option<oneshot::Sender<()>>,
}

impl Connection {
    /// Makes a connection of a stream on which nothing was read yet.
    pub(super) fn new(
        stream: impl Duplex + 'static,
        address: SocketAddr,
        certificate: Option<Arc<PeerCertificate>>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let peer = Peer {
            address,
            connection: NEXT.fetch_add(1, Ordering::Relaxed),
            certificate,
            kill_switch: KillSwitch::default(),
            activity: None,
            ends_at: None,
        };
        Self {
            stream: Box::new(stream),
            peer,
            begun: (Vec::new(), 0),
            cut: None,
            _alive: None,
        }
    }

    /// Has these bytes read first, which were read from the stream already.
    pub(super) fn beginning_with(mut self, bytes: Vec<u8>) -> Self {
        self.begun = (bytes, 0);
        self
    }

    /// Is to end gently at `at`, and fails whatever is read or written a grace
    /// after that.
    pub(super) fn end_at(&mut self, at: Instant, grace: Duration) {
        self.peer.ends_at = Some(at);
        self.cut = Some(Box::pin(tokio::time::sleep_until((at + grace).into())));
    }

    /// Keeps this for as long as the connection is there.
    pub(super) fn hold(&mut self, alive: oneshot::Sender<()>) {
        self._alive = Some(alive);
    }

    /// Has the calls on this connection counted.
    pub(super) fn is_known_by(&mut self, activity: Activity) {
        self.peer.activity = Some(activity);
    }

    /// Returns the client at the other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// An error once the connection has had its time. HTTP/2 has a read pending
    /// at all times, so this is noticed also when nothing comes or goes.
    fn uncut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let is_over = |cut: &mut Pin<Box<Sleep>>| cut.as_mut().poll(context).is_ready();
        let is_over = self.cut.as_mut().is_some_and(is_over);
        match is_over || self.peer.kill_switch.is_done(context) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.uncut(context)?;
        let (bytes, given) = &mut self.begun;
        if *given < bytes.len() {
            let count = buffer.remaining().min(bytes.len() - *given);
            buffer.put_slice(&bytes[*given..*given + count]);
            *given += count;
            if *given == bytes.len() {
                self.begun = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.uncut(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.uncut(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.uncut(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.uncut(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
