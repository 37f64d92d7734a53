//! A TCP proxy between a service and its servers that can fail as a network
//! does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::kit::service::Result;

/// Read and passed on at once.
const CHUNK: usize = 16 * 1024;

/// What the way through the proxy is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Every chunk takes so long.
    Slow(Duration),
    /// Connections stand, but nothing passes.
    Stalled,
    /// No connection stands, and none can be made.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct State {
    way: Way,
    /// Connections made before the latest cut are gone, however short it was.
    cuts: u64,
}

/// The proxy. Ended when dropped.
pub(crate) struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// In front of one server, or of several that are taken in turn.
    pub(crate) async fn new(servers: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, watched) = watch::channel(State {
            way: Way::Open,
            cuts: 0,
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, servers, watched));
        Ok(Self {
            address,
            state,
            _accepting: accepting,
        })
    }

    /// Changes the way for all connections, old and new.
    pub(crate) fn set(&self, way: Way) {
        self.state.send_modify(|state| {
            state.way = way;
            state.cuts += u64::from(way == Way::Cut);
        });
    }
}

async fn accept(
    listener: TcpListener,
    servers: Vec<SocketAddr>,
    mut state: watch::Receiver<State>,
) {
    let mut connections = JoinSet::new();
    let mut turn = 0;
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let made_in = *state.borrow_and_update();
        if made_in.way == Way::Cut {
            continue;
        }
        turn += 1;
        let in_turn = servers.iter().cycle().skip(turn % servers.len());
        let in_turn: Vec<_> = in_turn.take(servers.len()).copied().collect();
        let mut watched = state.clone();
        connections.spawn(async move {
            let through = connection(client, in_turn, watched.clone());
            tokio::select! {
                () = through => {}
                // An error says that the proxy is gone.
                _ = watched.wait_for(|state| state.cuts > made_in.cuts) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Until either side closes it, or breaks.
async fn connection(client: TcpStream, servers: Vec<SocketAddr>, state: watch::Receiver<State>) {
    let Some(server) = reach(servers).await else {
        return;
    };
    // Small frames must not wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, state.clone()) => {}
        () = pump(from_server, to_client, state) => {}
    }
}

/// The first that accepts.
async fn reach(servers: Vec<SocketAddr>) -> Option<TcpStream> {
    for server in servers {
        if let Ok(stream) = TcpStream::connect(server).await {
            return Some(stream);
        }
    }
    None
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(size @ 1..) = from.read(&mut chunk).await else {
            return;
        };
        let passing = state.wait_for(|state| state.way != Way::Stalled).await;
        let Ok(way) = passing.map(|state| state.way) else {
            return;
        };
        if let Way::Slow(delay) = way {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&chunk[..size]).await.is_err() {
            return;
        }
    }
}
