//! Whether the program of a machine is in its image, before anything is started.

use crate::failure::LaunchError;
use crate::guest_files::open_inside;
use crate::root::Root;
use rustix::fs::{FileType, OFlags};

/// Refuses a program that the image does not have or that cannot be run.
pub(crate) fn check(
    root: &Root,
    program: &str,
    workdir: &str,
    env: &[(String, String)],
) -> Result<(), LaunchError> {
    let mut found_plain = false;
    for candidate in candidates(program, workdir, env) {
        let Ok(file) = open_inside(root, &candidate, OFlags::PATH) else {
            continue;
        };
        let Ok(stat) = rustix::fs::fstat(&file) else {
            continue;
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && stat.st_mode & 0o111 != 0 {
            return Ok(());
        }
        found_plain = true;
    }
    Err(LaunchError::machine(if found_plain {
        format!("program `{program}` of the image is not an executable file")
    } else {
        format!("the image has no program `{program}`")
    }))
}

/// Where a program may be, in the order of the search.
pub(crate) fn candidates(program: &str, workdir: &str, env: &[(String, String)]) -> Vec<String> {
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
    use super::candidates;

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
}
