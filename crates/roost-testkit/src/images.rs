//! Real images, made on the spot from Debian packages and files.
//!
//! An image is written as an OCI layout folder, which `skopeo` pushes. What
//! takes long (unpacking packages) is kept under `target/testkit/`.

use crate::program::{build_dir, run};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image in the making: layers as plain tars, lowest first.
#[derive(Debug, Clone, Default)]
pub struct ImageBuilder {
    layers: Vec<Vec<u8>>,
    config: serde_json::Map<String, serde_json::Value>,
    architecture: Option<String>,
}

impl ImageBuilder {
    /// An image with no layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer that is already a tar.
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// Adds a layer of these files: path, mode, content.
    #[must_use]
    pub fn files(self, files: &[(&str, u32, &[u8])]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_uid(0);
            header.set_gid(0);
            if path.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
            } else {
                header.set_size(content.len() as u64);
            }
            tar.append_data(&mut header, path, *content)
                .expect("writing to memory");
        }
        let tar = tar.into_inner().expect("writing to memory");
        self.layer(tar)
    }

    /// Sets a member of the image config's `config`: `Cmd`, `Env`, `User`, …
    #[must_use]
    pub fn config(mut self, key: &str, value: serde_json::Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    /// Claims another CPU than this host's.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = Some(architecture.into());
        self
    }

    /// Writes an OCI layout with one image tagged `latest`.
    pub fn write_layout(&self, dir: &Path) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for tar in &self.layers {
            diff_ids.push(digest(tar));
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            layers.push(put_blob(dir, &gzip.finish().unwrap(), media_type));
        }
        let config = json!({
            "architecture": self.architecture.as_deref().unwrap_or(host_architecture()),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            // Buildah takes no image as a base that says nothing of its layers.
            "history": vec![json!({"created_by": "test"}); layers.len()],
        });
        let config = put_blob(
            dir,
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        let mut manifest = put_blob(dir, manifest.to_string().as_bytes(), media_type);
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// The architecture word of the OCI specification for this host.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn put_blob(dir: &Path, bytes: &[u8], media_type: &str) -> serde_json::Value {
    let digest = digest(bytes);
    fs::write(
        dir.join("blobs/sha256").join(&digest["sha256:".len()..]),
        bytes,
    )
    .unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// A root file system with one Debian package and what it depends on, as a tar.
///
/// Made once per build folder; several tests at once wait for the first.
pub fn debian_package_tar(package: &str) -> Vec<u8> {
    let dir = build_dir().join("testkit");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{package}.tar"));
    let _lock = FileLock::take(&dir.join(format!("{package}.lock")));
    if !path.exists() {
        let partial = dir.join(format!("{package}.partial.tar"));
        run(Command::new("mmdebstrap")
            .args([
                "--quiet",
                "--variant=extract",
                &format!("--include={package}"),
            ])
            .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "bookworm"])
            .arg(&partial));
        fs::rename(&partial, &path).unwrap();
    }
    fs::read(&path).unwrap()
}

/// A lock between processes that ends with its holder.
#[derive(Debug)]
struct FileLock(#[expect(dead_code, reason = "held for its lock")] nix::fcntl::Flock<fs::File>);

impl FileLock {
    fn take(path: &Path) -> Self {
        let file = fs::File::create(path).unwrap();
        assert!(file.as_raw_fd() >= 0);
        let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .expect("lock a file of our own");
        Self(lock)
    }
}

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nredis:x:100:101::/var/lib/redis:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nadm:x:4:\nwww-data:x:33:\nredis:x:101:\nnogroup:x:65534:\n";

const NGINX_CONF: &str = r#"
user www-data;
daemon off;
worker_processes 1;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log /dev/stdout;
    server {
        listen 80;
        root /srv;
        keepalive_requests 100000;
    }
}
"#;

/// nginx from its Debian package, which answers `/` with `page` on port 80.
pub fn nginx(page: &str) -> ImageBuilder {
    ImageBuilder::new()
        .layer(debian_package_tar("nginx-light"))
        .files(&[
            ("etc/passwd", 0o644, PASSWD),
            ("etc/group", 0o644, GROUP),
            ("etc/nginx/nginx.conf", 0o644, NGINX_CONF.as_bytes()),
            ("var/log/nginx/", 0o755, b""),
            ("run/", 0o755, b""),
            ("srv/index.html", 0o644, page.as_bytes()),
        ])
        .config("Cmd", json!(["/usr/sbin/nginx"]))
        .config("StopSignal", json!("SIGQUIT"))
        .config("ExposedPorts", json!({"80/tcp": {}}))
}

/// Redis from its Debian package, on port 6379, as its own user by name.
pub fn redis() -> ImageBuilder {
    ImageBuilder::new()
        .layer(debian_package_tar("redis-server"))
        .files(&[
            ("etc/passwd", 0o644, PASSWD),
            ("etc/group", 0o644, GROUP),
            ("tmp/", 0o1777, b""),
        ])
        .config("User", json!("redis"))
        .config("WorkingDir", json!("/tmp"))
        .config(
            "Cmd",
            json!([
                "/usr/bin/redis-server",
                "--bind",
                "0.0.0.0",
                "--protected-mode",
                "no",
                "--save",
                ""
            ]),
        )
}

/// Python from its Debian package, which runs this script as its main program.
pub fn python(script: &str) -> ImageBuilder {
    ImageBuilder::new()
        .layer(debian_package_tar("python3-minimal"))
        .files(&[
            ("etc/passwd", 0o644, PASSWD),
            ("etc/group", 0o644, GROUP),
            ("tmp/", 0o1777, b""),
            ("srv/main.py", 0o644, script.as_bytes()),
        ])
        .config("Cmd", json!(["/usr/bin/python3", "-u", "/srv/main.py"]))
}

/// The statically linked busybox of its Debian package, with `sh` and friends.
pub fn busybox() -> ImageBuilder {
    let binary =
        fs::read("/bin/busybox").expect("busybox-static is installed by scripts/setup --tests");
    let links = [
        "sh", "cat", "echo", "sleep", "httpd", "id", "ls", "wget", "nc", "ip", "true", "false",
        "env",
    ];
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(binary.len() as u64);
    tar.append_data(&mut header, "bin/busybox", binary.as_slice())
        .unwrap();
    for name in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    ImageBuilder::new()
        .layer(tar.into_inner().unwrap())
        .files(&[
            ("etc/passwd", 0o644, PASSWD),
            ("etc/group", 0o644, GROUP),
            ("tmp/", 0o1777, b""),
        ])
        .config("Env", json!(["PATH=/bin"]))
}

/// A folder for layouts of this test process.
pub fn layout_dir(temp: &Path, name: &str) -> PathBuf {
    temp.join("layouts").join(name)
}
