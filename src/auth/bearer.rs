//! The `authorization` header.

use super::Refusal;

/// The longest bearer token that is looked at, in bytes.
pub const MAX_BEARER_BYTES: usize = 8 << 10;

/// The authentication scheme, in lower case.
const SCHEME: &str = "bearer";

/// Returns the token in the value of an `authorization` header.
///
/// # Errors
/// [`Refusal::NotBearer`], [`Refusal::TooLong`].
pub fn bearer(header: &[u8]) -> Result<&str, Refusal> {
    let header = std::str::from_utf8(header).map_err(|_| Refusal::NotBearer)?;
    let (scheme, token) = header.split_once(' ').ok_or(Refusal::NotBearer)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case(SCHEME) || token.is_empty() {
        return Err(Refusal::NotBearer);
    }
    match token.len() {
        bytes if bytes > MAX_BEARER_BYTES => Err(Refusal::TooLong(bytes)),
        _ => Ok(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_one() {
        assert_eq!(bearer(b"Bearer abc"), Ok("abc"));
        assert_eq!(bearer(b"bearer  abc "), Ok("abc"));
        for bad in ["", "abc", "Bearer", "Bearer ", "Basic YTpi"] {
            assert_eq!(bearer(bad.as_bytes()), Err(Refusal::NotBearer), "{bad:?}");
        }
        assert_eq!(bearer(b"Bearer \xff"), Err(Refusal::NotBearer));
        let long = format!("Bearer {}", "x".repeat(MAX_BEARER_BYTES + 1));
        assert_eq!(
            bearer(long.as_bytes()),
            Err(Refusal::TooLong(MAX_BEARER_BYTES + 1))
        );
    }
}
