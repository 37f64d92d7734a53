//! `config`: the configuration, explained or as it is.

use std::fmt::Write as _;

use clap::Args;

use super::output::{self, Output};
use super::{ExitCode, Failure, Global};
use crate::config::{Config as Configuration, Loaded, keys};

/// Print every key of the configuration with its default and meaning
#[derive(Debug, Args)]
#[command(
    long_about = "Prints a TOML file with every key, its default and its meaning: a start for a \
                  file of your own. With --effective, the values that a command would use and \
                  where each comes from; URLs are shown without user, password and query.",
    after_help = "Examples:\n  \
                  chat-counters config > chat-counters.toml\n  \
                  chat-counters config --effective --config chat-counters.toml\n  \
                  chat-counters config --effective --output json"
)]
pub(super) struct Config {
    /// The values in effect, from every source
    #[arg(long)]
    effective: bool,
}

impl Config {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let loaded = self.effective.then(|| global.load()).transpose()?;
        match (loaded, global.output) {
            (Some(loaded), Output::Table) => output::print(&effective(&loaded)?)?,
            (Some(loaded), Output::Json) => output::print_json(&loaded.config)?,
            (None, Output::Table) => output::print(&keys::annotated())?,
            (None, Output::Json) => output::print_json(&Configuration::default())?,
        }
        Ok(ExitCode::Done)
    }
}

/// The values as TOML, each that is not at its default with its source.
fn effective(loaded: &Loaded) -> Result<String, std::io::Error> {
    let values = serde_json::to_value(&loaded.config)?;
    let mut text = String::new();
    let mut before = "";
    for key in keys::KEYS {
        let (section, name) = key.parts();
        if section != before {
            let gap = if before.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            before = section;
        }
        let _ = write!(text, "{name} = {}", key.value(&values));
        if let Some(source) = loaded.sources.get(key.name) {
            let _ = write!(text, "  # {source}");
        }
        text.push('\n');
    }
    Ok(text)
}
