//! Whether the program of a machine is in its image, before anything is started.

use crate::failure::LaunchError;
use crate::guest_files::open_inside;
use crate::root::Root;
use rustix::fs::OFlags;

/// Refuses a program that the image does not have or that cannot be run.
pub(crate) fn check(
    root: &Root,
    program: &str,
    workdir: &str,
    env: &[(String, String)],
) -> Result<(), LaunchError> {
    let mode_of = |path: &str| {
        let file = open_inside(root, path, OFlags::PATH).ok()?;
        Some(rustix::fs::fstat(&file).ok()?.st_mode)
    };
    match roost_model::program::find(program, workdir, env, mode_of) {
        Ok(_) => Ok(()),
        Err(error) => Err(LaunchError::machine(error.to_string())),
    }
}
