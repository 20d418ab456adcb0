//! A `roostd` that takes over and does not get far, in the words of the real ones.

use crate::platform::Platform;
use crate::program::run;
use crate::wait::wait_until;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longer than a restart takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(300);

/// Holds what `roostd` gave, and is never ready. Dropping it is its end.
#[derive(Debug)]
pub struct AnotherRoostd(UnixStream);

/// Has `roostd` give away its worker and its API, to nobody who looks after them.
pub fn hand_over_to_nobody(platform: &Platform) -> AnotherRoostd {
    let stream = UnixStream::connect(platform.run_dir().join("takeover.sock"))
        .expect("roostd listens for the one that takes over");
    stream.set_read_timeout(Some(MOMENT)).unwrap();
    let mut other = AnotherRoostd(stream);
    other.send(&json!({"hello": {"version": "0"}}));
    loop {
        match other.receive() {
            Value::String(all) if all == "all" => return other,
            // The descriptors, which are not asked for, are closed by the kernel.
            message if message.get("sockets").is_some() => other.send(&json!("taken")),
            message => assert!(message.get("yours").is_some(), "{message}"),
        }
    }
}

impl AnotherRoostd {
    fn send(&mut self, message: &Value) {
        let json = message.to_string();
        let length = u32::try_from(json.len()).unwrap().to_be_bytes();
        self.0.write_all(&length).unwrap();
        self.0.write_all(json.as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut json = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut json).unwrap();
        serde_json::from_slice(&json).unwrap()
    }
}

impl Platform {
    /// Replaces `roostd` by another process of the same program.
    pub fn restart(&self) {
        run(self.up_command().arg("--restart"));
    }

    /// Waits until the `roostd` that was replaced has ended.
    pub fn until_left(&self) {
        let path = self.data_dir().join("roostd.leaving");
        wait_until("the roostd before to end", MOMENT, || {
            let file = std::fs::File::options().write(true).open(&path);
            file.map_err(|error| error.to_string())?
                .try_lock()
                .map_err(|error| error.to_string())
        });
    }
}
