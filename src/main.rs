//! The binary: parses the command line, runs one command, ends with its code.

use std::process::ExitCode;

use chat_counters::cli::{self, Cli};
use clap::Parser as _;

fn main() -> ExitCode {
    // Before anything else: two crates speak TLS, and with no provider named
    // the first handshake panics. An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(&format!("cannot start the runtime: {error}")).into(),
    };
    let code = runtime.block_on(cli::run(cli));
    // A read of stdin that no one waits for any more must not hold the exit.
    runtime.shutdown_background();
    code.into()
}
