//! Programs of images: where they are searched, and why one cannot be run.

/// The search path of a program when the image names none.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Of a mode: the kind of file, and that of regular files (`inode(7)`).
const MODE_KIND: u32 = 0o170_000;
const MODE_REGULAR: u32 = 0o100_000;
/// Of a mode: that somebody may run the file.
const MODE_EXECUTABLE: u32 = 0o111;

/// Error numbers of Linux, the same on all processors (`errno(3)`).
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;

/// A program cannot be run, as far as its image tells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The image does not have it.
    #[error("the image has no program `{0}`")]
    Missing(String),
    /// What has its name is something else.
    #[error("program `{0}` of the image is not an executable file")]
    NotExecutable(String),
}

/// Finds a program, as `execvp` would by the `PATH` of `env`.
///
/// `mode_of` says what a path of the image leads to: its `st_mode`, or nothing.
pub fn find(
    program: &str,
    workdir: &str,
    env: &[(String, String)],
    mode_of: impl Fn(&str) -> Option<u32>,
) -> Result<String, ProgramError> {
    let mut error = ProgramError::Missing(program.to_owned());
    for candidate in candidates(program, workdir, env) {
        match mode_of(&candidate) {
            Some(mode) if mode & MODE_KIND == MODE_REGULAR && mode & MODE_EXECUTABLE != 0 => {
                return Ok(candidate);
            }
            Some(_) => error = ProgramError::NotExecutable(program.to_owned()),
            None => {}
        }
    }
    Err(error)
}

/// Where a program may be, in the order of the search.
pub fn candidates(program: &str, workdir: &str, env: &[(String, String)]) -> Vec<String> {
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

/// Adds what every program finds in its environment, unless it says otherwise.
pub fn add_default_env(env: &mut Vec<(String, String)>, home: &str) {
    for (name, value) in [("PATH", PATH_DEFAULT), ("HOME", home)] {
        if !env.iter().any(|(other, _)| other == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// What an error of `execve` means for the person who made the image.
pub fn explain(program: &str, error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(ENOEXEC) => format!(
            "program `{program}` is not in a format that this host runs (is it for another CPU, or a script without a `#!` line?)"
        ),
        Some(ENOENT) => {
            format!("program `{program}` or the interpreter that it names is not in the image")
        }
        Some(EACCES) => format!("the user of the machine may not run program `{program}`"),
        _ => format!("run program `{program}`: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{ProgramError, candidates, explain, find};

    fn path(text: &str) -> [(String, String); 1] {
        [("PATH".to_owned(), text.to_owned())]
    }

    #[test]
    fn a_program_is_searched_as_execvp_would() {
        let env = path("/bin:/usr/bin/:");
        assert_eq!(
            candidates("sh", "/app", &env),
            ["/bin/sh", "/usr/bin/sh", "/app/sh"]
        );
        assert_eq!(candidates("./run", "/app/", &env), ["/app/./run"]);
        assert_eq!(candidates("/x", "/", &env), ["/x"]);
    }

    #[test]
    fn the_first_file_that_can_be_run_is_the_program() {
        let mode_of = |path: &str| match path {
            "/a/sh" => Some(0o040_755),
            "/b/sh" | "/b/plain" => Some(0o100_644),
            "/c/sh" | "/d/sh" => Some(0o100_755),
            _ => None,
        };
        let find = |program| find(program, "/", &path("/a:/b:/c:/d"), mode_of);
        assert_eq!(find("sh"), Ok("/c/sh".to_owned()));
        assert_eq!(
            find("plain"),
            Err(ProgramError::NotExecutable("plain".into()))
        );
        assert_eq!(find("other"), Err(ProgramError::Missing("other".into())));
    }

    #[test]
    fn errors_are_told_by_their_numbers() {
        let explain = |number| explain("x", &std::io::Error::from_raw_os_error(number));
        assert!(explain(super::ENOEXEC).contains("another CPU"));
        assert!(explain(super::ENOENT).contains("interpreter"));
        assert!(explain(super::EACCES).contains("may not run"));
        assert!(explain(7).starts_with("run program `x`: Argument list too long"));
    }
}
