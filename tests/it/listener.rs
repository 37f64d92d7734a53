//! Who gets a connection, and for how long: on real sockets, against clients
//! that say nothing, half of something, or stay for ever.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chat_counters::grpc::v1;
use futures::future::{join_all, try_join_all};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::events::TENANT;
use crate::kit::raw_http2::{GOAWAY, HEADERS, INITIAL_WINDOW, PING, PREFACE, RawHttp2, SETTINGS};
use crate::kit::service::{Result, Service, get, until};
use crate::world::{World, binary, client};

/// Long enough to notice that nothing happens, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

/// Waits until the other side has closed, and says when that was.
async fn closed(mut stream: TcpStream) -> Instant {
    let mut byte = [0; 64];
    while matches!(stream.read(&mut byte).await, Ok(1..)) {}
    Instant::now()
}

/// The program with so many descriptors, as a command of its own.
fn with_descriptors(number: u32, directory: &tempfile::TempDir) -> Result<PathBuf> {
    let path = directory.path().join("limited");
    let binary = binary().display();
    let script = format!("#!/bin/sh\nulimit -n {number}\nexec '{binary}' \"$@\"\n");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Seconds of CPU that a process has taken.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().ok_or("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

async fn asked(service: &Service) -> Result<v1::UserStats> {
    let request = v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "ann".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let answer = client(service).await?.get_user_stats(request).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn four_thousand_silent_connections_hold_nobody_up() -> Result<()> {
    const SILENT: usize = 4_000;
    let world = World::new("silent");
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let limited = with_descriptors(256, &directory)?;
    let stderr = std::fs::File::create(&log)?.into();
    let service = Service::spawn_logging(&limited, &world.config, "warn", stderr).await?;
    until("ready", || async { service.is_ready().await.then_some(()) }).await?;
    let (began, cpu) = (Instant::now(), cpu_seconds(service.pid())?);
    let mut silent = Vec::new();
    for number in 0..SILENT {
        silent.push(TcpStream::connect(service.grpc).await?);
        if number % 400 == 0 {
            get(service.metrics, "/healthz").await?;
            asked(&service).await?;
        }
    }
    let opened = began.elapsed();
    let mut silent = std::pin::pin!(join_all(silent.into_iter().map(closed)));
    let (mut answers, mut slowest) = (0, Duration::ZERO);
    let ended = loop {
        let asking = Instant::now();
        get(service.metrics, "/healthz").await?;
        asked(&service).await?;
        slowest = slowest.max(asking.elapsed());
        answers += 1;
        // Between two questions all that has ended is noticed.
        let pause = Duration::from_millis(50);
        if let Ok(ended) = tokio::time::timeout(pause, silent.as_mut()).await {
            break ended;
        }
    };
    let last = ended.into_iter().max().ok_or("none")?;
    let took = last - began - opened;
    assert!(
        took > Duration::from_secs(8),
        "the last had its 10 s: {took:?}"
    );
    assert!(took < Duration::from_secs(14), "all are closed: {took:?}");
    assert!(slowest < SOON, "others are answered: {slowest:?}");
    let cpu = cpu_seconds(service.pid())? - cpu;
    eprintln!(
        "{SILENT} opened in {opened:?}, closed {took:?} later; {cpu:.2} CPU s; {answers} answers, {slowest:?} at most"
    );
    assert!(cpu < 6.0, "{cpu} s of CPU");

    let warnings = std::fs::read_to_string(&log)?;
    let count = warnings.matches("all connections are taken").count() as u64;
    let at_most = 1 + (opened + took).as_secs() / 10;
    assert!((1..=at_most).contains(&count), "{warnings}");
    assert!(warnings.contains("ulimit -n"), "{warnings}");
    let kind = |kind| service.counter("chat_counters_connections_refused_total", kind);
    let (gave_way, silent) = (kind("gave_way").await?, kind("silent").await?);
    assert_eq!(gave_way + silent, SILENT as u64);
    assert!(silent > 16, "{silent}");
    service.stop().await
}

#[tokio::test]
async fn a_connection_past_the_bound_is_closed_at_once() -> Result<()> {
    let mut world = World::new("bound");
    world.config.grpc.max_connections = 16;
    world.config.grpc.default_deadline_ms = 30_000;
    let service = world.service().await?;
    let mut connections =
        try_join_all((0..16).map(|_| RawHttp2::connect(service.grpc, &[]))).await?;
    let waiting = v1::GetUserStatsRequest {
        tenant_id: TENANT.into(),
        user_id: "ann".into(),
        after_event_id: "never".into(),
        ..Default::default()
    };
    for connection in &mut connections {
        let path = "/chatcounters.v1.CounterService/GetUserStats";
        connection.call(1, path).await?;
        connection.message(1, &waiting.encode_to_vec()).await?;
        // Answered after the call was begun.
        connection.send(PING, 0, 0, &[0; 8]).await?;
        connection.until(PING).await?;
    }
    for _ in 0..3 {
        // It may be closed before the client has said a word.
        if let Ok(mut one_more) = RawHttp2::connect(service.grpc, &[]).await {
            tokio::time::timeout(SOON, one_more.end()).await??;
        }
    }
    let refused = service.counter("chat_counters_connections_refused_total", "full");
    assert_eq!(refused.await?, 3);
    assert_eq!(
        service.counter("chat_counters_connections", "grpc").await?,
        16
    );
    // Those that are in are served, and a place that is free is another's.
    let last = connections.last_mut().ok_or("none")?;
    last.call(3, "/grpc.health.v1.Health/Check").await?;
    last.message(3, &[]).await?;
    last.until(HEADERS).await?;
    drop(connections);
    until("a place", || async { asked(&service).await.ok() }).await?;
    service.stop().await
}

#[tokio::test]
async fn a_connection_without_a_call_gives_way_to_one_past_the_bound() -> Result<()> {
    let mut world = World::new("idle");
    world.config.grpc.max_connections = 16;
    let service = world.service().await?;
    let mut idle = Vec::new();
    for _ in 0..16 {
        let mut connection = RawHttp2::connect(service.grpc, &[]).await?;
        connection.until(SETTINGS).await?;
        idle.push(connection);
    }
    for _ in 0..3 {
        asked(&service).await?;
    }
    // Those that had been idle for longest were told, and are gone.
    for mut first in idle.drain(..2) {
        first.until(GOAWAY).await?;
        tokio::time::timeout(SOON, first.end()).await??;
    }
    let gone = service.counter("chat_counters_connections_refused_total", "idle");
    assert!(gone.await? >= 2);
    // One that heeds nothing is cut, all the same.
    let deaf = idle.remove(0);
    asked(&service).await?;
    tokio::time::timeout(Duration::from_secs(20), deaf.unread()).await??;
    service.stop().await
}

#[tokio::test]
async fn who_does_not_begin_to_speak_http2_is_let_go() -> Result<()> {
    async fn says(address: SocketAddr, words: &[u8]) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(words).await?;
        Ok(stream)
    }
    let world = World::new("preface");
    let service = world.service().await?;
    let began = Instant::now();
    let settings: &[u8] = b"\x00\x00\x06\x04\0\0\0\0\0\0\x03\0";
    let mut late = Vec::new();
    for words in [
        &PREFACE[..0],
        &PREFACE[..12],
        PREFACE,
        &[PREFACE, settings].concat(),
    ] {
        late.push(closed(says(service.grpc, words).await?));
    }
    for words in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let at_once = closed(says(service.grpc, words).await?);
        tokio::time::timeout(SOON, at_once).await?;
    }
    for ended in join_all(late).await {
        let took = ended - began;
        let expected = Duration::from_millis(9_900)..Duration::from_secs(14);
        assert!(expected.contains(&took), "{took:?}");
    }
    let kind = |kind| service.counter("chat_counters_connections_refused_total", kind);
    assert_eq!((kind("silent").await?, kind("not_http2").await?), (4, 2));
    service.stop().await
}

#[tokio::test]
async fn a_connection_of_age_ends_gently_and_no_call_fails() -> Result<()> {
    let mut world = World::new("age");
    world.config.grpc.max_connection_age_seconds = 2;
    world.config.grpc.default_deadline_ms = 1_000;
    world.config.grpc.max_deadline_ms = 1_000;
    let service = world.service().await?;
    let began = Instant::now();

    // Fifty that came together: asked to go, and gone, at fifty times.
    let idle = (0..50).map(|_| async {
        let mut connection = RawHttp2::connect(service.grpc, &[]).await?;
        connection.until(GOAWAY).await?;
        let told = began.elapsed();
        tokio::time::timeout(SOON, connection.end()).await??;
        Result::Ok(told)
    });
    // An answer that nobody reads does not keep its connection.
    let unread = async {
        let mut connection = RawHttp2::connect(service.grpc, &[(INITIAL_WINDOW, 0)]).await?;
        connection.call(1, "/grpc.health.v1.Health/Check").await?;
        connection.message(1, &[]).await?;
        connection.until(GOAWAY).await?;
        connection.end().await?;
        Result::Ok(began.elapsed())
    };
    // Calls that last a second each, and short ones between, on one channel
    // that lives through several connections.
    let (seconds, client) = (7, client(&service).await?);
    let calls = (0..8).map(|caller| {
        let mut client = client.clone();
        async move {
            let (mut answered, mut unsent) = (0, 0);
            while began.elapsed() < Duration::from_secs(seconds) {
                let lasting = caller % 2 == 0;
                let request = v1::GetUserStatsRequest {
                    tenant_id: TENANT.into(),
                    user_id: "ann".into(),
                    after_event_id: if lasting { "never" } else { "" }.into(),
                    ..Default::default()
                };
                match client.get_user_stats(request).await {
                    Ok(_) if !lasting => {}
                    Err(status) if lasting && status.code() == Code::DeadlineExceeded => {}
                    // The library's client had taken the call, and had not sent
                    // it when it was told that the connection ends: it says so
                    // by this alone, and gRPC's other clients send it anew.
                    Err(status) if status.message() == "operation was canceled" => {
                        unsent += 1;
                        continue;
                    }
                    other => return Err(format!("after {answered} answers: {other:?}").into()),
                }
                answered += 1;
            }
            Result::Ok((answered, unsent))
        }
    });
    let (told, unread, answered) =
        tokio::try_join!(try_join_all(idle), unread, try_join_all(calls))?;
    let first = told.iter().min().ok_or("none")?;
    let last = told.iter().max().ok_or("none")?;
    assert!(*first > Duration::from_millis(1_750), "{first:?}");
    assert!(*last < Duration::from_secs(4), "{last:?}");
    assert!(
        *last - *first > Duration::from_millis(300),
        "{first:?} to {last:?}"
    );
    assert!(
        unread > Duration::from_secs(2) && unread < Duration::from_secs(12),
        "{unread:?}"
    );
    eprintln!(
        "told after {first:?} to {last:?}; unread cut after {unread:?}; answered {answered:?}"
    );
    service.stop().await
}

#[tokio::test]
async fn idle_connections_to_the_metrics_port_give_way_to_probes() -> Result<()> {
    let world = World::new("probes");
    let service = world.service().await?;
    let mut idle = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(service.metrics).await?;
        // Some have asked before, and keep their connection; some never ask.
        if number % 2 == 0 {
            let request = b"GET /healthz HTTP/1.1\r\nHost: local\r\n\r\n";
            stream.write_all(request).await?;
            assert!(stream.read(&mut [0; 256]).await? > 0);
        }
        idle.push(stream);
        if number > 200 {
            let asked = Instant::now();
            get(service.metrics, "/healthz").await?;
            assert!(asked.elapsed() < Duration::from_secs(1), "{number} idle");
        }
    }
    // Of those that never asked, the newest are left.
    let oldest = closed(idle.swap_remove(1));
    tokio::time::timeout(SOON, oldest).await?;
    let last = idle.last_mut().ok_or("none")?;
    last.write_all(b"GET /healthz HTTP/1.1\r\nHost: local\r\n\r\n")
        .await?;
    assert!(last.read(&mut [0; 256]).await? > 0);
    service.stop().await
}
