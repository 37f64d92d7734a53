//! Putting the configuration together from its sources.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::keys::{self, KEYS, Key};
use super::problem::{PREFIX, Problem, Source};
use super::rules::Rule;
use super::secret::redacted;
use super::{Config, across};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("the configuration file {path} cannot be read: {error}")]
    Unreadable {
        /// The path of the file.
        path: String,
        /// Why it cannot be read.
        error: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("the configuration file {path} is not TOML: {why}{place}")]
    NotToml {
        /// The path of the file.
        path: String,
        /// What the parser expected.
        why: String,
        /// The line, in parentheses, where the parser knows it.
        place: String,
    },
    /// Keys that do not exist, or values that cannot be.
    #[error("the configuration cannot be used:\n{}", lines(.0))]
    Problems(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("  - {problem}"))
        .collect();
    lines.join("\n")
}

/// The sources of a configuration, besides the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The path of the configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment of the process; what does not begin with `CHAT_COUNTERS__` is
    /// passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// For each flag that was given: the key, the name of the flag, the value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// A valid configuration, and which source sets which key.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, with defaults where no source says otherwise.
    pub config: Config,
    /// The source of every key that is not at its default.
    pub sources: BTreeMap<&'static str, Source>,
}

/// Reads all sources and checks every value.
///
/// # Errors
/// A file that cannot be read or parsed; else all problems at once.
pub fn load(sources: Sources) -> Result<Loaded, ConfigError> {
    let mut settings = Settings::default();
    if let Some(path) = &sources.file {
        settings.file(path, read(path)?);
    }
    for (name, value) in sources.environment {
        settings.variable(&name.to_string_lossy(), &value.to_string_lossy());
    }
    for (name, flag, value) in sources.flags {
        if let Some(key) = keys::find(name) {
            settings.set(key, Source::Flag(flag), parsed(key, &value));
        }
    }
    settings.finish()
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: shown(),
        error,
    })?;
    text.parse::<toml::Table>()
        .map_err(|error| ConfigError::NotToml {
            path: shown(),
            // The message only: the whole error quotes the line, perhaps with a password.
            why: error.message().into(),
            place: error.span().map_or_else(String::new, |span| {
                let before = text.get(..span.start).unwrap_or_default();
                format!(" (line {})", before.matches('\n').count() + 1)
            }),
        })
}

/// Converts the text of a variable or a flag to the type that its key has.
fn parsed(key: &Key, text: &str) -> toml::Value {
    match key.rule {
        Rule::Integer { .. } => text
            .trim()
            .parse()
            .map_or_else(|_| toml::Value::String(text.into()), toml::Value::Integer),
        Rule::Boolean => text
            .trim()
            .parse()
            .map_or_else(|_| toml::Value::String(text.into()), toml::Value::Boolean),
        Rule::Text(_) | Rule::Url(_) => toml::Value::String(text.into()),
    }
}

/// The values that were set so far, each checked on its own.
#[derive(Default)]
struct Settings {
    values: BTreeMap<&'static str, (toml::Value, Source)>,
    problems: Vec<Problem>,
}

impl Settings {
    fn file(&mut self, path: &Path, table: toml::Table) {
        let source = Source::File(path.to_owned());
        for (name, value) in table {
            self.entry(name, &source, value);
        }
    }

    /// Takes a value of a file, or a section with all that is in it.
    fn entry(&mut self, name: String, source: &Source, value: toml::Value) {
        match value {
            toml::Value::Table(entries) if known_section(&name) => {
                for (part, value) in entries {
                    self.entry(format!("{name}.{part}"), source, value);
                }
            }
            value => self.named(&name, source, value),
        }
    }

    fn variable(&mut self, variable: &str, value: &str) {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            return;
        };
        let source = Source::Variable(variable.into());
        let name = name.to_lowercase().replace("__", ".");
        match keys::find(&name) {
            Some(key) => self.set(key, source, parsed(key, value)),
            None => self.unknown(&name, &source),
        }
    }

    fn named(&mut self, name: &str, source: &Source, value: toml::Value) {
        match keys::find(name) {
            Some(key) => self.set(key, source.clone(), value),
            None => self.unknown(name, source),
        }
    }

    fn set(&mut self, key: &'static Key, source: Source, value: toml::Value) {
        if let Err(expected) = key.rule.check(&value) {
            self.problems.push(Problem {
                key: key.name.into(),
                source: source.clone(),
                expected,
                found: shown(key, &value),
            });
        }
        self.values.insert(key.name, (value, source));
    }

    fn unknown(&mut self, name: &str, source: &Source) {
        let above = |name: &str| name.rsplit_once('.').map(|(above, _)| above.to_owned());
        let mut sections = std::iter::successors(above(name), |section| above(section));
        let section = sections.find(|section| known_section(section));
        let expected = if let Some(section) = section {
            let keys = KEYS.iter().filter(|key| key.parts().0 == section);
            let keys: Vec<_> = keys.map(|key| key.parts().1).collect();
            format!("a key of the section {section}: {}", keys.join(", "))
        } else {
            let mut sections: Vec<_> = KEYS.iter().map(|key| key.parts().0).collect();
            sections.dedup();
            format!("one of the sections {}", sections.join(", "))
        };
        self.problems.push(Problem {
            key: name.into(),
            source: source.clone(),
            expected,
            found: "an unknown key".into(),
        });
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError::Problems(self.problems));
        }
        let mut tables = toml::Table::new();
        let mut sources = BTreeMap::new();
        for (name, (value, source)) in std::mem::take(&mut self.values) {
            let (section, key) = name.rsplit_once('.').unwrap_or(("", name));
            if let Some(table) = section_of(&mut tables, section) {
                table.insert(key.into(), value);
            }
            sources.insert(name, source);
        }
        let config: Config = tables.try_into().map_err(|error: toml::de::Error| {
            // Only when a key's rule is wider than its type: a test sees to it.
            ConfigError::Problems(vec![Problem {
                key: "configuration".into(),
                source: Source::Default,
                expected: "values of the right type".into(),
                found: error.message().into(),
            }])
        })?;
        let problems = across::problems(&config, &sources);
        if problems.is_empty() {
            Ok(Loaded { config, sources })
        } else {
            Err(ConfigError::Problems(problems))
        }
    }
}

fn known_section(section: &str) -> bool {
    let within = |name: &str| {
        let rest = name.strip_prefix(section);
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    KEYS.iter().any(|key| within(key.name))
}

/// Returns the table of a section, made where it is missing; `None` when a
/// value stands in its place.
fn section_of<'a>(tables: &'a mut toml::Table, section: &str) -> Option<&'a mut toml::Table> {
    section.split('.').try_fold(tables, |table, part| {
        table
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
    })
}

/// The longest value that is quoted back, in characters.
const MAX_QUOTED_CHARACTERS: usize = 80;

/// Formats a value for people, without secrets.
fn shown(key: &Key, value: &toml::Value) -> String {
    match (key.rule, value) {
        (Rule::Url(_), toml::Value::String(text)) => redacted(text),
        (Rule::Url(_), value) => value.type_str().into(),
        (_, toml::Value::String(text)) if text.chars().count() > MAX_QUOTED_CHARACTERS => {
            format!("a string of {} bytes", text.len())
        }
        (_, toml::Value::String(text)) => format!("{text:?}"),
        (_, toml::Value::Integer(number)) => number.to_string(),
        (_, toml::Value::Float(number)) => number.to_string(),
        (_, toml::Value::Boolean(yes)) => yes.to_string(),
        (_, value) => value.type_str().into(),
    }
}
