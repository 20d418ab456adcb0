//! An order through an authority in memory, and every decision on the way.

use super::{Authority, AuthorityError, Next, Order, Seen, Step, advance, begin, next};
use crate::challenge::{Challenge, Method};
use crate::limits;
use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::host_name::HostName;
use roost_model::time::Timestamp;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

fn host() -> HostName {
    HostName::parse("www.example.com").unwrap()
}

fn challenge(token: &str) -> Challenge {
    Challenge {
        token: token.into(),
        key_authorization: format!("{token}.thumb"),
    }
}

/// An authority that proves a name as soon as it is told.
#[derive(Default)]
struct Simple {
    calls: Mutex<Vec<&'static str>>,
}

impl Simple {
    fn did(&self, call: &'static str) -> bool {
        self.calls.lock().contains(&call)
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().push(call);
    }
}

#[async_trait]
impl Authority for Simple {
    async fn order(&self, _: &HostName) -> Result<String, AuthorityError> {
        self.note("order");
        Ok("https://ca/1".into())
    }
    async fn look(&self, _: &str, _: Method) -> Result<Seen, AuthorityError> {
        if self.did("finalise") {
            return Ok(Seen::Valid);
        }
        if self.did("tell") {
            return Ok(Seen::Ready);
        }
        Ok(Seen::Pending(Some(challenge("t"))))
    }
    async fn tell(&self, _: &str, _: Method) -> Result<(), AuthorityError> {
        self.note("tell");
        Ok(())
    }
    async fn finalise(&self, _: &str, request: &[u8]) -> Result<(), AuthorityError> {
        assert!(!request.is_empty());
        self.note("finalise");
        Ok(())
    }
    async fn fetch(&self, _: &str) -> Result<String, AuthorityError> {
        self.note("fetch");
        Ok("chain".into())
    }
    async fn revoke(&self, _: &str) -> Result<(), AuthorityError> {
        unreachable!()
    }
}

/// As it is after a restart: only what was recorded.
fn restored(order: &Order) -> Order {
    serde_json::from_str(&serde_json::to_string(order).unwrap()).unwrap()
}

#[tokio::test]
async fn an_order_goes_from_its_record_to_the_certificate_whatever_is_killed_between() {
    let authority = Simple::default();
    let mut order = begin(&authority, &host(), Method::Http01, NOW)
        .await
        .unwrap();
    let key = order.key.clone();
    for _ in 0..10 {
        order = restored(&order);
        let told_before = authority.did("tell");
        let step = advance(&authority, &host(), &mut order, NOW).await.unwrap();
        assert!(
            told_before || !authority.did("tell") || restored(&order).challenge.is_some(),
            "the answer is recorded before the authority is told"
        );
        if let Step::Issued(certificate) = step {
            assert_eq!(
                (certificate.chain.as_str(), &certificate.key),
                ("chain", &key)
            );
            let calls = authority.calls.lock().clone();
            assert_eq!(calls, ["order", "tell", "finalise", "fetch"]);
            return;
        }
    }
    panic!("no certificate: {order:?}");
}

#[tokio::test]
async fn each_state_of_an_order_leads_to_one_thing() {
    let authority = Simple::default();
    let fresh = begin(&authority, &host(), Method::TlsAlpn01, NOW)
        .await
        .unwrap();
    assert!(!format!("{fresh:?}").contains("PRIVATE"), "{fresh:?}");
    let answered = Order {
        challenge: Some(challenge("t")),
        ..fresh.clone()
    };
    let told = Order {
        is_told: true,
        ..answered.clone()
    };
    let pending = |token| Seen::Pending(Some(challenge(token)));
    let late = NOW.after(limits::ORDER_MAX + Duration::from_millis(1));
    assert_eq!(
        next(&fresh, pending("t"), NOW),
        Next::Answer(challenge("t"))
    );
    assert_eq!(next(&answered, pending("t"), NOW), Next::Tell);
    assert_eq!(next(&told, pending("t"), NOW), Next::Wait);
    assert_eq!(next(&told, pending("u"), NOW), Next::Answer(challenge("u")));
    assert_eq!(next(&told, Seen::Processing, NOW), Next::Wait);
    assert_eq!(next(&told, Seen::Ready, late), Next::Finalise);
    assert_eq!(next(&told, Seen::Valid, late), Next::Fetch);
    assert_eq!(
        next(&told, Seen::Invalid("x".into()), NOW),
        Next::GiveUp("x".into())
    );
    for seen in [pending("t"), Seen::Processing] {
        let Next::GiveUp(why) = next(&told, seen, late) else {
            panic!("waits for ever");
        };
        assert!(why.contains("10 minutes"), "{why}");
    }
    let Next::GiveUp(why) = next(&fresh, Seen::Pending(None), NOW) else {
        panic!("goes on without a challenge");
    };
    assert!(why.contains("tls-alpn-01"), "{why}");
}
