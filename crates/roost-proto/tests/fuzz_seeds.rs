//! The seeds of the fuzz target `machine_config`: each is what its name says, and is kept as it was.

use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::schedule::Schedule;
use roost_model::split::Split;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use std::path::Path;

/// What a text is, of those that it could be.
fn kind(text: &str) -> &'static str {
    let identity = || MachineIdentity {
        app: AppName::parse("web").expect("a name"),
        name: MachineName::parse("web-1").expect("a name"),
        region: RegionCode::parse("local").expect("a region"),
    };
    if let Ok(config) = serde_json::from_str::<MachineConfig>(text) {
        let Ok(spec) = config.to_spec(identity()) else {
            return "refused";
        };
        let kept = MachineConfig::from(&spec);
        assert_eq!(kept.to_recorded_spec(identity()), Ok(spec));
        return "config";
    }
    if let Ok(schedule) = Schedule::parse(text) {
        assert_eq!(Schedule::parse(&schedule.to_string()), Ok(schedule));
        return "schedule";
    }
    let split = Split::parse(text).expect("the last one is a split");
    assert_eq!(Split::parse(&split.to_string()), Ok(split));
    "split"
}

#[test]
fn what_users_send_is_taken_or_refused() {
    let seeds =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/machine_config");
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        kinds.push((name, kind(&std::fs::read_to_string(&path).unwrap())));
    }
    kinds.sort();
    let expected = [
        ("cron", "schedule"),
        ("full.json", "config"),
        ("services.json", "config"),
        ("split", "split"),
        ("word", "schedule"),
        ("wrong.json", "refused"),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
}
