//! A shim that only greets and answers stands for one between two states.

use super::{ShimConfig, Shims};
use crate::instance::InstanceTag;
use crate::net::addresses::NodeNetwork;
use crate::net::linux::{LinuxPlumber, NetConfig};
use roost_model::id::MachineId;
use roost_proto::shim::{ShimEvent, lock_path, socket_path};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

struct Fixture {
    dir: tempfile::TempDir,
    shims: Shims,
    id: MachineId,
    /// Held as a shim holds it.
    _lock: File,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tag = InstanceTag::parse("1a2b").unwrap();
        let shims = Shims::open(ShimConfig {
            tag,
            run_dir: dir.path().join("run"),
            data_dir: dir.path().join("data"),
            plumber: Arc::new(LinuxPlumber::new(NetConfig {
                tag,
                network: NodeNetwork::choose(tag, &[]).unwrap(),
                sysctl_record: dir.path().join("sysctls"),
            })),
        });
        let (shims, id) = (shims.unwrap(), MachineId::parse("00000000000001").unwrap());
        shims.make_dirs(&id).unwrap();
        let lock = File::create(lock_path(&shims.run_dir(&id))).unwrap();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        Self {
            dir,
            shims,
            id,
            _lock: lock,
        }
    }

    /// Serves connections: greets each with the next greeting, the last one for
    /// ever, and answers each command with `Signalled`.
    fn serve(&self, greetings: Vec<ShimEvent>) -> JoinSet<()> {
        // A relative path would do; a long one would not.
        assert!(self.dir.path().as_os_str().len() < 60);
        let listener = UnixListener::bind(socket_path(&self.shims.run_dir(&self.id))).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            for n in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let greeting = greetings[n.min(greetings.len() - 1)].clone();
                conversations.spawn(converse(stream, greeting));
            }
        });
        tasks
    }
}

async fn converse(stream: UnixStream, greeting: ShimEvent) {
    let mut stream = BufReader::new(stream);
    let mut event = greeting;
    loop {
        let mut line = serde_json::to_vec(&event).unwrap();
        line.push(b'\n');
        if stream.get_mut().write_all(&line).await.is_err() {
            return;
        }
        let mut command = String::new();
        if !matches!(stream.read_line(&mut command).await, Ok(1..)) {
            return;
        }
        event = ShimEvent::Signalled;
    }
}

#[tokio::test]
async fn a_suspend_may_take_longer_than_silence() {
    let fixture = Fixture::new();
    let mut greetings = vec![ShimEvent::Suspending; 20];
    greetings.push(ShimEvent::Running { pid: 7 });
    let _serving = fixture.serve(greetings);
    // Twenty looks take longer than this.
    let limit = super::limits::SETTLE_POLL * 4;
    assert_eq!(fixture.shims.settled(&fixture.id, limit).await, Some(7));
}

#[tokio::test]
async fn a_shim_that_lives_and_says_nothing_is_given_up() {
    let fixture = Fixture::new();
    let limit = Duration::from_millis(200);
    assert_eq!(fixture.shims.settled(&fixture.id, limit).await, None);
}

#[tokio::test]
async fn a_machine_that_is_being_suspended_can_be_killed() {
    let fixture = Fixture::new();
    let _serving = fixture.serve(vec![ShimEvent::Suspending]);
    assert_eq!(fixture.shims.running(&fixture.id).await, None);
    let killed = fixture.shims.signal(&fixture.id, libc::SIGKILL).await;
    killed.unwrap();
}
