//! Tickets with the clock moved, files damaged, and bytes of strangers.

use super::{EPOCH, TicketKeys, TicketKeysError};
use crate::seal::SealingKey;
use proptest::prelude::*;
use roost_model::time::Timestamp;
use std::path::Path;
use std::sync::Arc;

/// The beginning of an epoch, some days after the first one.
const BEGIN: Timestamp = Timestamp::from_ms(100 * 12 * 3600 * 1000);

fn sealer(dir: &Path) -> Arc<SealingKey> {
    Arc::new(SealingKey::open_or_create(&dir.join("sealing.key")).unwrap())
}

fn open(dir: &Path, now: Timestamp) -> Result<TicketKeys, TicketKeysError> {
    TicketKeys::open(&dir.join("cluster/tickets"), sealer(dir), now)
}

/// Another node that was given what this one has.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::create_dir(to.path().join("cluster")).unwrap();
    for file in ["sealing.key", "cluster/tickets"] {
        std::fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    to
}

#[test]
fn all_nodes_have_the_same_keys_whenever_they_began_and_began_again() {
    let first = tempfile::tempdir().unwrap();
    let one = open(first.path(), BEGIN).unwrap();
    let second = copy(first.path());
    for epochs in [0, 1, 2, 3, 50] {
        let now = BEGIN.after(EPOCH * epochs);
        one.rotate(now).unwrap();
        let two = open(second.path(), now).unwrap();
        let again = open(first.path(), now).unwrap();
        let ticket = one.seal(b"session").unwrap();
        for other in [&two, &again] {
            assert_eq!(other.open_ticket(&ticket).unwrap(), b"session");
            assert_eq!(one.open_ticket(&other.seal(b"x").unwrap()).unwrap(), b"x");
        }
    }
}

#[test]
fn a_ticket_is_taken_for_a_day_after_its_key_was_replaced_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), BEGIN).unwrap();
    let ticket = keys.seal(b"session").unwrap();
    let almost = EPOCH * 3 - std::time::Duration::from_millis(1);
    keys.rotate(BEGIN.after(almost)).unwrap();
    assert_eq!(keys.open_ticket(&ticket).unwrap(), b"session");
    let name = |keys: &TicketKeys| keys.seal(b"").unwrap()[..16].to_vec();
    assert_ne!(name(&keys)[..], ticket[..16], "another key makes tickets");
    keys.rotate(BEGIN.after(EPOCH * 3)).unwrap();
    assert_eq!(keys.open_ticket(&ticket), None);
}

#[test]
fn clocks_may_differ_by_an_epoch() {
    let first = tempfile::tempdir().unwrap();
    let ahead = open(first.path(), BEGIN.after(EPOCH)).unwrap();
    let second = copy(first.path());
    let behind = open(second.path(), BEGIN).unwrap();
    let ticket = ahead.seal(b"session").unwrap();
    assert_eq!(behind.open_ticket(&ticket).unwrap(), b"session");
    let ticket = behind.seal(b"session").unwrap();
    assert_eq!(ahead.open_ticket(&ticket).unwrap(), b"session");
}

#[test]
fn a_clock_that_is_set_far_back_or_far_ahead_leaves_keys_that_work() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), BEGIN).unwrap();
    for now in [BEGIN.after(EPOCH * 1_000), BEGIN, Timestamp::from_ms(0)] {
        keys.rotate(now).unwrap();
        let ticket = keys.seal(b"session").unwrap();
        assert_eq!(keys.open_ticket(&ticket).unwrap(), b"session");
        let again = open(dir.path(), now).unwrap();
        assert_eq!(again.open_ticket(&ticket).unwrap(), b"session");
    }
    keys.rotate(Timestamp::from_ms(u64::MAX)).unwrap();
    let ticket = keys.seal(b"session").unwrap();
    assert_eq!(keys.open_ticket(&ticket).unwrap(), b"session");
}

#[test]
fn what_is_too_old_is_in_the_file_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), BEGIN).unwrap();
    let ticket = keys.seal(b"session").unwrap();
    keys.rotate(BEGIN.after(EPOCH * 3)).unwrap();
    // Whoever has the file and sets a clock back gets no older key of it.
    let thief = open(copy(dir.path()).path(), BEGIN).unwrap();
    assert_eq!(thief.open_ticket(&ticket), None);
}

#[test]
fn a_damaged_file_is_refused_by_name_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), BEGIN).unwrap();
    let path = dir.path().join("cluster/tickets");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = open(dir.path(), BEGIN).unwrap_err().to_string();
    assert!(error.contains("cluster/tickets"), "{error}");
    assert!(error.contains("remove it"), "{error}");
}

#[test]
fn a_file_that_cannot_be_looked_at_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster/tickets");
    std::fs::create_dir(dir.path().join("cluster")).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let error = open(dir.path(), BEGIN).unwrap_err();
    assert!(matches!(error, TicketKeysError::File(_)), "{error}");
    assert!(path.is_symlink(), "as it was");
}

#[test]
fn keys_of_a_clock_that_was_far_ahead_are_known_as_such_until_it_is_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = open(dir.path(), BEGIN.after(EPOCH * 10)).unwrap();
    for (epochs, is_ahead) in [(0, true), (6, true), (7, false), (10, false)] {
        let now = BEGIN.after(EPOCH * epochs);
        assert_eq!(ahead.is_ahead(now), is_ahead, "{epochs}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again_and_the_keys_are_new_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), BEGIN).unwrap();
    let ticket = keys.seal(b"session").unwrap();
    let cluster = dir.path().join("cluster");
    std::fs::rename(&cluster, dir.path().join("away")).unwrap();
    let later = BEGIN.after(EPOCH * 3);
    assert!(keys.rotate(later).is_err());
    assert_eq!(keys.open_ticket(&ticket), None);
    std::fs::create_dir(&cluster).unwrap();
    keys.rotate(later).unwrap();
    let again = open(dir.path(), later).unwrap();
    assert!(again.open_ticket(&keys.seal(b"x").unwrap()).is_some());
}

proptest! {
    #[test]
    fn what_is_sealed_opens_and_what_was_changed_or_cut_does_not(
        session in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let keys = TicketKeys::of_this_process(BEGIN).unwrap();
        let ticket = keys.seal(&session).unwrap();
        prop_assert_eq!(keys.open_ticket(&ticket), Some(session));
        let at = at.index(ticket.len());
        prop_assert_eq!(keys.open_ticket(&ticket[..at]), None);
        let mut changed = ticket.clone();
        changed[at] ^= 1 << bit;
        prop_assert_eq!(keys.open_ticket(&changed), None);
        let mut longer = ticket;
        longer.push(0);
        prop_assert_eq!(keys.open_ticket(&longer), None);
    }

    #[test]
    fn bytes_of_strangers_are_no_tickets(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        has_name in any::<bool>(),
    ) {
        let keys = TicketKeys::of_this_process(BEGIN).unwrap();
        let mut ticket = bytes;
        if has_name {
            let name = keys.seal(b"").unwrap()[..16].to_vec();
            ticket.splice(..0, name);
        }
        prop_assert_eq!(keys.open_ticket(&ticket), None);
    }
}
