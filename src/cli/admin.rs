//! The rule by which the commands of an administrator (`dlq`, `verify`,
//! `rebuild`) are carried out: a running service is asked, and when none answers
//! the command works on the servers itself.

use clap::Args;

use super::access::ServicePort;
use super::remote::{self, Connection};
use super::{Failure, Global, output};
use crate::config::Config;

/// Flags that say who does an administrator's work.
#[derive(Debug, Args)]
pub(super) struct AdminRoute {
    /// The service; default: admin.listen of the configuration
    #[arg(long, global = true, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Ask no service: work on RabbitMQ and MongoDB from here
    #[arg(long, global = true, conflicts_with = "address")]
    direct: bool,
}

/// Who does an administrator's work.
pub(super) enum Executor {
    /// The running service at this address.
    Service {
        connection: Connection,
        address: String,
    },
    /// This process, on the servers themselves.
    ThisProcess,
}

impl AdminRoute {
    /// Connects to the service, or says on stderr that none answers and that
    /// the command works on `servers` directly. A service that somebody has
    /// named, by a flag or a profile, must answer.
    pub(super) async fn executor(
        &self,
        global: &Global,
        config: &Config,
        servers: &str,
    ) -> Result<Executor, Failure> {
        if self.direct {
            return Ok(Executor::ThisProcess);
        }
        let address = self.address.as_deref();
        let listen = &config.admin.listen;
        let fall_back = |why: &str| {
            output::aside(&format!("{why}: working on {servers} directly"));
            Ok(Executor::ThisProcess)
        };
        if address.is_none() && listen.is_empty() && !global.access.has_profile() {
            return fall_back("no service is asked, since admin.listen is empty");
        }
        let target = global.access.target(address, ServicePort::Admin, listen)?;
        let (address, named) = (target.address.clone(), target.named);
        match remote::connect(target).await {
            Ok((address, connection)) => Ok(Executor::Service {
                connection,
                address,
            }),
            Err(failure) if failure.is_server() && !named => {
                fall_back(&format!("no service answers at {address}"))
            }
            Err(failure) => Err(failure),
        }
    }
}
