//! Asking before something happens.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::cli::{ExitCode, Failure};

/// Whether there is a person to ask.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks, and takes anything but yes for no.
pub(super) async fn confirmed(question: &str) -> Result<bool, Failure> {
    if !can_ask() {
        let message = "no terminal to ask for confirmation at: give --yes";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    // Reading blocks, and a runtime must not be.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.map_err(io::Error::other)??;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
