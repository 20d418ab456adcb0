//! The seeds of the fuzz target `log_line`: whatever a machine prints, each line is one record.

use roost_observe::limits::LogLimits;
use roost_observe::writer::{LogIdentity, LogWriter};
use roost_proto::logs::{LogRecord, LogStream};
use std::path::Path;

#[test]
fn each_line_becomes_a_record_that_reads_back() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/log_line");
    for seed in std::fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let identity = LogIdentity {
            app: "app".into(),
            machine: "machine".into(),
            region: "local".into(),
        };
        let mut writer = LogWriter::open(dir.path(), identity, LogLimits::default()).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let n_lines = lines.clone().count();
        for line in lines {
            writer.write_line(LogStream::Stdout, line);
        }
        let segment = std::fs::read_dir(dir.path()).unwrap().next().unwrap();
        let text = std::fs::read_to_string(segment.unwrap().path()).unwrap();
        let records: Vec<LogRecord> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records.len(), n_lines, "{}", path.display());
        assert!(records.iter().all(|record| record.app == "app"));
    }
}
