//! From what a process should be to a command that can be started.

use crate::account;
use crate::cgroup::{Cgroups, Member};
use crate::failure::{Attempt as _, Failure};
use crate::program;
use crate::sys::{self, Image};
use roost_agent::proto;
use roost_model::account::Account;
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Command;

/// Files that a program makes are writable by their owner alone, unless it says otherwise.
const UMASK: u32 = 0o022;
/// A child can report one number only: the error, plus the step times this.
const STEP_FACTOR: i32 = 10_000;
/// Errors without a step that `fork` has made, not `execve`.
const ERRORS_OF_FORK: [i32; 4] = [0, libc::EAGAIN, libc::ENOMEM, libc::EMFILE];

/// What a child does before it becomes its program.
#[derive(Debug, Clone, Copy)]
enum Step {
    Session = 1,
    User = 2,
    Workdir = 3,
}

/// A process, resolved against the image.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// Its name among those of the app; empty for the only one.
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) args: Vec<String>,
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// The working directory.
    pub(crate) workdir: String,
    /// Who it runs as.
    pub(crate) account: Account,
    /// The file of the program.
    path: String,
}

/// How a process gets its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// Pipes and the like.
    None,
    /// Standard input is a terminal, which becomes that of its session.
    Stdin,
}

impl Recipe {
    /// Resolves a process of the app.
    pub(crate) fn of_app(process: &proto::Process) -> Result<Self, Failure> {
        if process.args.is_empty() {
            return Err(Failure::machine(
                "the image names no program to run, and neither does the machine",
            ));
        }
        let workdir = match process.workdir.as_str() {
            "" => "/",
            workdir => workdir,
        };
        ensure_workdir(workdir)?;
        Self::resolve(
            &process.name,
            process.args.clone(),
            pairs(&process.env),
            workdir,
            account::resolve(&process.user)?,
        )
    }

    /// Resolves a command beside the app: what it does not say is as with the app.
    pub(crate) fn of_command(start: &proto::ExecStart, app: &Self) -> Result<Self, Failure> {
        if start.args.is_empty() {
            return Err(Failure::machine("no command was given"));
        }
        let mut env = app.env.clone();
        let account = if start.user.is_empty() {
            app.account.clone()
        } else {
            // The home of another user is not that of the app's.
            env.retain(|(name, _)| name != "HOME");
            account::resolve(&start.user)?
        };
        for (name, value) in pairs(&start.env) {
            env.retain(|(other, _)| *other != name);
            env.push((name, value));
        }
        let workdir = match start.workdir.as_str() {
            "" => app.workdir.as_str(),
            workdir => workdir,
        };
        Self::resolve("", start.args.clone(), env, workdir, account)
    }

    fn resolve(
        name: &str,
        args: Vec<String>,
        mut env: Vec<(String, String)>,
        workdir: &str,
        account: Account,
    ) -> Result<Self, Failure> {
        roost_model::program::add_default_env(&mut env, &account.home);
        let program = args.first().map(String::as_str).unwrap_or_default();
        let path = program::find(program, workdir, &env)?;
        Ok(Self {
            name: name.to_owned(),
            args,
            env,
            workdir: workdir.to_owned(),
            account,
            path,
        })
    }

    /// The program as it was asked for.
    pub(crate) fn program(&self) -> &str {
        self.args.first().map(String::as_str).unwrap_or_default()
    }

