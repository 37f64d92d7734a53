//! The stream that lapin reads: the broker's bytes through a [`Filter`].

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor as Reactors;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures::Stream;
use futures::io::{AsyncRead, AsyncWrite, IoSlice};
use lapin::tcp::AsyncTcpStream;

use super::super::intake::Scales;
use super::Filter;

/// The number of bytes that are read from the network at once.
const READ_BYTES: usize = 64 * 1024;

/// The network below the filter, in TLS or not.
type Network = AsyncTcpStream<<Tokio as Reactors>::TcpStream>;

/// A connection to a broker whose frames lapin can take.
pub(in crate::bus) struct Wire {
    network: Network,
    filter: Filter,
    /// Where what is read is weighed, if it is.
    scales: Option<Arc<Scales>>,
    read: Box<[u8]>,
    /// Of what was read, the part that is not filtered yet.
    unfiltered: Range<usize>,
    /// Filtered, and from `taken` on not handed out yet.
    filtered: Vec<u8>,
    taken: usize,
}

impl Wire {
    /// `frame_max` is that of the URL; 0 for none. While the scales are full,
    /// nothing is read but the rest of a message.
    pub(in crate::bus) fn new(
        network: Network,
        frame_max: u32,
        scales: Option<Arc<Scales>>,
    ) -> Self {
        Self {
            network,
            filter: Filter::new(frame_max, scales.clone()),
            scales,
            read: vec![0; READ_BYTES].into(),
            unfiltered: 0..0,
            filtered: Vec::with_capacity(READ_BYTES),
            taken: 0,
        }
    }

    /// Hands out what is filtered.
    fn hand_out(&mut self, buffer: &mut [u8]) -> usize {
        let left = &self.filtered[self.taken..];
        let size = left.len().min(buffer.len());
        buffer[..size].copy_from_slice(&left[..size]);
        self.taken += size;
        if self.taken == self.filtered.len() {
            self.taken = 0;
            self.filtered.clear();
            // One large frame is no reason to keep its room.
            self.filtered.shrink_to(2 * READ_BYTES);
        }
        size
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        // What was read may be a part of a frame, of which nothing can be handed
        // out yet: then the network is to wake us for the rest.
        while wire.filtered.is_empty() {
            if let Some(scales) = &wire.scales
                && !wire.filter.is_within_message()
            {
                ready!(scales.poll_room(cx));
            }
            if wire.unfiltered.is_empty() {
                let read = ready!(Pin::new(&mut wire.network).poll_read(cx, &mut wire.read))?;
                if read == 0 {
                    return Poll::Ready(Ok(0));
                }
                wire.unfiltered = 0..read;
            }
            let bytes = &wire.read[wire.unfiltered.clone()];
            wire.unfiltered.start += wire.filter.feed(bytes, &mut wire.filtered);
        }
        Poll::Ready(Ok(wire.hand_out(buffer)))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.network).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.network).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.network).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.network).poll_close(cx)
    }
}

/// What lapin runs on: tokio, but with connections that are filtered. lapin takes
/// no other stream than the one of its reactor.
pub(in crate::bus) fn runtime(frame_max: u32) -> Runtime<RuntimeParts<Tokio, Reactor>> {
    let tokio = Tokio::current();
    let reactor = Reactor {
        tokio: tokio.clone(),
        frame_max,
    };
    Runtime::new(RuntimeParts::new(tokio, reactor))
}

/// Tokio's reactor, with connections that are filtered.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Reactor {
    tokio: Tokio,
    frame_max: u32,
}

impl Reactors for Reactor {
    type TcpStream = Wire;
    type Sleep = <Tokio as Reactors>::Sleep;

    /// Wires are made of TCP connections only; lapin asks for nothing else.
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Wire, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Wire>> + Send + 'static {
        let (connecting, frame_max) = (self.tokio.tcp_connect_addr(address), self.frame_max);
        async move {
            Ok(Wire::new(
                AsyncTcpStream::Plain(connecting.await?),
                frame_max,
                None,
            ))
        }
    }
}
