//! `completions`: a script that completes commands in a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, ExitCode, Failure, output};

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  chat-counters completions bash > /etc/bash_completion.d/chat-counters\n  \
                  chat-counters completions fish > ~/.config/fish/completions/chat-counters.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        // Into memory first: the generator panics when a pipe breaks.
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut Cli::command(),
            "chat-counters",
            &mut script,
        );
        output::print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::Done)
    }
}
