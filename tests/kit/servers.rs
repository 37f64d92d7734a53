//! Private servers for programs that stop, freeze and kill them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::process::Command;

use super::service::Result;

/// A RabbitMQ node or a MongoDB node of this program alone; gone when dropped.
pub(crate) struct Server {
    script: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// Where it alone answers, also when it is one of several.
    pub url: String,
    _directory: Arc<Directory>,
}

/// A directory that is removed when dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/dev")
        .join(name)
}

async fn output(mut command: Command) -> Result<String> {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().await?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        let command = command.as_std();
        Err(format!("{command:?} ended with {}: {said}", output.status).into())
    }
}

/// Neighbouring ports of which a server that is down for a while can be sure
/// to find them free when it comes back: no one else of this process has them,
/// and other processes look elsewhere first.
pub(crate) async fn free_ports(count: u16) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const SPAN: u16 = 40;
    let own = 12_000 + (std::process::id() % 60) as u16 * 4 * SPAN;
    let first = own + NEXT.fetch_add(SPAN, Ordering::Relaxed);
    let mut command = Command::new(script("free_ports.py"));
    command.args([&count.to_string(), "--first", &first.to_string()]);
    let ports = output(command).await?;
    Ok(ports
        .split_whitespace()
        .next()
        .ok_or("no free ports")?
        .parse()?)
}

fn directory(name: &str) -> Arc<Directory> {
    let name = format!("cc-{name}-{}", std::process::id());
    Arc::new(Directory(std::env::temp_dir().join(name)))
}

impl Server {
    /// A broker.
    pub(crate) async fn rabbit(name: &str) -> Result<Self> {
        let mut cluster = Self::rabbit_cluster(name, 1).await?;
        cluster.pop().ok_or_else(|| "no node".into())
    }

    /// A broker that takes back what a consumer holds for so long, in
    /// milliseconds.
    pub(crate) async fn impatient_rabbit(name: &str, timeout_ms: u64) -> Result<Self> {
        let mut cluster = Self::impatient_rabbits(name, 1, timeout_ms).await?;
        cluster.pop().ok_or_else(|| "no node".into())
    }

    /// Such brokers that form a cluster.
    pub(crate) async fn impatient_rabbits(
        name: &str,
        nodes: u16,
        timeout_ms: u64,
    ) -> Result<Vec<Self>> {
        let variable = ("RABBIT_CONSUMER_TIMEOUT_MS", timeout_ms.to_string());
        Self::rabbits(name, nodes, vec![variable]).await
    }

    /// A broker that also speaks TLS, with `ca.crt`, `server.crt` and
    /// `server.key` of a directory; and the port where it does.
    pub(crate) async fn tls_rabbit(name: &str, directory: &Path) -> Result<(Self, u16)> {
        let port = free_ports(1).await?;
        let directory = directory.display().to_string();
        let variables = vec![
            ("RABBIT_TLS_PORT", port.to_string()),
            ("RABBIT_TLS_DIR", directory),
        ];
        let mut cluster = Self::rabbits(name, 1, variables).await?;
        Ok((cluster.pop().ok_or("no node")?, port))
    }

    /// Brokers that form a cluster.
    pub(crate) async fn rabbit_cluster(name: &str, nodes: u16) -> Result<Vec<Self>> {
        Self::rabbits(name, nodes, Vec::new()).await
    }

    async fn rabbits(
        name: &str,
        nodes: u16,
        environment: Vec<(&'static str, String)>,
    ) -> Result<Vec<Self>> {
        const PORTS: u16 = 10;
        let (first, directory) = (free_ports(nodes * PORTS).await?, directory(name));
        let names: Vec<String> = (1..=nodes).map(|node| format!("{name}{node}")).collect();
        let cluster = names.iter().zip((first..).step_by(PORTS.into()));
        let cluster = cluster.map(|(node, port)| Self {
            script: script("rabbit.sh"),
            arguments: vec![
                directory.0.display().to_string(),
                node.clone(),
                port.to_string(),
            ],
            environment: environment.clone(),
            url: format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            _directory: directory.clone(),
        });
        let cluster: Vec<Self> = cluster.collect();
        // Only together do they become a cluster.
        for server in &cluster {
            let mut start = server.command("start");
            if nodes > 1 {
                start.args(&names);
            }
            output(start).await?;
        }
        for server in &cluster {
            server.run("wait").await?;
        }
        Ok(cluster)
    }

    /// A replica set of one node.
    pub(crate) async fn mongod(name: &str) -> Result<Self> {
        let port = free_ports(1).await?;
        let mut set = Self::mongod_set(name, &[port], &[format!("127.0.0.1:{port}")]).await?;
        let mut server = set.pop().ok_or("no node")?;
        server.url = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0");
        Ok(server)
    }

    /// A replica set of one node that asks who one is, and takes TLS with
    /// `server.pem` and `ca.crt` of a directory.
    pub(crate) async fn guarded_mongod(name: &str, directory: &Path) -> Result<Self> {
        let port = free_ports(1).await?;
        let variables = vec![
            ("MONGO_AUTH", "1".into()),
            ("MONGO_TLS_DIR", directory.display().to_string()),
        ];
        let member = [format!("127.0.0.1:{port}")];
        let mut set = Self::mongods(name, &[port], &member, variables).await?;
        let mut server = set.pop().ok_or("no node")?;
        server.url = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0");
        Ok(server)
    }

    /// A replica set on these ports, whose members know each other, and are
    /// known to clients, under these addresses.
    pub(crate) async fn mongod_set(
        name: &str,
        ports: &[u16],
        members: &[String],
    ) -> Result<Vec<Self>> {
        Self::mongods(name, ports, members, Vec::new()).await
    }

    async fn mongods(
        name: &str,
        ports: &[u16],
        members: &[String],
        mut environment: Vec<(&'static str, String)>,
    ) -> Result<Vec<Self>> {
        environment.push(("MONGO_MEMBERS", members.join(",")));
        let directory = directory(name);
        let set = ports.iter().map(|port| Self {
            script: script("mongo.py"),
            arguments: vec![directory.0.display().to_string(), port.to_string()],
            environment: environment.clone(),
            url: format!("mongodb://127.0.0.1:{port}/?directConnection=true"),
            _directory: directory.clone(),
        });
        let set: Vec<Self> = set.collect();
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let mut start = Command::new(script("mongo.py"));
        start.arg("start").arg(&directory.0).arg(ports.join(","));
        start.envs(environment.iter().cloned());
        output(start).await?;
        Ok(set)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.arg(verb).args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs a verb of the server's script.
    pub(crate) async fn run(&self, verb: &str) -> Result<()> {
        output(self.command(verb)).await.map(drop)
    }

    /// What the broker's own administration tool says.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("ctl");
        command.args(arguments);
        output(command).await
    }

    /// Starts it, again on the same data, and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<()> {
        self.run("start").await?;
        if self.script.ends_with("rabbit.sh") {
            self.run("wait").await?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = self.command("kill");
        let _ = command.as_std_mut().stderr(Stdio::null()).status();
    }
}
