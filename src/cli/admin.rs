//! The rule by which the commands of an administrator (`dlq`, `verify`,
//! `rebuild`) are carried out: a running service is asked, and when none answers
//! the command works on the servers itself.

use clap::Args;

use super::access::ServicePort;
use super::remote::{self, Connection};
use super::{ExitCode, Failure, Global, output};
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
    /// the command works on `servers` directly. A service that was asked for must
    /// answer: by an address, a profile, or flags that say how to connect or who
    /// calls.
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
        if address.is_none() && listen.is_empty() && !global.access.asks_for_a_service() {
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

    /// Chooses this process for work that a service does not have.
    ///
    /// # Errors
    /// Wrong usage, when a service was asked for: `flag` is what rules it out.
    pub(super) fn this_process(&self, global: &Global, flag: &str) -> Result<Executor, Failure> {
        if global.access.asks_for_a_service() && !self.direct {
            let message = format!(
                "{flag}: works in this process, and no service is asked: leave --profile, --tls-... and --token-file out, or add --direct"
            );
            return Err(Failure::new(ExitCode::Usage, message));
        }
        Ok(Executor::ThisProcess)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        route: AdminRoute,
        #[command(flatten)]
        global: Global,
    }

    fn command(arguments: &[&str]) -> Command {
        let arguments = [&["test"], arguments].concat();
        Command::try_parse_from(arguments).unwrap()
    }

    /// Who does the work when `admin.listen` is this: `None` for this process,
    /// else what is wrong.
    async fn executed(arguments: &[&str], listen: &str) -> Option<String> {
        let command = command(arguments);
        let mut config = Config::default();
        config.admin.listen = listen.into();
        let executor = command.route.executor(&command.global, &config, "MongoDB");
        match executor.await {
            Ok(Executor::ThisProcess) => None,
            Ok(Executor::Service { address, .. }) => panic!("{address} answers"),
            Err(failure) => Some(format!("{failure:?}")),
        }
    }

    #[tokio::test]
    async fn nothing_takes_the_place_of_a_service_that_was_asked_for() {
        let token = std::env::temp_dir().join(format!("cc-admin-token-{}", std::process::id()));
        std::fs::write(&token, "a-token").unwrap();
        let token = ["--token-file", token.to_str().unwrap()];
        // Nobody listens at the discard port.
        for listen in ["", "127.0.0.1:9"] {
            assert_eq!(executed(&[], listen).await, None);
            let direct = [&token[..], &["--direct"]].concat();
            assert_eq!(executed(&direct, listen).await, None);
            for asked in [&token, &["--tls-name", "a.test"]] {
                assert!(executed(asked, listen).await.is_some(), "{asked:?}");
            }
        }
        std::fs::remove_file(token[1]).unwrap();
    }

    #[test]
    fn what_a_service_does_not_have_is_refused_when_one_is_asked_for() {
        let chosen = |arguments: &[&str]| {
            let command = command(arguments);
            let executor = command.route.this_process(&command.global, "--resume");
            executor.map(drop)
        };
        assert!(chosen(&[]).is_ok());
        assert!(chosen(&["--direct", "--profile", "p"]).is_ok());
        for asked in ["--profile", "--token-file", "--tls-ca"] {
            let refused = format!("{:?}", chosen(&[asked, "x"]).unwrap_err());
            assert!(
                refused.contains("Usage") && refused.contains("--resume"),
                "{refused}"
            );
        }
    }
}
