//! `dlq`: looking at dead letters and working with them.

mod client;
mod confirm;
mod edit;
mod filter;
mod inspect;
mod jobs;
mod plan;

use clap::{Args, Subcommand};

use super::admin::AdminRoute;
use super::{ExitCode, Failure, Global};
use client::DeadLetterClient;

/// Look at dead letters, replay, edit and discard them
#[derive(Debug, Args)]
#[command(
    long_about = "Events that cannot be counted are in the dead-letter queue \
                  (bus.dead_letter_queue), each with the reason. These commands look at them \
                  without touching any, and replay, edit or discard them. They ask a running \
                  service, and work on RabbitMQ and MongoDB directly when none answers.",
    after_help = "Exit codes:\n  \
                  0  done\n  \
                  1  the answer is no: no such letter, not confirmed, interrupted, or letters not done or failed again\n  \
                  2  wrong usage or configuration\n  \
                  3  a server cannot be reached or refuses, or somebody else is at the queue\n\n\
                  At three in the morning:\n  \
                  chat-counters dlq groups                                    what broke, since when, for whom\n  \
                  chat-counters dlq list --group 1a2b3c4d                     which letters\n  \
                  chat-counters dlq show 5e6f7a8b                             one of them, whole\n  \
                  chat-counters dlq replay --group 1a2b3c4d --dry-run         what a replay would change\n  \
                  chat-counters dlq replay --group 1a2b3c4d --rate 200        do it; Ctrl-C and the same again goes on"
)]
pub(super) struct Dlq {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    route: AdminRoute,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(inspect::List),
    Groups(inspect::Groups),
    Show(inspect::Show),
    Replay(jobs::Replay),
    Edit(edit::Edit),
    Discard(jobs::Discard),
    Undiscard(jobs::Undiscard),
    Audit(inspect::Audit),
    Sync(inspect::Sync),
}

impl Dlq {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let config = global.quietly()?.config;
        let servers = "RabbitMQ and MongoDB";
        let executor = self.route.executor(global, &config, servers).await?;
        let mut client = DeadLetterClient::open(executor, &config).await?;
        let output = global.output;
        let done = match self.verb {
            Verb::List(list) => list.run(&mut client, output).await,
            Verb::Groups(groups) => groups.run(&mut client, output).await,
            Verb::Show(show) => show.run(&mut client, output).await,
            Verb::Replay(replay) => replay.run(&mut client, output).await,
            Verb::Edit(edit) => edit.run(&mut client, output).await,
            Verb::Discard(discard) => discard.run(&mut client, output).await,
            Verb::Undiscard(undiscard) => undiscard.run(&mut client, output).await,
            Verb::Audit(audit) => audit.run(&mut client, output).await,
            Verb::Sync(sync) => sync.run(&mut client, output).await,
        };
        client.close().await;
        done
    }
}
