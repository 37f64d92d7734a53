//! URLs of servers as their files have them at the moment: whoever connects
//! reads them anew, so that a rotated secret needs no restart.

use super::secret::Unfit;
use super::{Bus, Store, Url, rules};

/// The longest secret that is read, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Why a file with a secret cannot be used. No text ever holds what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} ({path}): expected {expected}; found {found}")]
pub struct SecretError {
    /// The key that names the file.
    pub key: String,
    /// The path of the file.
    pub path: String,
    /// What should be in the file.
    pub expected: String,
    /// What is there in its place, in words.
    pub found: String,
}

impl Bus {
    /// Returns the URL to connect to now.
    ///
    /// # Errors
    /// When one of its files cannot be read, or has something else in it.
    pub async fn present_url(&self) -> Result<Url, SecretError> {
        let (url, check) = (&self.url, rules::amqp_url);
        present("bus", url, &self.url_file, &self.password_file, check).await
    }

    /// Returns the key that has the password, for messages.
    pub fn password_key(&self) -> &'static str {
        match (&*self.password_file, &*self.url_file) {
            ("", "") => "bus.url",
            ("", _) => "bus.url_file",
            _ => "bus.password_file",
        }
    }
}

impl Store {
    /// Returns the URL to connect to now.
    ///
    /// # Errors
    /// When one of its files cannot be read, or has something else in it.
    pub async fn present_url(&self) -> Result<Url, SecretError> {
        let (url, check) = (&self.url, rules::mongodb_url);
        present("store", url, &self.url_file, &self.password_file, check).await
    }

    /// Returns the key that has the password, for messages.
    pub fn password_key(&self) -> &'static str {
        match (&*self.password_file, &*self.url_file) {
            ("", "") => "store.url",
            ("", _) => "store.url_file",
            _ => "store.password_file",
        }
    }
}

async fn present(
    section: &str,
    url: &Url,
    url_file: &str,
    password_file: &str,
    check: fn(&str) -> Result<(), &'static str>,
) -> Result<Url, SecretError> {
    let refused = |key: &str, path: &str, expected: &str, found: &str| SecretError {
        key: format!("{section}.{key}"),
        path: path.into(),
        expected: expected.into(),
        found: found.into(),
    };
    let mut url = url.clone();
    if !url_file.is_empty() {
        let text = read(url_file).await;
        let text = text.map_err(|found| refused("url_file", url_file, "a URL", &found))?;
        check(&text).map_err(|expected| {
            let found = match text.as_str() {
                "" => "nothing",
                _ => "something else",
            };
            refused("url_file", url_file, expected, found)
        })?;
        url = text.into();
    }
    if !password_file.is_empty() {
        let refused = |found: &str| refused("password_file", password_file, "a password", found);
        let password = read(password_file).await;
        let password = password.map_err(|found| refused(&found))?;
        if password.is_empty() {
            return Err(refused("nothing"));
        }
        let whole = url.with_password(&password);
        url = whole.map_err(|Unfit(why)| refused(&format!("one for a URL {why}")))?;
    }
    Ok(url)
}

/// Reads the text of a file, without the end of its last line.
async fn read(path: &str) -> Result<String, String> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        file.take(MAX_SECRET_BYTES + 1)
            .read_to_end(&mut bytes)
            .await
    };
    read.await.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("more than {MAX_SECRET_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "what is not UTF-8")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus(url: &str, files: [Option<&std::path::Path>; 2]) -> Bus {
        let [url_file, password_file] =
            files.map(|file| file.map_or(String::new(), |path| path.display().to_string()));
        Bus {
            url: url.into(),
            url_file,
            password_file,
            ..Bus::default()
        }
    }

    #[tokio::test]
    async fn a_url_is_what_its_files_say_now() {
        let directory = tempfile::tempdir().unwrap();
        let (url, password) = (directory.path().join("url"), directory.path().join("word"));
        let both = bus("amqp://default", [Some(&url), Some(&password)]);
        for (url_text, password_text, expected) in [
            ("amqp://ann@h/v", "secret", "amqp://ann:secret@h/v"),
            (
                "amqp://ann@h/v\n",
                "p@ss/ %\r\n",
                "amqp://ann:p%40ss%2F%20%25@h/v",
            ),
            ("amqps://x%40y@h", " é", "amqps://x%40y:%20%C3%A9@h"),
        ] {
            std::fs::write(&url, url_text).unwrap();
            std::fs::write(&password, password_text).unwrap();
            let present = both.present_url().await.unwrap();
            assert_eq!(present.expose(), expected);
        }
        let given = bus("amqp://given", [None, None]).present_url().await;
        assert_eq!(given.unwrap().expose(), "amqp://given");
    }

    #[tokio::test]
    async fn a_file_that_is_of_no_use_is_named_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let (url, password) = (directory.path().join("url"), directory.path().join("word"));
        let missing = directory.path().join("missing");
        let rows: [(_, &[u8], &[u8], _); 7] = [
            ("url_file", b"", b"secret", "found nothing"),
            ("url_file", b"http://u:secret@h", b"secret", "amqps://"),
            ("url_file", b"\xf6secret", b"secret", "not UTF-8"),
            ("url_file", &[b'x'; 70_000], b"secret", "more than 65536"),
            ("password_file", b"amqp://u@h", b"\n", "found nothing"),
            (
                "password_file",
                b"amqp://u:secret@h",
                b"secret",
                "that has a password",
            ),
            (
                "password_file",
                b"amqp://h",
                b"secret",
                "that names no user",
            ),
        ];
        for (key, url_text, password_text, words) in rows {
            std::fs::write(&url, url_text).unwrap();
            std::fs::write(&password, password_text).unwrap();
            let bus = bus("amqp://default", [Some(&url), Some(&password)]);
            let text = bus.present_url().await.unwrap_err().to_string();
            assert!(text.starts_with(&format!("bus.{key} (/")), "{text}");
            assert!(text.contains(words) && !text.contains("secret"), "{text}");
        }
        let gone = bus("amqp://u@h", [None, Some(&missing)]);
        let text = gone.present_url().await.unwrap_err().to_string();
        assert!(
            text.contains("missing): expected a password; found No such file"),
            "{text}"
        );
    }
}
