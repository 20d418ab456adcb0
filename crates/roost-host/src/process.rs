//! Running outside programs: arguments as a list, a time limit, bounded output.

use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// Most output that is kept of one program, per stream; the rest is read and dropped.
pub const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A program that is not part of roost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its file name, looked up in `PATH`.
    pub name: &'static str,
    /// The Debian package that has it.
    pub debian_package: &'static str,
}

/// The nftables command line tool.
pub const NFT: Program = Program {
    name: "nft",
    debian_package: "nftables",
};

/// What a program wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramOutput {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// A program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunProgramError {
    /// It is not installed.
    #[error("program `{}` is missing; install the Debian package `{}`", .0.name, .0.debian_package)]
    Missing(Program),
    /// It could not be started or talked to.
    #[error("run `{program}`")]
    Start {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("`{program}` failed with {status}: {stderr}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// It took too long and was killed.
    #[error("`{program}` did not end within {} s", limit.as_secs())]
    TimedOut {
        /// Its name.
        program: &'static str,
        /// How long it had.
        limit: Duration,
    },
}

/// Runs a program to its end; an exit status other than 0 is an error.
///
/// Dropping the future kills the program.
pub async fn run(
    program: Program,
    args: &[&str],
    stdin: &[u8],
    limit: Duration,
) -> Result<ProgramOutput, RunProgramError> {
    match tokio::time::timeout(limit, run_to_end(program, args, stdin)).await {
        Ok(result) => result,
        Err(_) => Err(RunProgramError::TimedOut {
            program: program.name,
            limit,
        }),
    }
}

async fn run_to_end(
    program: Program,
    args: &[&str],
    stdin: &[u8],
) -> Result<ProgramOutput, RunProgramError> {
    let start_error = |source| RunProgramError::Start {
        program: program.name,
        source,
    };
    let spawned = Command::new(program.name)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(RunProgramError::Missing(program));
        }
        child => child.map_err(start_error)?,
    };
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(output), Some(errors)) = pipes else {
        return Err(start_error(std::io::Error::other("no pipes")));
    };
    let feed = async move {
        // A program that does not read its input closes it: its exit status tells.
        drop(input.write_all(stdin).await);
    };
    let ((), stdout, stderr) = tokio::join!(feed, read_bounded(output), read_bounded(errors));
    let status = child.wait().await.map_err(start_error)?;
    let output = ProgramOutput {
        stdout: stdout.map_err(start_error)?,
        stderr: stderr.map_err(start_error)?,
    };
    if status.success() {
        return Ok(output);
    }
    Err(RunProgramError::Failed {
        program: program.name,
        status,
        stderr: last_words(&output.stderr),
    })
}

async fn read_bounded(mut stream: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut stream)
        .take(OUTPUT_BYTES_MAX)
        .read_to_end(&mut kept)
        .await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(kept)
}

fn last_words(stderr: &[u8]) -> String {
    let start = stderr.len().saturating_sub(1_000);
    String::from_utf8_lossy(&stderr[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Program, RunProgramError, run};
    use std::time::Duration;

    const SH: Program = Program {
        name: "sh",
        debian_package: "dash",
    };
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn input_and_output_pass_and_a_failure_tells_its_last_words() {
        let output = run(SH, &["-c", "cat; echo e >&2"], b"in", LIMIT)
            .await
            .unwrap();
        assert_eq!(
            (output.stdout.as_slice(), output.stderr.as_slice()),
            (&b"in"[..], &b"e\n"[..])
        );
        let error = run(SH, &["-c", "echo no room >&2; exit 3"], b"", LIMIT)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh` failed with exit status: 3: no room"
        );
    }

    #[tokio::test]
    async fn a_missing_program_names_its_package_and_a_slow_one_is_killed() {
        let none = Program {
            name: "roost-no-such-program",
            debian_package: "none-such",
        };
        let error = run(none, &[], b"", LIMIT).await.unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("install the Debian package `none-such`"),
            "{error}"
        );
        let error = run(SH, &["-c", "sleep 600"], b"", Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(error, RunProgramError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn output_beyond_the_bound_is_dropped_and_the_program_still_ends() {
        let output = run(SH, &["-c", "head -c 6000000 /dev/zero"], b"", LIMIT)
            .await
            .unwrap();
        assert_eq!(output.stdout.len(), 4 * 1024 * 1024);
    }
}
