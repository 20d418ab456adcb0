//! What edges say to each other, and what is refused of it.

use super::{Block, Failed, Kind, Leg, OfFile, RELAY, Reason, Verdict, WireError};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use proptest::prelude::{Just, Strategy as _, any, prop_oneof};
use roost_model::id::MachineId;
use roost_model::name::AppName;
use std::time::Duration;

fn headers(value: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(RELAY, value)])
}

#[test]
fn a_static_file_is_an_answer_also_to_who_does_not_know_of_it() {
    let file = headers(OfFile::value());
    assert_eq!(Verdict::of(&file), Ok(Verdict::Answer));
    assert_eq!(OfFile::of(&file), Some(OfFile));
    assert_eq!(OfFile::of(&headers(Verdict::Answer.value())), None);
    assert_eq!(OfFile::of(&HeaderMap::new()), None);
}

fn block() -> Block {
    Block {
        kind: Kind::WebSocket,
        app: AppName::parse("web").unwrap(),
        machine: MachineId::from_bytes([1; 7]),
        port: 443,
        client: "[2001:db8::1]:0".parse().unwrap(),
        local: "192.0.2.1:8443".parse().unwrap(),
        is_tls: true,
        version: Version::HTTP_2,
        region: "fra".to_owned(),
        id: ulid::Ulid::from(5_u128),
        at_us: 1_767_225_600_000_000,
        leg: Leg {
            hop: 1,
            attempt: 3,
            wait: Duration::from_millis(250),
        },
    }
}

#[test]
fn a_block_is_read_as_it_was_written() {
    assert_eq!(Block::of(&headers(block().value())), Ok(block()));
}

#[test]
fn a_block_of_another_version_or_two_or_none_is_refused() {
    let text = block().value().to_str().unwrap().to_owned();
    let other = text.replacen("1;", "2;", 1);
    let read = |text: &str| Block::of(&headers(HeaderValue::from_str(text).unwrap()));
    assert_eq!(read(&other), Err(WireError::Version));
    assert_eq!(read("nonsense"), Err(WireError::Version));
    assert_eq!(read("1;kind=http"), Err(WireError::Field("app")));
    let port = text.replace("port=443", "port=70000");
    assert_eq!(read(&port), Err(WireError::Field("port")));
    assert_eq!(Block::of(&HeaderMap::new()), Err(WireError::Missing));
    let mut two = headers(block().value());
    two.append(RELAY, block().value());
    assert_eq!(Block::of(&two), Err(WireError::Missing));
    // What a later minor version adds is passed over.
    assert_eq!(read(&format!("{text};more=1")), Ok(block()));
}

proptest::proptest! {
    #[test]
    fn verdicts_are_read_as_they_were_written(verdict in prop_oneof![
        Just(Verdict::Answer),
        (100_u16..600).prop_map(|it| Verdict::Enclosed(StatusCode::from_u16(it).unwrap())),
        ("[ -:<-~]{0,80}", 0..Reason::ALL.len())
            .prop_map(|(why, it)| Verdict::Elsewhere(Reason::ALL[it], why)),
        ("[ -:<-~]{0,80}", 0..Failed::ALL.len())
            .prop_map(|(why, it)| Verdict::Failed(Failed::ALL[it], why)),
    ]) {
        proptest::prop_assert_eq!(Verdict::of(&headers(verdict.value())), Ok(verdict));
    }

    #[test]
    fn nothing_that_is_sent_is_more_than_refused(bytes in any::<Vec<u8>>()) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let headers = headers(value);
            let _ = (Block::of(&headers), Verdict::of(&headers));
        }
    }

    #[test]
    fn any_words_may_be_said(why in any::<String>()) {
        let verdict = Verdict::Elsewhere(Reason::Gone, why);
        let read = Verdict::of(&headers(verdict.value()));
        let is_it = matches!(read, Ok(Verdict::Elsewhere(Reason::Gone, _)));
        proptest::prop_assert!(is_it);
    }
}
