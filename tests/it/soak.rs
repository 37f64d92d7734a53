//! A hostile client of each kind at once, for as long as it is asked to
//! (`make soak SECONDS=3600`), beside somebody who reads and writes as one
//! should: whose calls are all answered, while memory and descriptors stay flat.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use futures::future::join_all;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::events::{self, TENANT, join};
use crate::kit::raw_http2::{HEADERS, INITIAL_WINDOW, PREFACE, RawHttp2};
use crate::kit::service::{Result, Service, get, until};
use crate::world::World;

/// Without SOAK_SECONDS: enough to see each kind at work.
const SECONDS: u64 = 20;
/// Messages of the history that is asked for again and again. What it takes to
/// replay grows with it, so it is not one that grows meanwhile.
const HISTORY: usize = 20_000;
/// How often the well-behaved call, each of them.
const EVERY: Duration = Duration::from_millis(50);
const WELL_BEHAVED: u8 = 4;
const STREAMS: u32 = 64;
const RST_STREAM: u8 = 3;
/// An attack that came to its end begins again after this.
const PAUSE: Duration = Duration::from_millis(100);

/// What all share.
struct Stage {
    world: World,
    service: Service,
    over: AtomicBool,
    /// Attacks that came to their end, and began again.
    attacks: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn ask(user: &str, tenant: &str) -> v1::GetUserStatsRequest {
    v1::GetUserStatsRequest {
        tenant_id: tenant.into(),
        user_id: user.into(),
        after_event_id: String::new(),
        ..Default::default()
    }
}

async fn from(number: u8, to: SocketAddr) -> Result<CounterServiceClient<Channel>> {
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, number));
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?.local_address(Some(from));
    Ok(CounterServiceClient::new(endpoint.connect().await?))
}

/// Reads at a steady pace until it is over; no call may fail.
async fn reads(stage: Arc<Stage>, number: u8) -> Result<()> {
    let client = from(number, stage.service.grpc).await?;
    let mut every = tokio::time::interval(EVERY);
    while !stage.is_over() {
        every.tick().await;
        let mut request = Request::new(ask("bob", TENANT));
        request.set_timeout(Duration::from_secs(5));
        let began = Instant::now();
        let mut answer = client.clone().get_user_stats(request).await;
        if answer
            .as_ref()
            .is_err_and(|status| status.message() == "operation was canceled")
        {
            // Not sent: the connection had its age.
            answer = client.clone().get_user_stats(ask("bob", TENANT)).await;
        }
        answer.map_err(|status| format!("after {:?}: {status:?}", began.elapsed()))?;
        stage.latencies.lock().unwrap().push(began.elapsed());
    }
    Ok(())
}