    /// A command for this process in a session of its own. Its standard streams
    /// are to be set before it is started.
    pub(crate) fn command(
        &self,
        (cgroups, member): (&Cgroups, Member),
        open_files_max: u64,
        terminal: Terminal,
    ) -> Result<Command, Failure> {
        let image = Image {
            path: text(&self.path)?,
            args: self
                .args
                .iter()
                .map(|arg| text(arg))
                .collect::<Result<_, _>>()?,
            env: self
                .env
                .iter()
                .map(|(name, value)| text(&format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
        };
        let entrance = cgroups.entrance(member).attempt("open a control group")?;
        let workdir = text(&self.workdir)?;
        let groups: Vec<Gid> = self
            .account
            .additional_gids
            .iter()
            .copied()
            .map(Gid::from_raw)
            .collect();
        let user = Uid::from_raw(self.account.uid);
        let group = Gid::from_raw(self.account.gid);
        let prepare = move || {
            enter_session(&entrance, open_files_max, terminal)
                .map_err(|e| at(Step::Session, &e))?;
            become_user(&groups, user, group).map_err(|e| at(Step::User, &e))?;
            rustix::process::chdir(workdir.as_c_str()).map_err(|e| at(Step::Workdir, &e.into()))
        };
        Ok(sys::command(image, prepare))
    }

    /// What an error of starting the command means.
    pub(crate) fn explain(&self, error: &io::Error) -> Failure {
        let code = error.raw_os_error().unwrap_or_default();
        let cause = io::Error::from_raw_os_error(code % STEP_FACTOR);
        let program = self.program();
        match (code / STEP_FACTOR, code) {
            (step, _) if step == Step::Workdir as i32 => {
                Failure::machine(format!("enter {}: {cause}", self.workdir))
            }
            (step, _) if step == Step::User as i32 => {
                Failure::guest(format!("become user {}: {cause}", self.account.uid))
            }
            (0, code) if !ERRORS_OF_FORK.contains(&code) => {
                Failure::machine(roost_model::program::explain(program, &cause))
            }
            _ => Failure::guest(format!("start program `{program}`: {cause}")),
        }
    }
}

/// An error of a step, as a number that the parent can tell apart.
fn at(step: Step, error: &io::Error) -> io::Error {
    let code = error.raw_os_error().unwrap_or(libc::EIO);
    io::Error::from_raw_os_error(step as i32 * STEP_FACTOR + code)
}

/// Enters the control group and a session of its own.
fn enter_session(entrance: &OwnedFd, open_files_max: u64, terminal: Terminal) -> io::Result<()> {
    rustix::io::write(entrance, b"0")?;
    rustix::process::setsid()?;
    if terminal == Terminal::Stdin {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    if open_files_max > 0 {
        let limit = Rlimit {
            current: Some(open_files_max),
            maximum: Some(open_files_max),
        };
        rustix::process::setrlimit(Resource::Nofile, limit)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    Ok(())
}

fn become_user(groups: &[Gid], user: Uid, group: Gid) -> io::Result<()> {
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Makes the working directory where the image lacks it, as container engines do.
fn ensure_workdir(workdir: &str) -> Result<(), Failure> {
    if !workdir.starts_with('/') {
        return Err(Failure::machine(format!(
            "path `{workdir}` does not start with a slash"
        )));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(workdir)
        .attempt_for_machine(format_args!("make directory {workdir} in the machine"))
}

fn pairs(env: &[proto::EnvironmentVariable]) -> Vec<(String, String)> {
    env.iter()
        .map(|variable| (variable.name.clone(), variable.value.clone()))
        .collect()
}

fn text(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| {
        // The value may be a secret.
        let name = text.split(['=', '\0']).next().unwrap_or_default();
        Failure::machine(format!("argument or variable `{name}` has a zero byte"))
    })
}

/// A signal by number, if there is one.
pub(crate) fn signal(number: i32) -> Result<Signal, Failure> {
    Signal::from_named_raw(number)
        .or_else(|| sys::real_time_signal(number))
        .ok_or_else(|| Failure::request(format!("there is no signal {number}")))
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_are_the_named_ones_and_those_free_for_programs() {
        // 37 is SIGRTMIN+3, which stops systemd.
        for number in [1, 15, 31, 34, 37, 64] {
            assert_eq!(signal(number).unwrap().as_raw(), number);
        }
        // Two belong to the C library.
        for number in [i32::MIN, -1, 0, 32, 33, 65, i32::MAX] {
            let message = signal(number).unwrap_err().message;
            assert_eq!(message, format!("there is no signal {number}"));
        }
    }
}
