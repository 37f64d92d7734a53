//! The service as a process of its own, watched from outside.

use std::error::Error;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chat_counters::config::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::report::{Cpu, Measured};

/// How often the service is asked how far it is.
const POLL: Duration = Duration::from_millis(10);
/// No load takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

pub struct Service {
    process: Child,
    pid: u32,
    metrics: SocketAddr,
}

/// What the service says of itself.
struct Progress {
    deliveries: u64,
    settled: u64,
}

impl Service {
    /// Starts the service and waits until it consumes.
    pub async fn start(config: &Config) -> Result<Self, Box<dyn Error>> {
        let (grpc, metrics) = (free_address().await?, free_address().await?);
        let process = Command::new(env!("CARGO_BIN_EXE_chat-counters"))
            .args(["serve", "--log-level", "warn"])
            .env("CHAT_COUNTERS__BUS__URL", config.bus.url.expose())
            .env("CHAT_COUNTERS__STORE__URL", config.store.url.expose())
            .env("CHAT_COUNTERS__STORE__DATABASE", &config.store.database)
            .env("CHAT_COUNTERS__BUS__EXCHANGE", &config.bus.exchange)
            .env("CHAT_COUNTERS__BUS__QUEUE", &config.bus.queue)
            .env(
                "CHAT_COUNTERS__BUS__DEAD_LETTER_QUEUE",
                &config.bus.dead_letter_queue,
            )
            .env("CHAT_COUNTERS__GRPC__LISTEN", grpc.to_string())
            .env("CHAT_COUNTERS__METRICS__LISTEN", metrics.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().ok_or("the service ended at once")?;
        let service = Self {
            process,
            pid,
            metrics,
        };
        let started = Instant::now();
        while get(metrics, "/healthz").await.is_err() {
            if started.elapsed() > PATIENCE {
                return Err("the service does not start".into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(service)
    }

    /// Stops it as an operator would, and waits until it is gone.
    pub async fn stop(mut self) -> Result<(), Box<dyn Error>> {
        let pid = self.pid.to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await?;
        let status = self.process.wait().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the service ended with {status}").into())
        }
    }

    /// Waits until so many events are settled, and says how that went.
    pub async fn drained(&self, events: usize) -> Result<Measured, Box<dyn Error>> {
        let before = Cpu::now(self.pid);
        let mut first = None;
        let started = Instant::now();
        loop {
            let progress = self.progress().await?;
            if progress.deliveries > 0 {
                first.get_or_insert_with(Instant::now);
            }
            if progress.settled >= events as u64 {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("only {} of {events} settled", progress.settled).into());
            }
            tokio::time::sleep(POLL).await;
        }
        let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let cpu = Cpu::now(self.pid).since(&before, events);
        Ok(Measured {
            events_per_second: events as f64 / seconds,
            peak_rss_mib: peak_rss_mib(self.pid)?,
            cpu,
        })
    }

    async fn progress(&self) -> Result<Progress, Box<dyn Error>> {
        let text = get(self.metrics, "/metrics").await?;
        let sum = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum()
        };
        Ok(Progress {
            deliveries: sum("chat_counters_deliveries_total"),
            settled: sum("chat_counters_events_total{"),
        })
    }
}

async fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").await?.local_addr()
}

/// A plain GET; an error unless the answer is 200.
async fn get(address: SocketAddr, path: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 200 ") {
        true => Ok(answer),
        false => Err(answer.into()),
    }
}

/// The most memory that the process ever had resident.
fn peak_rss_mib(pid: u32) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("no VmHWM in /proc")?.parse::<f64>()? / 1024.0)
}