/// Publishes some events each second; counts them.
async fn writes(stage: Arc<Stage>) -> Result<i64> {
    let mut sent = 0;
    while !stage.is_over() {
        let name = format!("s{sent}");
        let messages = events::messages(&name, "d", 25, 1_000 + sent);
        // Those of ann are unread by bob.
        stage.world.publish(&messages).await?;
        let poison = [events::raw(&vec![b'x'; 100_000]), events::raw(b"{")];
        stage.world.publish(&poison).await?;
        sent += 25;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(sent)
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Headers, and no request.
    Bodiless,
    /// Answers that are not taken.
    Untaken,
    /// Letters that are not taken.
    UntakenLetters,
    /// Connections that say nothing.
    Silent,
    /// Half of what is said first.
    Half,
    /// Calls that are given up at once.
    Resets,
    /// Waiting for what never comes.
    Waiting,
    /// Histories.
    Histories,
    /// One tenant, as fast as it goes.
    Flood,
    /// Connections to the metrics port that stay.
    Metrics,
}

const ATTACKS: [Attack; 10] = [
    Attack::Bodiless,
    Attack::Untaken,
    Attack::UntakenLetters,
    Attack::Silent,
    Attack::Half,
    Attack::Resets,
    Attack::Waiting,
    Attack::Histories,
    Attack::Flood,
    Attack::Metrics,
];

impl Attack {
    async fn go_on(self, stage: Arc<Stage>) -> Result<()> {
        while !stage.is_over() {
            // Whatever comes of it: it is an attack.
            let _ = self.once(&stage).await;
            stage.attacks.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn once(self, stage: &Stage) -> Result<()> {
        let Service {
            grpc,
            admin,
            metrics,
            ..
        } = &stage.service;
        match self {
            Attack::Bodiless => {
                let mut connection = RawHttp2::connect(*grpc, &[]).await?;
                calls(&mut connection, GET_USER, None).await?;
                for _ in 0..STREAMS {
                    connection.until(HEADERS).await?;
                }
            }
            Attack::Untaken => {
                let mut connection = RawHttp2::connect(*grpc, &[(INITIAL_WINDOW, 0)]).await?;
                let message = ask("bob", "somebody").encode_to_vec();
                calls(&mut connection, GET_USER, Some(&message)).await?;
                connection.end().await?;
            }
            Attack::UntakenLetters => {
                let mut connection = RawHttp2::connect(*admin, &[(INITIAL_WINDOW, 0)]).await?;
                calls(&mut connection, LIST_LETTERS, Some(&[])).await?;
                connection.end().await?;
            }
            Attack::Silent | Attack::Half => {
                let beginning = match self {
                    Attack::Half => &PREFACE[..12],
                    _ => &[],
                };
                let connections = (0..50).map(|_| silent(*grpc, beginning));
                join_all(connections).await;
            }
            Attack::Resets => {
                let mut connection = RawHttp2::connect(*grpc, &[]).await?;
                for call in 0..10_000 {
                    let stream = 2 * call + 1;
                    connection.call(stream, GET_USER).await?;
                    connection
                        .send(RST_STREAM, 0, stream, &[0, 0, 0, 8])
                        .await?;
                }
            }
            Attack::Waiting => {
                let client = from(200, *grpc).await?;
                let wait = || {
                    let mut request = Request::new(v1::GetUserStatsRequest {
                        after_event_id: "never".into(),
                        ..ask("bob", "somebody")
                    });
                    request.set_timeout(Duration::from_secs(5));
                    let mut client = client.clone();
                    async move { client.get_user_stats(request).await.is_ok() }
                };
                join_all((0..STREAMS).map(|_| wait())).await;
            }
            Attack::Histories => {
                let client = from(201, *grpc).await?;
                let request = v1::ListCounterHistoryRequest {
                    tenant_id: TENANT.into(),
                    user_id: "eve".into(),
                    dialog_id: "h".into(),
                    ..Default::default()
                };
                let ask = || {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move { client.list_counter_history(request).await.is_ok() }
                };
                join_all((0..STREAMS).map(|_| ask())).await;
            }
            Attack::Flood => {
                let client = from(202, *grpc).await?;
                let ask = || {
                    let mut client = client.clone();
                    async move { client.get_user_stats(ask("bob", "flood")).await.is_ok() }
                };
                for _ in 0..20 {
                    join_all((0..STREAMS).map(|_| ask())).await;
                }
            }
            Attack::Metrics => {
                let connections = (0..40).map(|_| silent(*metrics, b"GET /metr"));
                join_all(connections).await;
            }
        }
        Ok(())
    }
}

const GET_USER: &str = "/chatcounters.v1.CounterService/GetUserStats";
const LIST_LETTERS: &str = "/chatcounters.v1.DeadLetterService/ListDeadLetters";

/// As many calls as a connection may have, with or without their request.
async fn calls(connection: &mut RawHttp2, path: &str, message: Option<&[u8]>) -> Result<()> {
    for call in 0..STREAMS {
        let stream = 2 * call + 1;
        connection.call(stream, path).await?;
        if let Some(message) = message {
            connection.message(stream, message).await?;
        }
    }
    Ok(())
}

/// A connection that is there until the other side has enough of it.
async fn silent(to: SocketAddr, beginning: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(beginning).await?;
    let mut byte = [0];
    tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await?;
    Ok(())
}

/// What a process holds now.
#[derive(Debug, Clone, Copy)]
struct Held {
    mib: f64,
    descriptors: usize,
}

impl Held {
    fn by(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(Self {
            mib: kib.ok_or("no VmRSS in /proc")?.parse::<f64>()? / 1024.0,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        })
    }
}

/// The most of a part of them.
fn most(held: &[Held]) -> Held {
    let mib = held.iter().map(|held| held.mib).fold(0.0, f64::max);
    let descriptors = held.iter().map(|held| held.descriptors).max();
    Held {
        mib,
        descriptors: descriptors.unwrap_or_default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_of_each_kind_cost_the_others_nothing() -> Result<()> {
    let asked = std::env::var("SOAK_SECONDS").ok();
    let asked = asked.map(|seconds| seconds.parse::<u64>()).transpose()?;
    let length = Duration::from_secs(asked.unwrap_or(SECONDS));
    let world = World::new("soak");
    let service = world.service().await?;
    let mut before = vec![join("j1", "d", "bob", 1), join("j2", "d", "ann", 1)];
    before.extend([join("j3", "h", "eve", 1), join("j4", "h", "ann", 1)]);
    before.extend(events::messages("h", "h", HISTORY, 1_000));
    world.publish(&before).await?;
    service.has_settled(before.len() as u64).await?;
    let stage = Arc::new(Stage {
        world,
        service,
        over: AtomicBool::new(false),
        attacks: AtomicU64::new(0),
        latencies: Mutex::default(),
    });
    let writing = tokio::spawn(writes(Arc::clone(&stage)));
    let mut reading = JoinSet::new();
    for number in 1..=WELL_BEHAVED {
        reading.spawn(reads(Arc::clone(&stage), number));
    }
    let mut attacking = JoinSet::new();
    for attack in ATTACKS {
        attacking.spawn(attack.go_on(Arc::clone(&stage)));
    }

    let began = Instant::now();
    let mut held = Vec::new();
    while began.elapsed() < length {
        held.push(Held::by(stage.service.pid())?);
        get(stage.service.metrics, "/livez").await?;
        get(stage.service.metrics, "/readyz").await?;
        if let Some(ended) = reading.try_join_next() {
            ended??;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stage.over.store(true, Ordering::Relaxed);
    while let Some(ended) = reading.join_next().await {
        ended??;
    }
    let sent = writing.await??;
    attacking.shutdown().await;

    let counted = until("all that was written is counted", || async {
        let client = from(1, stage.service.grpc).await.ok()?;
        let answer = client.clone().get_user_stats(ask("bob", TENANT)).await;
        (answer.ok()?.into_inner().total_unread_count == sent).then_some(())
    });
    counted.await?;
    judge(&stage, &held, asked.is_some())
}

fn judge(stage: &Stage, held: &[Held], is_measured: bool) -> Result<()> {
    let mut latencies = stage.latencies.lock().unwrap().clone();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let quarter = held.len() / 4;
    let (early, late) = (
        most(&held[quarter..2 * quarter]),
        most(&held[3 * quarter..]),
    );
    println!(
        "soak: {} reads without an error beside {} attacks; p50 {:?}, p99 {:?}, at most {:?}; \
         second quarter {early:?}, last {late:?}",
        latencies.len(),
        stage.attacks.load(Ordering::Relaxed),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    assert!(latencies.len() > 20, "{} reads", latencies.len());
    assert!(
        late.descriptors <= early.descriptors + 200,
        "{early:?} {late:?}"
    );
    // Times, and what is left after some seconds, say little beside other tests.
    if is_measured {
        assert!(at(0.99) < Duration::from_millis(50), "{:?}", at(0.99));
        assert!(late.mib < early.mib * 1.1 + 8.0, "{early:?} {late:?}");
    }
    Ok(())
}
