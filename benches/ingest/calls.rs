//! Calls of one method over a few connections, and how long they took: as many
//! at a time as asked for, or so many a second whatever becomes of them.
//!
//! Written on h2, since a client of tonic takes more of the machine than the
//! service does. Each answer is looked at: its status, and that it is an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use hyper::http::Request;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::process::Result;

/// Connections of one measurement.
const CONNECTIONS: usize = 4;
/// Streams of one connection that the service allows.
const STREAMS: usize = 64;
/// Calls at a steady rate are made in groups, so far apart.
const TICK: Duration = Duration::from_micros(500);
/// A client that sends later than this after the planned time, one in a hundred
/// times, has measured itself.
const OWN_LAG: Duration = Duration::from_millis(1);

/// Makes calls of one method.
pub(crate) struct Caller {
    address: SocketAddr,
    path: &'static str,
    connections: Vec<SendRequest<Bytes>>,
}

/// What came of calls.
pub(crate) struct Called {
    pub per_second: f64,
    /// Ascending; from the planned time where there was one.
    latencies: Vec<Duration>,
    /// Ascending: how late each group was sent.
    lags: Vec<Duration>,
}

impl Called {
    /// The time within which such a share of the answers came.
    pub(crate) fn within(&self, share: f64) -> Duration {
        at(&self.latencies, share)
    }

    /// Whether the client kept its own schedule.
    pub(crate) fn is_valid(&self) -> bool {
        at(&self.lags, 0.99) <= OWN_LAG
    }
}

/// Of times in ascending order the one below which such a share of them is.
pub(crate) fn at(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

impl Caller {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr, path: &'static str) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(async move {
                // Its end shows in the calls.
                let _ = connection.await;
            });
            connections.push(sender);
        }
        Ok(Self {
            address,
            path,
            connections,
        })
    }

    /// Where the calls go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes one call and returns the bytes of the answer.
    async fn call(&self, connection: usize, message: Bytes) -> Result<Bytes> {
        let sender = self.connections[connection % CONNECTIONS].clone();
        let mut sender = sender.ready().await?;
        let request = Request::post(format!("http://service{}", self.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(message, true)?;
        let response = response.await?;
        if let Some(status) = response.headers().get("grpc-status") {
            let message = response.headers().get("grpc-message");
            return Err(format!("refused with status {status:?}: {message:?}").into());
        }
        let mut response = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = response.data().await {
            let data = data?;
            response.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        let trailers = response.trailers().await?.ok_or("no trailers")?;
        let status = trailers.get("grpc-status").ok_or("no grpc-status")?;
        if status != "0" {
            return Err(format!("status {status:?}: {:?}", trailers.get("grpc-message")).into());
        }
        if answer.len() < 5 {
            return Err("an answer without a message".into());
        }
        Ok(answer.split_off(5).freeze())
    }

    /// One call, decoded.
    pub(crate) async fn ask<M: Message + Default>(&self, message: Bytes) -> Result<M> {
        self.ask_on(0, message).await
    }

    /// One call on one of the connections, decoded.
    pub(crate) async fn ask_on<M: Message + Default>(
        &self,
        place: usize,
        message: Bytes,
    ) -> Result<M> {
        Ok(M::decode(self.call(place, message).await?)?)
    }

    /// As many calls at a time as asked for, one after the other in each place.
    pub(crate) async fn at_once(
        self: &Arc<Self>,
        places: usize,
        length: Duration,
        message: impl Fn(u64) -> Bytes + Clone + Send + 'static,
    ) -> Result<Called> {
        let (over, next) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut calling = JoinSet::new();
        let began = Instant::now();
        for place in 0..places {
            let (caller, over, next) = (Arc::clone(self), Arc::clone(&over), Arc::clone(&next));
            let message = message.clone();
            calling.spawn(async move {
                let mut latencies = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let message = message(next.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    if let Err(error) = caller.call(place, message).await {
                        return Err(error.to_string());
                    }
                    latencies.push(sent.elapsed());
                }
                Ok(latencies)
            });
        }
        tokio::time::sleep(length).await;
        over.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        while let Some(called) = calling.join_next().await {
            latencies.extend(called??);
        }
        Ok(called(latencies, Vec::new(), began.elapsed()))
    }

    /// So many calls a second, whatever the answers do. Times count from when a
    /// call was due.
    pub(crate) async fn at_rate(
        self: &Arc<Self>,
        per_second: f64,
        length: Duration,
        message: impl Fn(u64) -> Bytes,
    ) -> Result<Called> {
        let mut calling = JoinSet::new();
        let (mut latencies, mut lags) = (Vec::new(), Vec::new());
        let began = Instant::now();
        let (mut due, mut number) = (ticks(began, length), 0_u64);
        while let Some(planned) = due.recv().await {
            let planned_for = (planned - began).as_secs_f64() * per_second;
            lags.push(planned.elapsed());
            while number < planned_for as u64 {
                let (caller, message) = (Arc::clone(self), message(number));
                let place = number as usize;
                calling.spawn(async move {
                    match caller.call(place, message).await {
                        Ok(_) => Ok(planned.elapsed()),
                        Err(error) => Err(error.to_string()),
                    }
                });
                number += 1;
            }
            while let Some(called) = calling.try_join_next() {
                latencies.push(called??);
            }
            if calling.len() > 100 * CONNECTIONS * STREAMS {
                return Err("the answers do not keep up at all".into());
            }
        }
        while let Some(called) = calling.join_next().await {
            latencies.push(called??);
        }
        Ok(called(latencies, lags, began.elapsed()))
    }
}

/// When calls are due. From a thread of its own: the runtime's timer is no finer
/// than a millisecond.
fn ticks(began: Instant, length: Duration) -> mpsc::Receiver<Instant> {
    // Should it be full, the times that were planned stay what they were.
    let (sender, due) = mpsc::channel(1_000);
    std::thread::spawn(move || {
        let mut next = began + TICK;
        while next < began + length {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if sender.blocking_send(next).is_err() {
                return;
            }
            next += TICK;
        }
    });
    due
}

fn called(mut latencies: Vec<Duration>, mut lags: Vec<Duration>, length: Duration) -> Called {
    latencies.sort_unstable();
    lags.sort_unstable();
    Called {
        per_second: latencies.len() as f64 / length.as_secs_f64(),
        latencies,
        lags,
    }
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}
