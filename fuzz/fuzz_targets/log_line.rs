//! Lines that machines print: each becomes one record that reads back.
#![no_main]

use roost_observe::limits::LogLimits;
use roost_observe::writer::{LogIdentity, LogWriter};
use roost_proto::logs::{LogRecord, LogStream};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let identity = LogIdentity {
        app: "app".into(),
        machine: "machine".into(),
        region: "local".into(),
    };
    let limits = LogLimits::default();
    let mut writer = LogWriter::open(dir.path(), identity, limits).expect("the folder is writable");
    let mut n_lines = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        writer.write_line(LogStream::Stdout, line);
        n_lines += 1;
    }
    let mut n_records = 0;
    for entry in std::fs::read_dir(dir.path()).expect("the folder is readable") {
        let path = entry.expect("the folder is readable").path();
        let text = std::fs::read_to_string(path).expect("records are text");
        for line in text.lines() {
            let record: LogRecord = serde_json::from_str(line).expect("a line is a record");
            assert!(!record.truncated || record.message.len() <= 3 * limits.line_bytes_max);
            n_records += 1;
        }
    }
    // What is beyond the limits of a machine is left out, and the log says so.
    assert!(n_records > 0 || n_lines == 0, "{n_records} of {n_lines}");
});
