//! Private servers for tests that stop and kill them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::process::Command;

use crate::kit::service::Result;

/// A RabbitMQ node or a MongoDB set of this test alone; gone when dropped.
pub struct Server {
    script: PathBuf,
    arguments: Vec<String>,
    pub url: String,
    _directory: Directory,
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

async fn output(program: &Path, arguments: &[String]) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().await?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    } else {
        Err(format!("{program:?} {arguments:?} ended with {}", output.status).into())
    }
}

/// Free ports that no other test of this process was given: a server that is
/// down for a while must find its own ones free when it comes back.
async fn free_ports(count: usize) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const SPAN: u16 = 40;
    let first = 12_000 + NEXT.fetch_add(SPAN, Ordering::Relaxed);
    let arguments = [count.to_string(), "--first".into(), first.to_string()];
    let ports = output(&script("free_ports.py"), &arguments).await?;
    Ok(ports
        .split_whitespace()
        .next()
        .ok_or("no free ports")?
        .parse()?)
}

fn directory(name: &str) -> Directory {
    Directory(std::env::temp_dir().join(format!("cc-it-{name}-{}", std::process::id())))
}

impl Server {
    pub async fn rabbit(name: &str) -> Result<Self> {
        let (port, directory) = (free_ports(10).await?, directory(name));
        let server = Self {
            script: script("rabbit.sh"),
            arguments: vec![
                directory.0.display().to_string(),
                name.into(),
                port.to_string(),
            ],
            url: format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            _directory: directory,
        };
        server.start().await?;
        Ok(server)
    }

    pub async fn mongod(name: &str) -> Result<Self> {
        let (port, directory) = (free_ports(1).await?, directory(name));
        let server = Self {
            script: script("mongo.py"),
            arguments: vec![directory.0.display().to_string(), port.to_string()],
            url: format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0"),
            _directory: directory,
        };
        server.start().await?;
        Ok(server)
    }

    /// Runs a verb of the server's script.
    pub async fn run(&self, verb: &str) -> Result<()> {
        let mut arguments = vec![verb.to_owned()];
        arguments.extend(self.arguments.iter().cloned());
        output(&self.script, &arguments).await.map(drop)
    }

    /// Starts it, again on the same data, and waits until it is ready.
    pub async fn start(&self) -> Result<()> {
        self.run("start").await?;
        if self.script.ends_with("rabbit.sh") {
            self.run("wait").await?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.script);
        let _ = command.arg("kill").args(&self.arguments).status();
    }
}
