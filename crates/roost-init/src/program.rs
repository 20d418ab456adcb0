//! Which file of the image a program is.

use crate::failure::Failure;
use std::os::unix::fs::PermissionsExt as _;

/// Finds a program, as `execvp` would by the `PATH` of `env`.
pub(crate) fn find(
    program: &str,
    workdir: &str,
    env: &[(String, String)],
) -> Result<String, Failure> {
    let mut found_plain = false;
    for candidate in candidates(program, workdir, env) {
        let Ok(metadata) = std::fs::metadata(&candidate) else {
            continue;
        };
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            return Ok(candidate);
        }
        found_plain = true;
    }
    Err(Failure::machine(if found_plain {
        format!("program `{program}` of the image is not an executable file")
    } else {
        format!("the image has no program `{program}`")
    }))
}

/// Where a program may be, in the order of the search.
fn candidates(program: &str, workdir: &str, env: &[(String, String)]) -> Vec<String> {
    if program.starts_with('/') {
        return vec![program.to_owned()];
    }
    if program.contains('/') {
        return vec![format!("{}/{program}", workdir.trim_end_matches('/'))];
    }
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, path)| path);
    path.split(':')
        .map(|dir| if dir.is_empty() { workdir } else { dir })
        .map(|dir| format!("{}/{program}", dir.trim_end_matches('/')))
        .collect()
}

/// What an error of `execve` means for the person who made the image.
pub(crate) fn explain(program: &str, error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => format!(
            "program `{program}` is not in a format that this host runs (is it for another CPU, or a script without a `#!` line?)"
        ),
        Some(libc::ENOENT) => {
            format!("program `{program}` or the interpreter that it names is not in the image")
        }
        Some(libc::EACCES) => format!("the user of the machine may not run program `{program}`"),
        _ => format!("run program `{program}`: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{candidates, find};

    #[test]
    fn a_program_is_searched_as_execvp_would() {
        let env = [("PATH".to_owned(), "/bin:/usr/bin/:".to_owned())];
        assert_eq!(
            candidates("sh", "/app", &env),
            ["/bin/sh", "/usr/bin/sh", "/app/sh"]
        );
        assert_eq!(candidates("./run", "/app/", &env), ["/app/./run"]);
        assert_eq!(candidates("/x", "/", &env), ["/x"]);
    }

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
