//! The real service as a process of its own, watched from outside.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use chat_counters::config::{Config, Sources, load};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// How often something is looked at until it is so.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// After that long it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A configuration as the environment has it (the servers above all), with
/// names of its own for everything on the servers.
///
/// # Panics
/// When the environment says what cannot be.
pub(crate) fn config(name: &str) -> Config {
    let sources = Sources {
        environment: std::env::vars_os().collect(),
        ..Sources::default()
    };
    let mut config = match load(sources) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let own = format!("cc_{name}_{}_{:x}", std::process::id(), now.as_micros());
    config.store.database.clone_from(&own);
    config.bus.exchange = format!("{own}_events");
    config.bus.dead_letter_queue = format!("{own}.dlq");
    config.notify.exchange = format!("{own}_notifications");
    config.bus.queue = own;
    // Nobody sends calls to the services of a test but the test.
    config.shutdown.delay_seconds = 0;
    config
}

/// Looks again and again until there is a value.
///
/// # Errors
/// When there is none for [`PATIENCE`].
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> Result<T> {
    until_for(PATIENCE, what, look).await
}

/// As [`until`], with a patience of its own.
///
/// # Errors
/// When there is no value for so long.
pub(crate) async fn until_for<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = look().await {
            return Ok(value);
        }
        if started.elapsed() > patience {
            return Err(format!("still not so after {patience:?}: {what}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A running service. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    process: Child,
    pid: u32,
    /// Where it answers counters.
    pub grpc: SocketAddr,
    /// Where it answers dead letters and maintenance.
    pub admin: SocketAddr,
    /// Where it answers counters over HTTP.
    pub http: SocketAddr,
    /// Where it answers `/metrics` and `/healthz`.
    pub metrics: SocketAddr,
}

/// A command of the program, with the servers and names of a test.
pub(crate) fn command(binary: &Path, config: &Config) -> Command {
    let bus = &config.bus;
    let mut command = Command::new(binary);
    for (key, file, url) in [
        ("BUS__URL", &bus.url_file, &bus.url),
        ("STORE__URL", &config.store.url_file, &config.store.url),
    ] {
        let key = format!("CHAT_COUNTERS__{key}");
        match file.as_str() {
            "" => command.env(key, url.expose()),
            file => command.env_remove(&key).env(key + "_FILE", file),
        };
    }
    for (key, file) in [
        ("BUS__PASSWORD_FILE", &bus.password_file),
        ("BUS__TLS__CA_FILE", &bus.tls.ca_file),
        ("BUS__TLS__CERT_FILE", &bus.tls.cert_file),
        ("BUS__TLS__KEY_FILE", &bus.tls.key_file),
        ("STORE__PASSWORD_FILE", &config.store.password_file),
    ] {
        command.env(format!("CHAT_COUNTERS__{key}"), file);
    }
    command
        .env(
            "CHAT_COUNTERS__STORE__ALLOW_INSECURE_TLS",
            config.store.allow_insecure_tls.to_string(),
        )
        .env("CHAT_COUNTERS__BUS__EXCHANGE", &bus.exchange)
        .env("CHAT_COUNTERS__BUS__QUEUE", &bus.queue)
        .env(
            "CHAT_COUNTERS__BUS__DEAD_LETTER_QUEUE",
            &bus.dead_letter_queue,
        )
        .env("CHAT_COUNTERS__STORE__DATABASE", &config.store.database)
        // None that another test's service has.
        .env("CHAT_COUNTERS__ADMIN__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (section, tls) in [
        ("GRPC", &config.grpc.tls),
        ("ADMIN", &config.admin.tls),
        ("HTTP", &config.http.tls),
    ] {
        for (key, file) in [
            ("CERT_FILE", &tls.cert_file),
            ("KEY_FILE", &tls.key_file),
            ("CLIENT_CA_FILE", &tls.client_ca_file),
        ] {
            command.env(format!("CHAT_COUNTERS__{section}__TLS__{key}"), file);
        }
    }
    command
}

impl Service {
    /// Starts the service and waits until it takes events and answers.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) async fn start(binary: &Path, config: &Config) -> Result<Self> {
        let mut service = Self::spawn(binary, config).await?;
        let started = Instant::now();
        while !service.is_ready().await {
            if let Some(status) = service.process.try_wait()? {
                return Err(format!("the service ended at its start with {status}").into());
            }
            if started.elapsed() > PATIENCE {
                return Err("the service does not become ready".into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(service)
    }

    /// Starts the service without waiting for anything.
    ///
    /// # Errors
    /// When there is no such binary.
    pub(crate) async fn spawn(binary: &Path, config: &Config) -> Result<Self> {
        let level = std::env::var("CC_TEST_LOG").unwrap_or_else(|_| "error".into());
        Self::spawn_logging(binary, config, &level, Stdio::inherit()).await
    }

    /// Starts the service without waiting for anything, logging elsewhere.
    ///
    /// # Errors
    /// When there is no such binary.
    pub(crate) async fn spawn_logging(
        binary: &Path,
        config: &Config,
        level: &str,
        log: Stdio,
    ) -> Result<Self> {
        let (grpc, admin) = (free_address().await?, free_address().await?);
        let (http, metrics) = (free_address().await?, free_address().await?);
        let mut command = command(binary, config);
        command
            .arg("serve")
            .stderr(log)
            .env("CHAT_COUNTERS__GRPC__LISTEN", grpc.to_string())
            .env("CHAT_COUNTERS__ADMIN__LISTEN", admin.to_string())
            .env("CHAT_COUNTERS__HTTP__LISTEN", http.to_string())
            .env("CHAT_COUNTERS__METRICS__LISTEN", metrics.to_string())
            .env("CHAT_COUNTERS__LOG__LEVEL", level);
        let auth = &config.auth;
        for (key, value) in [
            ("MODE", &auth.mode),
            ("TOKEN_FILE", &auth.token_file),
            ("MTLS_FILE", &auth.mtls_file),
            ("JWT__ISSUER", &auth.jwt.issuer),
            ("JWT__AUDIENCE", &auth.jwt.audience),
            ("JWT__JWKS_FILE", &auth.jwt.jwks_file),
            ("JWT__JWKS_URL", &auth.jwt.jwks_url),
            ("JWT__JWKS_CA_FILE", &auth.jwt.jwks_ca_file),
        ] {
            command.env(format!("CHAT_COUNTERS__AUTH__{key}"), value);
        }
        let check_tenant = serde_json::to_value(config.bus.check_tenant)?;
        let notify = &config.notify;
        let format = serde_json::to_value(notify.format)?;
        for (key, value) in [
            ("FORMAT", format.as_str().unwrap_or_default().to_owned()),
            ("EXCHANGE", notify.exchange.clone()),
            ("INTERVAL_MS", notify.interval_ms.to_string()),
            ("FAN_OUT_LIMIT", notify.fan_out_limit.to_string()),
            (
                "CHAT3_VERSION_OFFSET",
                notify.chat3_version_offset.to_string(),
            ),
        ] {
            command.env(format!("CHAT_COUNTERS__NOTIFY__{key}"), value);
        }
        for (key, value) in [
            (
                "BUS__CHECK_TENANT",
                check_tenant.as_str().unwrap_or_default().to_owned(),
            ),
            ("HTTP__ALLOWED_ORIGINS", config.http.allowed_origins.clone()),
            (
                "HTTP__MAX_CONNECTIONS",
                config.http.max_connections.to_string(),
            ),
            ("BUS__PREFETCH", config.bus.prefetch.to_string()),
            (
                "GRPC__MAX_CONCURRENT_REQUESTS",
                config.grpc.max_concurrent_requests.to_string(),
            ),
            ("SERVING__MEMORY_MIB", config.serving.memory_mib.to_string()),
            ("BUS__PREFETCH_BYTES", config.bus.prefetch_bytes.to_string()),
            ("BUS__HOLD_SECONDS", config.bus.hold_seconds.to_string()),
            ("BUS__DELIVERY_LIMIT", config.bus.delivery_limit.to_string()),
            ("BUS__MAX_BODY_BYTES", config.bus.max_body_bytes.to_string()),
            (
                "BUS__WATCHDOG_SECONDS",
                config.bus.watchdog_seconds.to_string(),
            ),
            (
                "GRPC__MAX_CONNECTIONS",
                config.grpc.max_connections.to_string(),
            ),
            (
                "GRPC__MAX_CONNECTION_AGE_SECONDS",
                config.grpc.max_connection_age_seconds.to_string(),
            ),
            (
                "GRPC__MAX_DEADLINE_MS",
                config.grpc.max_deadline_ms.to_string(),
            ),
            (
                "GRPC__DEFAULT_DEADLINE_MS",
                config.grpc.default_deadline_ms.to_string(),
            ),
            ("LANES__COUNT", config.lanes.count.to_string()),
            ("LANES__BATCH_EVENTS", config.lanes.batch_events.to_string()),
            ("LANES__BATCH_AGE_MS", config.lanes.batch_age_ms.to_string()),
            (
                "VERIFY__INTERVAL_SECONDS",
                config.verify.interval_seconds.to_string(),
            ),
            (
                "SHUTDOWN__DELAY_SECONDS",
                config.shutdown.delay_seconds.to_string(),
            ),
            (
                "SHUTDOWN__DRAIN_SECONDS",
                config.shutdown.drain_seconds.to_string(),
            ),
        ] {
            command.env(format!("CHAT_COUNTERS__{key}"), value);
        }
        let process = command.spawn()?;
        let pid = process.id().ok_or("the service ended at once")?;
        Ok(Self {
            process,
            pid,
            grpc,
            admin,
            http,
            metrics,
        })
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Whether it consumes, and its store answers.
    pub(crate) async fn is_ready(&self) -> bool {
        get(self.metrics, "/healthz").await.is_ok()
    }

    /// Asks it to stop and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end well.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let status = self.signal("-TERM").await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the service ended with {status}").into())
        }
    }

    /// Ends it on the spot.
    ///
    /// # Errors
    /// When it is gone already.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.signal("-KILL").await.map(drop)
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn signal(&mut self, signal: &str) -> Result<ExitStatus> {
        self.send(signal).await?;
        Ok(tokio::time::timeout(PATIENCE, self.process.wait()).await??)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub(crate) async fn send(&self, signal: &str) -> Result<()> {
        let pid = self.pid.to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await?;
        sent.success()
            .then_some(())
            .ok_or_else(|| "no such process".into())
    }

    /// The sum of a counter over all labels that contain `label`.
    ///
    /// # Errors
    /// When the service does not answer.
    pub(crate) async fn counter(&self, name: &str, label: &str) -> Result<u64> {
        Ok(self.number(name, label).await? as u64)
    }

    /// The same of what is not counted in whole numbers.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn number(&self, name: &str, label: &str) -> Result<f64> {
        let text = get(self.metrics, "/metrics").await?;
        let lines = text.lines().filter(|line| {
            let named = line.strip_prefix(name);
            named.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum::<f64>())
    }

    /// The most memory that the process ever had resident, in MiB.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn peak_rss_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.ok_or("no VmHWM in /proc")?.parse::<f64>()? / 1024.0)
    }

    /// Events settled by this process, whatever became of them.
    ///
    /// # Errors
    /// When the service does not answer.
    pub(crate) async fn settled(&self) -> Result<u64> {
        self.counter("chat_counters_events_total", "").await
    }

    /// Waits until this process has settled so many events.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn has_settled(&self, events: u64) -> Result<()> {
        until(&format!("{events} events settled"), || async {
            let settled = self.settled().await.ok()?;
            (settled >= events).then_some(())
        })
        .await
    }
}

/// The binary beside the program that runs now, in the same profile.
pub(crate) fn neighbouring_binary() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("CHAT_COUNTERS_BIN") {
        return Ok(binary.into());
    }
    let program = std::env::current_exe()?;
    // target/PROFILE/examples/demo -> target/PROFILE/chat-counters
    let profile = program
        .ancestors()
        .nth(2)
        .ok_or("a program without a directory")?;
    Ok(profile.join("chat-counters"))
}

/// An address of this machine on which nobody listens yet. None that the system
/// gives to whoever connects: one of those can be taken by the time that a
/// service listens on it.
///
/// # Errors
/// When there is none.
pub(crate) async fn free_address() -> Result<SocketAddr> {
    /// Below what systems give away, and above the private servers' ports.
    const PORTS: Range<u16> = 22_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Programs beside this one begin elsewhere.
    let first = (std::process::id() % 100) as u16 * (count / 100);
    for _ in 0..count {
        let port = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start + port));
        if TcpListener::bind(address).await.is_ok() {
            return Ok(address);
        }
    }
    Err("no free address".into())
}

/// A plain GET; an error unless the answer is 200.
///
/// # Errors
/// With what was answered instead.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(answer)
    } else {
        Err(answer.into())
    }
}
