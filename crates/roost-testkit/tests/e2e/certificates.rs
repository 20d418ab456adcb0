//! A host name of an app's own: issued, served, kept over a crash, replaced, removed.

use rcgen::{CertificateParams, KeyPair};
use roost_testkit::images::nginx;
use roost_testkit::pebble::{self, Pebble};
use roost_testkit::platform::Platform;
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(90);
const HOST: &str = "www.shop.test";

/// A request over HTTPS by a client that trusts this root only.
fn ask(platform: &Platform, root: &Path) -> Output {
    let port = platform.https_port;
    Command::new("curl")
        .args(["-sS", "--max-time", "60", "--cacert"])
        .arg(root)
        .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
        .arg(format!("https://{HOST}:{port}/"))
        .output()
        .unwrap()
}

#[test]
fn a_host_name_gets_a_certificate_keeps_it_over_a_crash_and_takes_one_of_its_owner() {
    skip_unless_possible!();
    if let Some(reason) = pebble::why_not() {
        println!("skipped: {reason}");
        return;
    }
    let platform = Platform::prepare();
    let folder = platform.scratch();
    let server = Pebble::start(&folder, platform.http_port, platform.https_port);
    let settings = ["--acme-directory", &server.directory, "--acme-root"];
    run(platform.up_command().args(settings).arg(&server.root));
    platform.push(&nginx("the shop"), "shop:1");
    let config = folder.join("roost.toml");
    let text = "app = \"shop\"\n[build]\nimage = \"shop:1\"\n[http_service]\ninternal_port = 80\nforce_https = true\n";
    std::fs::write(&config, text).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);

    platform.roost(&["certs", "add", HOST, "-a", "shop"]);
    let show = || platform.roost_json(&["certs", "show", HOST, "-a", "shop"]);
    wait_until("the certificate", MOMENT, || {
        let found = show();
        (found["status"] == "active").then_some(()).ok_or(found)
    });
    assert_eq!(show()["attempts"][0]["method"], "http-01");
    let root = folder.join("issuing-root.pem");
    std::fs::write(&root, server.issuing_root()).unwrap();
    let served = |root: &Path| {
        wait_until("the page", MOMENT, || {
            let output = ask(&platform, root);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.contains("the shop") {
                Ok(())
            } else {
                Err(output)
            }
        });
    };
    served(&root);
    platform.kill_roostd();
    run(&mut platform.up_command());
    served(&root);

    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let (own, own_key) = (own.self_signed(&key).unwrap(), folder.join("key.pem"));
    let own_chain = folder.join("own.pem");
    std::fs::write(&own_chain, own.pem()).unwrap();
    std::fs::write(&own_key, key.serialize_pem()).unwrap();
    let (chain, key) = (own_chain.to_str().unwrap(), own_key.to_str().unwrap());
    let upload = ["certs", "add", HOST, "-a", "shop", "--cert", chain, "--key"];
    let wrong = [&upload[..], &[server.root.to_str().unwrap()]].concat();
    let refused = platform.cli(&wrong).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("certificate-invalid"), "{text}");
    platform.roost(&[&upload[..], &[key]].concat());
    served(&own_chain);
    assert!(!ask(&platform, &root).status.success());

    platform.roost(&["certs", "remove", HOST, "-a", "shop", "--yes"]);
    wait_until("the name to be gone", MOMENT, || {
        let output = ask(&platform, &own_chain);
        if output.status.success() {
            Err(output)
        } else {
            Ok(())
        }
    });
    let listed = platform.roost_json(&["certs", "list", "-a", "shop"]);
    assert_eq!(listed.as_array().unwrap().len(), 0);
}
