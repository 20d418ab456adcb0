//! What a machine's program finds when it starts, and what is refused.

use crate::host::{Host, layers};
use roost_host::driver::{DriverError, MachineDriver as _};
use roost_model::machine::MachineFile;
use roost_model::size::ByteSize;
use roost_proto::logs::LogStream;
use roost_testkit::logs::lines;

with_both_runtimes!(
    a_program_gets_its_environment_directory_and_host_name,
    users_are_found_by_name_and_number,
    a_missing_user_is_refused_by_name,
    a_missing_program_is_refused_by_name,
    a_file_that_is_no_program_is_refused_by_name,
    files_are_written_and_never_through_links,
    many_layers_are_stacked_in_order,
    two_starts_begin_with_the_same_image,
    swap_that_the_host_does_not_have_is_said_to_be_missing,
);

async fn refusal(host: &Host, config: roost_host::driver::LaunchConfig) -> String {
    let id = config.machine_id.clone();
    let message = match host.driver.launch(config).await {
        Err(DriverError::Refused(message)) => message,
        other => panic!("not refused: {other:?}"),
    };
    let left = host.driver.list().await.unwrap();
    assert!(!left.contains(&id), "a refused machine leaves nothing");
    host.remove(&id).await;
    message
}

async fn a_program_gets_its_environment_directory_and_host_name(host: &Host) {
    let mut config = host.machine("pwd; echo $COLOUR $HOME; echo $PATH; cat /proc/sys/kernel/hostname /etc/hostname; cat /etc/hosts; ls -ld /srv/here");
    config.process.workdir = "/srv/here".to_owned();
    let id = config.machine_id.clone();
    let (exit, output) = host.run(config).await;
    assert_eq!(exit.exit_code, 0, "{output}");
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("/srv/here"));
    assert_eq!(lines.next(), Some("blue /root"));
    assert!(lines.next().unwrap().contains("/usr/bin:"));
    assert_eq!(lines.next(), Some(id.as_str()));
    assert_eq!(lines.next(), Some(id.as_str()));
    assert!(output.contains(&format!("10.1.2.3\t{id}")), "{output}");
    host.remove(&id).await;
}

async fn users_are_found_by_name_and_number(host: &Host) {
    let expectations = [
        ("", "uid=0(root) gid=0(root)"),
        (
            "app",
            "uid=1000(app) gid=100(users) groups=100(users),200(extra)",
        ),
        (
            "1000",
            "uid=1000(app) gid=100(users) groups=100(users),200(extra)",
        ),
        ("app:extra", "uid=1000(app) gid=200(extra)"),
        ("4242", "uid=4242 gid=4242"),
    ];
    for (user, expected) in expectations {
        let mut config = host.machine("id; echo $HOME");
        config.process.user = user.to_owned();
        let (_, output) = host.run(config).await;
        assert!(output.starts_with(expected), "`{user}`: {output}");
    }
}

async fn a_missing_user_is_refused_by_name(host: &Host) {
    let mut config = host.machine("true");
    config.process.user = "nobody-here".to_owned();
    assert!(refusal(host, config).await.contains("`nobody-here`"));
}

async fn a_missing_program_is_refused_by_name(host: &Host) {
    let mut config = host.machine("");
    config.process.args = vec!["no-such-program".to_owned()];
    assert!(refusal(host, config).await.contains("`no-such-program`"));
}

async fn a_file_that_is_no_program_is_refused_by_name(host: &Host) {
    let mut config = host.machine("");
    config.process.args = vec!["/data/plain".to_owned()];
    assert!(
        refusal(host, config)
            .await
            .contains("`/data/plain` of the image is not an executable")
    );
}

async fn files_are_written_and_never_through_links(host: &Host) {
    let outside = host.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink(outside.join("victim"), host.layer().join("etc/link")).unwrap();
    std::os::unix::fs::symlink(&outside, host.layer().join("data/dir")).unwrap();
    let mut config =
        host.machine("cat /etc/link /opt/new/secret; stat -c '%a %u' /opt/new/secret; ls /data");
    let file = |path: &str, content: &str| MachineFile {
        guest_path: path.to_owned(),
        content: content.as_bytes().to_vec(),
        mode: 0o640,
    };
    config.files = vec![file("/etc/link", "one\n"), file("/opt/new/secret", "two\n")];
    let (exit, output) = host.run(config).await;
    assert_eq!(
        (exit.exit_code, output.starts_with("one\ntwo\n640 0\n")),
        (0, true),
        "{output}"
    );
    assert_eq!(
        std::fs::read_to_string(outside.join("victim")).unwrap(),
        "untouched"
    );

    for path in ["/data/dir/planted", "/data/../../planted", "relative"] {
        let mut config = host.machine("true");
        config.files = vec![file(path, "bad")];
        let message = refusal(host, config).await;
        assert!(
            message.contains(path) || message.contains("/data/dir"),
            "{message}"
        );
    }
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        1,
        "a file was planted"
    );
}

async fn many_layers_are_stacked_in_order(host: &Host) {
    let mut config = host.machine("cat /data/number; ls /data/each | head -n 200 | grep -c .");
    for number in 0..127 {
        let layer = host
            .dir
            .path()
            .join(format!("a-rather-long-directory-name-for-a-layer/{number}"));
        std::fs::create_dir_all(layer.join("data/each")).unwrap();
        std::fs::write(layer.join("data/number"), format!("{number}\n")).unwrap();
        std::fs::write(layer.join(format!("data/each/{number}")), "").unwrap();
        layers(&mut config).push(layer);
    }
    // The same layer twice, as images have empty ones.
    layers(&mut config).extend_from_within(..1);
    let (_, output) = host.run(config).await;
    assert_eq!(output, "126\n127");
}

async fn two_starts_begin_with_the_same_image(host: &Host) {
    let config = host.machine("ls /data; touch /data/left-behind");
    let (_, first) = host.run(config.clone()).await;
    let (_, second) = host.run(config).await;
    assert!(!first.contains("left-behind"));
    assert!(!second.contains("left-behind"), "{second}");
}

async fn swap_that_the_host_does_not_have_is_said_to_be_missing(host: &Host) {
    let devices = std::fs::read_to_string("/proc/swaps").unwrap();
    let host_swaps = devices.lines().count() > 1;
    for (mib, is_missing) in [(0, false), (64, !host_swaps)] {
        let mut config = host.machine("true");
        config.swap = ByteSize::mib(mib);
        let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
        host.run(config).await;
        let said = lines(&log_dir, LogStream::System).join("\n");
        assert_eq!(said.contains("this host has no swap"), is_missing, "{said}");
        host.remove(&id).await;
    }
}
