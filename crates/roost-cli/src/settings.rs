//! The user's settings: which platform, with which token.
//!
//! Order: flag, environment variable, user file, default.

use crate::args::Global;
use crate::error::CliError;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where the API of `roost up` is.
pub(crate) const API_URL_DEFAULT: &str = "http://127.0.0.1:4280";

/// The user file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserFile {
    /// Where the API is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_url: Option<String>,
    /// The token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// A platform and how to talk to it.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where the API is, without a slash at the end.
    pub(crate) api_url: String,
    /// The token.
    pub(crate) token: Option<String>,
}

/// The path of the user file in the XDG config folder.
pub(crate) fn user_file_path() -> Result<PathBuf, CliError> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("XDG_CONFIG_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("roost").join("config.toml"))
        .ok_or_else(|| CliError::failed("no-home", "neither XDG_CONFIG_HOME nor HOME is set"))
}

/// Reads the user file; a missing one is empty.
pub(crate) fn read_user_file(path: &Path) -> Result<UserFile, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| CliError::usage(format!("{}: {}", path.display(), error.message()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(UserFile::default()),
        Err(error) => Err(CliError::io(format!("read {}", path.display()), &error)),
    }
}

/// Writes the user file so that only the user can read it.
pub(crate) fn write_user_file(path: &Path, file: &UserFile) -> Result<(), CliError> {
    let text =
        toml::to_string(file).map_err(|error| CliError::failed("internal", error.to_string()))?;
    write_private(path, &text)
}

/// Writes a file with mode 0600 and its folders. It belongs to the user of this
/// command, and with `sudo` to the one who called it: `up` needs root, and who
/// reads its `env.sh` afterwards does not.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), CliError> {
    let on = |error| CliError::io(format!("write {}", path.display()), &error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(on)?;
    }
    // A new file under another name, so that an old one with wider rights is not reused.
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(on)?;
    file.write_all(text.as_bytes()).map_err(on)?;
    if let Some((user, group)) = sudo_caller()
        && file.metadata().map_err(on)?.uid() == 0
    {
        std::os::unix::fs::fchown(&file, Some(user), Some(group)).map_err(on)?;
    }
    std::fs::rename(&temporary, path).map_err(on)
}

/// The user and group ids of who called `sudo`.
fn sudo_caller() -> Option<(u32, u32)> {
    let id = |name| std::env::var(name).ok()?.parse().ok();
    Some((id("SUDO_UID")?, id("SUDO_GID")?))
}

/// The platform that this command talks to.
pub(crate) fn target(global: &Global) -> Result<Target, CliError> {
    // clap has put the environment below the flags already.
    let user = match user_file_path() {
        Ok(path) => read_user_file(&path)?,
        Err(_) => UserFile::default(),
    };
    let api_url = global
        .api_url
        .clone()
        .or(user.api_url)
        .unwrap_or_else(|| API_URL_DEFAULT.to_owned());
    if !api_url.starts_with("http://") && !api_url.starts_with("https://") {
        return Err(CliError::usage(format!(
            "the API URL `{api_url}` does not start with http:// or https://"
        )));
    }
    let token = global
        .token
        .clone()
        .or(user.token)
        .map(|token| token.trim().to_owned());
    Ok(Target {
        api_url: api_url.trim_end_matches('/').to_owned(),
        token,
    })
}

#[cfg(test)]
mod tests {
    use super::{UserFile, read_user_file, write_user_file};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_login_file_is_for_the_user_only_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roost/config.toml");
        assert!(read_user_file(&path).unwrap().token.is_none());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        let file = UserFile {
            api_url: Some("http://a".into()),
            token: Some("t".into()),
        };
        write_user_file(&path, &file).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read_user_file(&path).unwrap().token.as_deref(), Some("t"));
        std::fs::write(&path, "tokn = 'x'").unwrap();
        assert!(read_user_file(&path).is_err());
    }
}
