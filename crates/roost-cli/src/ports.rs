//! Whether a port is free, and who has it when it is not.

use crate::error::{CliError, Exit};
use std::net::TcpListener;

/// The state "listening" in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Binds the port for a moment; an error names who holds it and the flag that changes it.
pub(crate) fn check_free(address: &str, port: u16, flag: &str) -> Result<(), CliError> {
    match TcpListener::bind((address, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let holder = holder(port)
                .map(|name| format!(" by {name}"))
                .unwrap_or_default();
            Err(CliError::new(
                Exit::Conflict,
                "port-in-use",
                format!("port {port} is in use{holder}"),
            )
            .hint(format!("choose another one with {flag} PORT")))
        }
        Err(error) => Err(CliError::io(
            format!("listen on {address}:{port} ({flag})"),
            &error,
        )),
    }
}

/// The process that listens on a port: `nginx (pid 12)`.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = std::fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let local = fields.get(1)?.rsplit(':').next()?;
                let is_it =
                    u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTENING;
                is_it.then(|| (*fields.get(9).unwrap_or(&"")).to_owned())
            })
        })?;
    let wanted = format!("socket:[{inode}]");
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let has_it = std::fs::read_dir(process.path().join("fd"))
                .ok()?
                .flatten()
                .any(|fd| {
                    std::fs::read_link(fd.path())
                        .is_ok_and(|target| target.as_os_str() == wanted.as_str())
                });
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            has_it.then(|| format!("{} (pid {pid})", name.trim()))
        })
}

#[cfg(test)]
mod tests {
    use super::check_free;

    #[test]
    fn a_port_in_use_is_named_with_its_holder_and_the_flag() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = check_free("127.0.0.1", port, "--http-port")
            .unwrap_err()
            .render();
        assert!(
            text.contains(&format!("port {port} is in use by ")),
            "{text}"
        );
        assert!(
            text.contains(&format!("pid {}", std::process::id())),
            "{text}"
        );
        assert!(text.contains("--http-port"), "{text}");
    }
}
