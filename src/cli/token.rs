//! `token`: a static token, and what the file of tokens has of it.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::{ExitCode, Failure, output};
use crate::auth::{MAX_BEARER_BYTES, Role, Tokens, digest_hex, generate};

/// Shortest token that is taken from somebody: what can be guessed is none.
const MIN_CHARACTERS: usize = 32;

/// Make a static token and its entry for auth.token_file
#[derive(Debug, Args)]
#[command(
    long_about = "Makes a token that nobody can guess and prints its entry for the file \
                  auth.token_file, which has a hash of the token, not the token. The token itself \
                  goes into a new file (--out), or once to stderr. --stdin takes a token that \
                  was made elsewhere.",
    after_help = "Examples:\n  \
                  chat-counters token dashboard --role reader --tenant acme --out dashboard.token >> tokens.toml\n  \
                  chat-counters token ops --role admin --all-tenants --out ops.token >> tokens.toml\n  \
                  chat-counters get user alice --tenant acme --token-file dashboard.token"
)]
pub(super) struct Token {
    /// Whose it is: the name in the audit
    name: String,
    /// What they may do; may be given several times
    #[arg(long = "role", value_name = "ROLE", required = true,
          value_parser = PossibleValuesParser::new(Role::ALL.map(Role::as_str)))]
    roles: Vec<String>,
    /// For which tenant; may be given several times
    #[arg(
        long = "tenant",
        value_name = "ID",
        required_unless_present = "all_tenants"
    )]
    tenants: Vec<String>,
    /// For all tenants
    #[arg(long, conflicts_with = "tenants")]
    all_tenants: bool,
    /// With the role user: which user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Write the token into this new file, for its owner's eyes only
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    out: Option<PathBuf>,
    /// Read the token from stdin instead of making one
    #[arg(long)]
    stdin: bool,
}

impl Token {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let usage = |message: String| Failure::new(ExitCode::Usage, message);
        let token = match self.stdin {
            true => given()?,
            false => generate().map_err(|error| Failure::new(ExitCode::No, error.to_string()))?,
        };
        let entry = self.entry(&token);
        // As the service will read it.
        Tokens::parse(&entry).map_err(usage)?;
        if let Some(path) = &self.out {
            save(path, &token)?;
        } else if !self.stdin {
            output::aside(&format!("the token, shown once: {token}"));
        }
        output::print(&entry)?;
        Ok(ExitCode::Done)
    }

    fn entry(&self, token: &str) -> String {
        // Strings and lists of them are the same in JSON and TOML.
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let list = |texts: &[String]| serde_json::Value::from(texts).to_string();
        let every = ["*".to_owned()];
        let tenants = match self.all_tenants {
            true => &every[..],
            false => &self.tenants,
        };
        let user = self.user.as_deref().map(text);
        let user = user.map(|user| format!("user = {user}\n"));
        format!(
            "[[token]]\nname = {}\nsha256 = \"{}\"\nroles = {}\ntenants = {}\n{}\n",
            text(&self.name),
            digest_hex(token),
            list(&self.roles),
            list(tenants),
            user.unwrap_or_default(),
        )
    }
}

/// Reads the token from stdin.
fn given() -> Result<String, Failure> {
    let mut text = String::new();
    let most = MAX_BEARER_BYTES as u64 + 2;
    let read = std::io::stdin().lock().take(most).read_to_string(&mut text);
    let token = text.trim();
    let fits = (MIN_CHARACTERS..=MAX_BEARER_BYTES).contains(&token.len());
    match read {
        Ok(_) if fits && token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token.to_owned()),
        _ => Err(Failure::new(
            ExitCode::Usage,
            format!(
                "stdin: expected a token of {MIN_CHARACTERS} to {MAX_BEARER_BYTES} visible ASCII characters, best random ones"
            ),
        )),
    }
}

fn save(path: &Path, token: &str) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let saved = file.and_then(|mut file| writeln!(file, "{token}"));
    saved.map_err(|error| {
        let message = format!("--out: {} cannot be written: {error}", path.display());
        Failure::new(ExitCode::Usage, message)
    })
}
