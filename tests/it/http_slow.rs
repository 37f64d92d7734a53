//! Clients over HTTP that take their answers late, or never: they cost themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::events::{self, TENANT, join};
use crate::kit::http1::{Events, ask, send_on};
use crate::kit::service::{PATIENCE, Result, Service};
use crate::world::World;

/// Bytes that the client's end of a connection keeps unread.
const LITTLE: u32 = 4_096;

/// A connection on which little waits on the client's side.
async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(LITTLE)?;
    Ok(socket.connect(address).await?)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

/// Others are answered all the while.
async fn is_answered(service: &Service) -> Result<()> {
    let path = format!("/v1/tenants/{TENANT}/users/eve/stats");
    let began = Instant::now();
    let answer = ask(service.http, ("GET", &path), &[], b"").await?;
    assert_eq!(answer.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[tokio::test]
async fn whoever_takes_no_answer_loses_the_connection() -> Result<()> {
    const DIALOGS: usize = 500;
    let world = World::new("http_untaken");
    let service = world.service().await?;
    let joins = (0..DIALOGS).map(|n| join(&format!("j{n}"), &format!("d{n}"), "eve", 1));
    world.publish(&joins.collect::<Vec<_>>()).await?;
    world.journaled(DIALOGS as u64).await?;
    // Together more than the kernels of both sides keep.
    let path = format!("/v1/tenants/{TENANT}/users/eve/dialogs?page_size={DIALOGS}");
    let mut connection = connect(service.http).await?;
    let began = Instant::now();
    let cut = async {
        loop {
            // An error says that the connection is no more.
            if connection
                .write_all(request(&path).as_bytes())
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let others = async {
        loop {
            if let Err(error) = is_answered(&service).await {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = cut => {}
        error = others => return Err(error),
        () = tokio::time::sleep(PATIENCE) => return Err("it still has its connection".into()),
    }
    let after = began.elapsed();
    assert!(after > Duration::from_secs(9), "{after:?}");
    service.stop().await
}

/// A reader of events, and what it was told.
struct Reading {
    events: Events,
    updates: usize,
    /// Version and unread of each user.
    users: BTreeMap<String, (i64, i64)>,
}

impl Reading {
    async fn next(&mut self) -> Result<()> {
        let event = self.events.next().await?.ok_or("the stream has ended")?;
        let data: Value = serde_json::from_str(&event.data)?;
        for update in data["updates"].as_array().into_iter().flatten() {
            let stats = &update["user_stats"];
            let user = stats["user_id"].as_str().unwrap_or_default().to_owned();
            let number = |name: &str| stats[name].as_i64().unwrap_or(-1);
            let told = (number("version"), number("total_unread_count"));
            let before = self.users.insert(user, told);
            if let Some(before) = before.filter(|before| before.0 > told.0) {
                return Err(format!("{before:?} before {told:?}").into());
            }
            self.updates += 1;
        }
        Ok(())
    }

    async fn until(&mut self, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let reads = async {
            while !is_so(self) {
                self.next().await?;
            }
            Result::Ok(())
        };
        tokio::time::timeout(PATIENCE, reads).await?
    }
}

#[tokio::test]
async fn a_slow_reader_of_events_is_told_less_often_and_the_latest_last() -> Result<()> {
    const USERS: usize = 400;
    const MESSAGES: usize = 80;
    let world = World::new("http_slow");
    let service = world.service().await?;
    let joins = (0..USERS).map(|n| join(&format!("j{n}"), "d", &format!("u{n}"), 1));
    world.publish(&joins.collect::<Vec<_>>()).await?;
    world.journaled(USERS as u64).await?;
    let users = (0..USERS).map(|n| format!("user_id=u{n}&"));
    let users: String = users.collect();
    let path = format!("/v1/tenants/{TENANT}/users/events?{users}min_interval_ms=10");
    let connection = connect(service.http).await?;
    let answer = send_on(connection, ("GET", &path), &[], b"").await?;
    let mut reading = Reading {
        events: Events::of(answer).await?,
        updates: 0,
        users: BTreeMap::new(),
    };
    reading.until(|told| told.users.len() == USERS).await?;
    // Each is an update of every user, and nobody reads.
    for n in 0..MESSAGES {
        let name = format!("m{n}");
        world
            .publish(&events::messages(&name, "d", 1, 100 + n as i64))
            .await?;
        world.journaled((USERS + n + 1) as u64).await?;
        is_answered(&service).await?;
    }
    let before = reading.updates;
    let is_latest = |told: &Reading| {
        let mut users = told.users.values();
        users.all(|(_, unread)| *unread == MESSAGES as i64)
    };
    reading.until(is_latest).await?;
    let told = (reading.updates - before) / USERS;
    println!("of {MESSAGES} messages each user was told {told} times");
    assert!(told < MESSAGES / 2, "{told}");
    service.stop().await
}
