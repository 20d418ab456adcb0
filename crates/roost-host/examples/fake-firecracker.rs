//! A Firecracker and its jailer for tests of the driver: processes that do what
//! the driver can see of the real ones, or fail in ways that those do not on demand.
//!
//! It is what it is called as: `jailer` makes itself `firecracker`, which serves
//! the API in its working directory as the real one does in its root. `behavior.json`
//! beside the program says how, `requests.jsonl` gets what was asked. Called as
//! `hold` it is a caller of the driver that can be killed.

use roost_host::vmm::firecracker::{Firecracker, FirecrackerOptions};
use roost_host::vmm::kernel::{GuestKernel, KernelFlavor};
use roost_host::vmm::{Hypervisor as _, VmConfig, VmOwner};
use roost_model::size::ByteSize;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Longest body of a request.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Time between listening and filtering.
const FILTER_DELAY: Duration = Duration::from_millis(20);
/// Exit code for a system call that the filter forbids, as of the real one.
const EXIT_FORBIDDEN_CALL: i32 = 148;

#[expect(unsafe_code, reason = "filters of system calls have no safe wrapper")]
mod sys {
    use std::io;

    /// Puts a filter that forbids nothing on this thread and those it starts.
    pub(super) fn install_filter() -> io::Result<()> {
        let allow = libc::sock_filter {
            // `BPF_RET | BPF_K`
            code: 6,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        };
        let mut filter = [allow];
        let program = libc::sock_fprog {
            len: 1,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the program and its one statement are alive for the call,
        // which copies them; the other call passes numbers.
        let result = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let program = PathBuf::from(args.first().map_or("", String::as_str));
    let name = program.file_name().unwrap_or_default().to_owned();
    let dir = program.parent().unwrap_or(Path::new("/")).to_owned();
    let result = match name.to_str() {
        Some("jailer") => run_jailer(&dir, &args),
        Some("firecracker") => run_firecracker(&dir, &args),
        Some("hold") => hold(&dir),
        _ => Err(io::Error::other("called by an unknown name")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}: {error}", name.display());
            ExitCode::FAILURE
        }
    }
}

fn run_jailer(dir: &Path, args: &[String]) -> io::Result<()> {
    let behavior = Behavior::read(dir)?;
    if args.iter().any(|arg| arg == "--version") {
        return writeln!(io::stdout(), "Jailer v{}", behavior.text("jailer_version"));
    }
    behavior.record("jailer", &json!(args[1..]))?;
    if behavior.text("jailer") == "refuse" {
        return Err(io::Error::other("cannot make a jail"));
    }
    let value = |name: &str| {
        let position = args.iter().position(|arg| arg == name);
        let value = position.and_then(|position| args.get(position + 1));
        value.ok_or_else(|| io::Error::other(format!("{name} is missing")))
    };
    let program = PathBuf::from(value("--exec-file")?);
    let own_name = program.file_name().unwrap_or_default();
    let root = Path::new(value("--chroot-base-dir")?)
        .join(own_name)
        .join(value("--id")?)
        .join("root");
    let rest = args.iter().skip_while(|arg| *arg != "--").skip(1);
    Err(Command::new(&program).args(rest).current_dir(root).exec())
}

fn run_firecracker(dir: &Path, args: &[String]) -> io::Result<()> {
    let behavior = Behavior::read(dir)?;
    if args.iter().any(|arg| arg == "--version") {
        let version = behavior.text("firecracker_version");
        return writeln!(
            io::stdout(),
            "Firecracker v{version}\n\nSupported snapshot data format versions: v4.0.0"
        );
    }
    behavior.record("firecracker", &json!(args[1..]))?;
    let mut log = OpenOptions::new().write(true).open("log")?;
    writeln!(log, "[main] a word of warning")?;
    let listener = UnixListener::bind("api.sock")?;
    // As the real one, which listens first.
    std::thread::sleep(FILTER_DELAY);
    if behavior.text("filter") == "yes" {
        sys::install_filter()?;
    }
    for stream in listener.incoming() {
        serve(&behavior, &stream?)?;
    }
    Ok(())
}

/// Starts a VM, says which process it is, and keeps it until it is killed.
fn hold(dir: &Path) -> io::Result<()> {
    let firecracker = Firecracker::new(FirecrackerOptions {
        firecracker: Some(dir.join("firecracker")),
        jailer: Some(dir.join("jailer")),
        ..FirecrackerOptions::default()
    });
    let vm_dir = dir.join("held");
    fs::create_dir(&vm_dir)?;
    let config = VmConfig {
        name: "held".to_owned(),
        dir: vm_dir,
        owner: VmOwner {
            uid: 1_879_048_194,
            gid: 1_879_048_194,
        },
        cgroup: None,
        n_cpus: 1,
        memory: ByteSize::mib(128),
        kernel: GuestKernel {
            id: "fake".to_owned(),
            release: "6.12".to_owned(),
            flavor: KernelFlavor::Debian,
            vmlinux: dir.join("vmlinux"),
            initramfs: dir.join("initramfs"),
        },
        drives: Vec::new(),
        nic: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let vm = firecracker
            .launch(&config)
            .await
            .map_err(io::Error::other)?;
        writeln!(io::stdout(), "{}", vm.pid())?;
        std::future::pending().await
    })
}

