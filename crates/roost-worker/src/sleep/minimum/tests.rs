//! For how long machines are missed before others are woken.

use super::{Alike, Lacks};
use roost_model::name::{AppName, RegionCode};
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn a_lack_that_is_over_before_long_wakes_nobody_however_often_it_comes() {
    let (web, other) = ["web", "other"].map(alike).into();
    let second = |n| Duration::from_secs(n);
    let (begun, mut lacks) = (Instant::now(), Lacks::default());
    for n in [0, 40, 80] {
        assert!(!lacks.lasts(&web, second(30), begun + second(n)));
        assert!(!lacks.lasts(&web, second(30), begun + second(n + 29)));
        lacks.0.remove(&web);
    }
    assert!(!lacks.lasts(&web, second(30), begun + second(120)));
    assert!(!lacks.lasts(&other, second(30), begun + second(149)));
    assert!(lacks.lasts(&web, second(30), begun + second(150)));
    assert!(!lacks.lasts(&web, second(60), begun + second(150)));
}

fn alike(app: &str) -> Alike {
    let region = RegionCode::parse("fra").unwrap();
    (AppName::parse(app).unwrap(), region, vec![])
}
