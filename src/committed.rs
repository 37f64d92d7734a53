//! Files of the repository that are made from the code, for tests that keep them in step.

/// Asserts that a file, named from the top of the repository, is as it was `made`. The
/// command says how to write it, and begins with the variable that has this done here:
/// `UPDATE_SCHEMA=1 cargo test --lib schema`.
pub(crate) fn assert_in_step(file: &str, made: &str, command: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let (variable, _) = command.split_once('=').expect("the command has a variable");
    if std::env::var_os(variable).is_some() {
        std::fs::write(&path, made).expect("the repository can be written to");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{file} is out of date: {command}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "LICENSE is out of date: UPDATE_NOTHING_HERE=1")]
    fn a_file_that_is_another_is_told() {
        assert_in_step("LICENSE", "another", "UPDATE_NOTHING_HERE=1");
    }
}
