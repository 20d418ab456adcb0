//! What a hostile image or program tries, and does not get.

use crate::host::{Host, layers, until};
use roost_host::driver::{DriverError, MachineDriver as _};
use roost_proto::logs::LogStream;
use roost_testkit::logs::lines;
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::symlink;

with_both_runtimes!(
    a_machine_cannot_use_up_what_root_on_the_host_may_have,
    nothing_that_roostd_has_open_is_open_in_a_machine,
    a_command_has_the_limits_of_the_program,
    a_working_directory_in_proc_is_refused,
    links_of_the_image_do_not_lead_files_out_of_it,
);

async fn a_machine_cannot_use_up_what_root_on_the_host_may_have(host: &Host) {
    // The kernel lets a user have 128 instances of inotify, and counts those of
    // a user namespace for the one who made it. `tail -F` of coreutils would do;
    // busybox has none that watches, so the limit is found where it is counted.
    let config = host.machine("sleep 600");
    let (id, base) = (config.machine_id.clone(), config.id_range.base);
    let running = host.driver.launch(config).await.unwrap();
    let namespace = std::fs::File::open(format!("/proc/{}/ns/user", running.pid)).unwrap();
    assert_eq!(owner_of_user_namespace(&namespace), base);
    host.remove(&id).await;
}

async fn nothing_that_roostd_has_open_is_open_in_a_machine(host: &Host) {
    let secret = host.dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    // As if roostd had been started by something careless.
    let _inherited = rustix::fs::open(&secret, OFlags::RDONLY, Mode::empty()).unwrap();
    let _inherited_dir = rustix::fs::open("/", OFlags::RDONLY, Mode::empty()).unwrap();
    let config = host.machine("ls /proc/self/fd; sleep 600");
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    let exec = host.exec(&id, "ls /proc/self/fd").await;
    // The last is the directory that `ls` reads.
    let expected = ["0", "1", "2", "3"];
    let text = String::from_utf8(exec.stdout).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "of a command");
    until("the program has listed its own", || {
        lines(&log_dir, LogStream::Stdout).len() >= expected.len()
    })
    .await;
    host.driver.signal(&id, libc::SIGKILL).await.unwrap();
    host.wait(&id).await;
    let of_program = lines(&log_dir, LogStream::Stdout);
    assert_eq!(of_program, expected, "of the program");
    host.remove(&id).await;
}

async fn a_command_has_the_limits_of_the_program(host: &Host) {
    let script = "cat /proc/self/limits; grep Umask /proc/self/status";
    let config = host.machine(&format!("{script}; sleep 600"));
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    let exec = host.exec(&id, script).await;
    until("the program has told its limits", || {
        let told = lines(&log_dir, LogStream::Stdout);
        told.iter().any(|line| line.starts_with("Umask"))
    })
    .await;
    host.driver.signal(&id, libc::SIGKILL).await.unwrap();
    host.wait(&id).await;
    let of_program = lines(&log_dir, LogStream::Stdout);
    let of_command = String::from_utf8(exec.stdout).unwrap();
    let pick = |lines: Vec<String>| -> Vec<String> {
        let wanted = ["Max core", "Max open files", "Umask"];
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        lines
            .iter()
            .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
            .map(words)
            .collect()
    };
    let of_program = pick(of_program);
    assert_eq!(
        of_program,
        pick(of_command.lines().map(str::to_owned).collect())
    );
    assert!(
        of_program[0].starts_with("Max core file size 0 0"),
        "{of_program:?}"
    );
    assert_eq!(of_program[2], "Umask: 0022");
    host.remove(&id).await;
}

async fn a_working_directory_in_proc_is_refused(host: &Host) {
    for workdir in [
        "/proc/self/fd/7",
        "//proc/1/cwd",
        "/./proc/self/fd/8/../../",
    ] {
        let mut config = host.machine("pwd");
        workdir.clone_into(&mut config.process.workdir);
        let error = host.driver.launch(config).await.unwrap_err();
        assert!(
            matches!(error, DriverError::Refused(_)),
            "{workdir}: {error}"
        );
    }
}

async fn links_of_the_image_do_not_lead_files_out_of_it(host: &Host) {
    let outside = host.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("hosts"), "mine").unwrap();
    let layer = host.dir.path().join("layers/hostile");
    std::fs::create_dir_all(layer.join("etc")).unwrap();
    for (target, name) in [
        (outside.join("hosts"), "etc/hosts"),
        (
            "/../../../../../../proc/self/root/etc/resolv.conf".into(),
            "etc/resolv.conf",
        ),
        (outside.clone(), "work"),
    ] {
        symlink(target, layer.join(name)).unwrap();
    }
    let mut config = host.machine("cat /etc/hosts");
    layers(&mut config).push(layer);
    let (exit, text) = host.run(config.clone()).await;
    assert_eq!(exit.exit_code, 0);
    assert!(text.contains("localhost"), "{text}");
    assert_eq!(
        std::fs::read_to_string(outside.join("hosts")).unwrap(),
        "mine"
    );
    // A link to nowhere, seen from inside: not a directory, and not the host's.
    config.process.workdir = "/work".to_owned();
    let error = host.driver.launch(config).await.unwrap_err();
    assert!(matches!(error, DriverError::Refused(_)), "{error}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

/// The host's user whom a user namespace belongs to (`ioctl_nsfs(2)`).
#[expect(unsafe_code, reason = "the kernel says it by an ioctl only")]
fn owner_of_user_namespace(namespace: &std::fs::File) -> u32 {
    use std::os::fd::AsRawFd as _;
    const NS_GET_OWNER_UID: libc::c_ulong = 0xB704;
    let mut owner: libc::uid_t = 0;
    // SAFETY: the descriptor is open, and the kernel writes one user id.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    owner
}
