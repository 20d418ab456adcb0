//! Files that the machine has before its app starts: those of the platform in
//! `/etc`, and those of its config.
//!
//! A file that is written replaces what had its name: an image may have a link
//! there that leads elsewhere.

use crate::failure::{Attempt as _, Failure};
use crate::limits::HOSTS_BYTES_MAX;
use roost_agent::proto::{BootRequest, GuestFile, HostEntry, Network};
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// What programs expect to be in `/etc/hosts`.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Writes all of them.
pub(crate) fn write_all(request: &BootRequest) -> Result<(), Failure> {
    if request.manage_etc {
        let network = request.network.clone().unwrap_or_default();
        let hosts = extend_hosts(&read_hosts(Path::new("/etc/hosts")), &network.hosts);
        write("/etc/hosts", hosts.as_bytes(), 0o644)?;
        write("/etc/resolv.conf", resolver(&network).as_bytes(), 0o644)?;
        let hostname = format!("{}\n", request.hostname);
        write("/etc/hostname", hostname.as_bytes(), 0o644)?;
    }
    for GuestFile {
        path,
        content,
        mode,
    } in &request.files
    {
        write(path, content, *mode)?;
    }
    Ok(())
}

/// Writes a file and the directories that it needs, in the place of what was there.
fn write(path: &str, content: &[u8], mode: u32) -> Result<(), Failure> {
    let path = &normalize(path)?;
    let what = || format!("write {path} in the machine");
    if let Some(parent) = Path::new(path).parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .attempt_for_machine(format_args!(
                "make directory {} in the machine",
                parent.display()
            ))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).attempt_for_machine(what());
        }
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .attempt_for_machine(what())?;
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
        .and_then(|()| file.write_all(content))
        .attempt_for_machine(what())
}

/// The path of a file without what is of no effect in it: a slash at its end, too,
/// as in containers.
fn normalize(path: &str) -> Result<String, Failure> {
    let bad = |problem: &str| Err(Failure::machine(format!("path `{path}` {problem}")));
    if !path.starts_with('/') {
        return bad("does not start with a slash");
    }
    if path.contains('\0') {
        return bad("has a zero byte");
    }
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| !matches!(*name, "" | "."))
        .collect();
    if names.contains(&"..") {
        return bad("has `..` in it");
    }
    if names.is_empty() {
        return Err(Failure::machine(format!(
            "`{path}` is not the path of a file"
        )));
    }
    Ok(format!("/{}", names.join("/")))
}

/// The image's own hosts, as far as they are a file of sensible size.
fn read_hosts(path: &Path) -> String {
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    let mut bytes = Vec::new();
    if is_file && let Ok(file) = File::open(path) {
        // What cannot be read is as good as not there.
        let _ = file.take(HOSTS_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The image's hosts with those of the platform.
fn extend_hosts(image: &str, entries: &[HostEntry]) -> String {
    let mut hosts = String::new();
    let has_localhost = image
        .lines()
        .filter_map(|line| line.split('#').next())
        .any(|line| {
            line.split_ascii_whitespace()
                .skip(1)
                .any(|name| name == "localhost")
        });
    if !has_localhost {
        hosts.push_str(LOCALHOST);
    }
    hosts.push_str(image);
    if !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for HostEntry { address, names } in entries {
        let _ = writeln!(hosts, "{address}\t{}", names.join(" "));
    }
    hosts
}

fn resolver(network: &Network) -> String {
    let mut resolver = String::new();
    for server in &network.nameservers {
        let _ = writeln!(resolver, "nameserver {server}");
    }
    if !network.search_domains.is_empty() {
        let _ = writeln!(resolver, "search {}", network.search_domains.join(" "));
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::{extend_hosts, resolver, write};
    use roost_agent::proto::{HostEntry, Network};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn hosts_of_the_image_stay_and_localhost_is_always_there() {
        let entries = [HostEntry {
            address: "fdaa::3".to_owned(),
            names: vec!["mch-1".to_owned(), "fly-local-6pn".to_owned()],
        }];
        let hosts = extend_hosts("192.0.2.9 of-image # localhost", &entries);
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(hosts.ends_with("192.0.2.9 of-image # localhost\nfdaa::3\tmch-1 fly-local-6pn\n"));
        assert_eq!(
            extend_hosts("127.0.0.1 localhost\n", &[]),
            "127.0.0.1 localhost\n"
        );
    }

    #[test]
    fn the_resolver_asks_only_the_platform() {
        let network = Network {
            nameservers: vec!["fdaa::53".to_owned(), "10.0.0.53".to_owned()],
            search_domains: vec!["internal".to_owned()],
            ..Network::default()
        };
        assert_eq!(
            resolver(&network),
            "nameserver fdaa::53\nnameserver 10.0.0.53\nsearch internal\n"
        );
    }

    #[test]
    fn a_file_replaces_a_link_and_does_not_write_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("a/link"));
        std::fs::write(&victim, "untouched").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        symlink(&victim, &link).unwrap();
        write(link.to_str().unwrap(), b"new", 0o640).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "new");
        let mode = std::fs::symlink_metadata(&link)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
    }

    #[test]
    fn a_slash_at_the_end_of_a_path_is_of_no_effect() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}//./file/", dir.path().display());
        write(&path, b"text", 0o644).unwrap();
        let text = std::fs::read_to_string(dir.path().join("file")).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn paths_that_name_no_file_are_refused_with_the_reason() {
        for (path, reason) in [
            ("etc/x", "does not start with a slash"),
            ("/a/../x", "has `..` in it"),
            ("/a\0", "has a zero byte"),
            ("//./", "is not the path of a file"),
        ] {
            assert!(
                write(path, b"", 0o644)
                    .unwrap_err()
                    .message
                    .contains(reason)
            );
        }
    }
}
