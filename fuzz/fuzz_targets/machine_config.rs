//! Machine configs, schedules and splits that users send: what is accepted is kept as it was.
#![no_main]

use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::schedule::Schedule;
use roost_model::split::Split;
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};

fn identity() -> MachineIdentity {
    MachineIdentity {
        app: AppName::parse("web").expect("a name"),
        name: MachineName::parse("web-1").expect("a name"),
        region: RegionCode::parse("local").expect("a region"),
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(config) = serde_json::from_str::<MachineConfig>(text)
        && let Ok(spec) = config.to_spec(identity())
    {
        let kept = serde_json::to_string(&MachineConfig::from(&spec)).expect("text keys only");
        let kept: MachineConfig = serde_json::from_str(&kept).expect("what was kept is read");
        assert_eq!(kept.to_recorded_spec(identity()), Ok(spec));
    }
    if let Ok(schedule) = Schedule::parse(text) {
        let now = Timestamp::from_ms(1_800_000_000_000);
        if let Some(next) = schedule.next_after(now, now) {
            assert!(next > now);
        }
        assert_eq!(Schedule::parse(&schedule.to_string()), Ok(schedule));
    }
    if let Ok(split) = Split::parse(text) {
        assert_eq!(Split::parse(&split.to_string()), Ok(split));
    }
});