/// What the test wants.
struct Behavior {
    values: Value,
    requests: PathBuf,
}

impl Behavior {
    fn read(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            values: serde_json::from_slice(&fs::read(dir.join("behavior.json"))?)?,
            requests: dir.join("requests.jsonl"),
        })
    }

    fn text(&self, key: &str) -> &str {
        self.values[key].as_str().unwrap_or_default()
    }

    fn record(&self, request: &str, body: &Value) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.requests)?;
        writeln!(file, "{}", json!([request, body]))
    }
}

/// Answers one request.
#[expect(clippy::exit, reason = "it dies in the middle of an answer")]
fn serve(behavior: &Behavior, mut stream: &UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        // Somebody looked whether anybody listens.
        return Ok(());
    }
    let request = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(io::Error::other("too long a body"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = match length {
        0 => Value::Null,
        _ => serde_json::from_slice(&body)?,
    };
    behavior.record(&request, &body)?;
    match behavior.text(&request) {
        "refuse" => refuse(stream),
        "die" => {
            let _ = writeln!(io::stderr(), "a forbidden call");
            std::process::exit(EXIT_FORBIDDEN_CALL)
        }
        _ => match act(behavior, &request, &body) {
            Ok(()) => stream.write_all(b"HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\n"),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{request}: {error}");
                refuse(stream)
            }
        },
    }
}

fn refuse(mut stream: &UnixStream) -> io::Result<()> {
    let body = json!({ "fault_message": "the fake does not want to" }).to_string();
    write!(
        stream,
        "HTTP/1.1 400 \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What a request does beside being answered.
fn act(behavior: &Behavior, request: &str, body: &Value) -> io::Result<()> {
    let path = |pointer: &str| {
        let path = body.pointer(pointer).and_then(Value::as_str);
        PathBuf::from(path.unwrap_or_default().trim_start_matches('/'))
    };
    match request {
        "PUT /boot-source" => File::open(path("/kernel_image_path")).map(drop),
        "PUT /vsock" => listen_for_agent(behavior.text("agent").to_owned(), &path("/uds_path")),
        "PUT /actions" => writeln!(io::stdout(), "the guest boots"),
        "PUT /snapshot/create" => {
            for key in ["snapshot_path", "mem_file_path"] {
                // It has to be there: the directory is not Firecracker's.
                let path = path(&format!("/{key}"));
                let mut file = OpenOptions::new().write(true).open(path)?;
                file.write_all(key.as_bytes())?;
            }
            Ok(())
        }
        "PUT /snapshot/load" => {
            let state = fs::read_to_string(path("/snapshot_path"))?;
            let memory = fs::read_to_string(path("/mem_backend/backend_path"))?;
            if (state.as_str(), memory.as_str()) != ("snapshot_path", "mem_file_path") {
                return Err(io::Error::other("another snapshot"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn listen_for_agent(behavior: String, path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.and_then(|stream| be_agent(&behavior, stream)) {
                let _ = writeln!(io::stderr(), "agent: {error}");
            }
        }
    });
    Ok(())
}

fn be_agent(behavior: &str, mut stream: UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    match (line.as_str(), behavior) {
        (_, "closed") => Ok(()),
        (_, "garbage") => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n"),
        (_, "endless") => stream.write_all(&[b'7'; 1_024]),
        ("CONNECT 1024\n", _) => {
            // In one piece: the driver must not take the guest's first bytes.
            stream.write_all(b"OK 1073741824\nhello ")?;
            io::copy(&mut reader, &mut stream).map(drop)
        }
        _ => Err(io::Error::other("not the agent's port")),
    }
}
