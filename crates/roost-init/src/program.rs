//! Which file of the image a program is.

use crate::failure::Failure;
use std::os::unix::fs::MetadataExt as _;

/// Finds a program, as `execvp` would by the `PATH` of `env`.
pub(crate) fn find(
    program: &str,
    workdir: &str,
    env: &[(String, String)],
) -> Result<String, Failure> {
    let mode_of = |path: &str| std::fs::metadata(path).ok().map(|found| found.mode());
    roost_model::program::find(program, workdir, env, mode_of)
        .map_err(|error| Failure::machine(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn what_cannot_be_run_is_told_from_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let workdir = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("plain"), "").unwrap();
        let plain = find("./plain", workdir, &[]).unwrap_err();
        assert!(plain.message.contains("not an executable file"));
        let missing = find("missing", workdir, &[]).unwrap_err();
        assert_eq!(missing.message, "the image has no program `missing`");
    }
}
