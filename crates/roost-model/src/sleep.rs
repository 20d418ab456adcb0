//! Which machines go to sleep for want of traffic. Pure.
//!
//! The machines that this looks at are alike: of one app and region, and with
//! the same services. Machines at their soft limits stay, and one more beside
//! them; what is beyond that is too many. One that was just woken is not counted
//! yet, so that none goes to sleep for it. The last one sleeps only when nothing
//! has come to any of them for a while.

use crate::id::MachineId;
use std::time::Duration;

/// What is known of a machine that takes traffic and may be put to sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awake {
    /// Which one.
    pub id: MachineId,
    /// What it is serving.
    pub load: usize,
    /// From here on it is busy.
    pub soft_limit: usize,
    /// For how long it has been awake.
    pub awake_for: Duration,
    /// For how long it has been below its limit, and awake.
    pub calm_for: Duration,
    /// For how long it has served nothing, and been awake.
    pub idle_for: Duration,
}

/// Those of the machines that go to sleep now, when `after` is how long a machine
/// has to be calm, and `n_kept` of them are to stay.
pub fn to_sleep(machines: &[Awake], n_kept: usize, after: Duration) -> Vec<MachineId> {
    let is_busy = |one: &&Awake| one.awake_for >= after && one.calm_for < after;
    let n_busy = machines.iter().filter(is_busy).count();
    let n_young = machines.iter().filter(|one| one.awake_for < after).count();
    let all_idle = machines.iter().all(|one| one.idle_for >= after);
    let n_needed = if all_idle { 0 } else { n_busy + 1 };
    let n_spare = (machines.len() - n_young).saturating_sub(n_needed.max(n_kept));
    let mut calm: Vec<&Awake> = machines
        .iter()
        .filter(|one| one.calm_for >= after)
        .collect();
    calm.sort_by(|one, other| {
        let by_load = one.load.cmp(&other.load);
        by_load
            .then(other.idle_for.cmp(&one.idle_for))
            .then_with(|| one.id.cmp(&other.id))
    });
    let load: usize = machines.iter().map(|one| one.load).sum();
    let mut room: usize = machines.iter().map(|one| one.soft_limit).sum();
    let mut chosen = Vec::new();
    for one in calm.into_iter().take(n_spare) {
        // Those that stay must not be busy because of it: they would wake it again.
        room -= one.soft_limit;
        if load > 0 && load >= room {
            break;
        }
        chosen.push(one.id.clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::{Awake, to_sleep};
    use crate::id::MachineId;
    use proptest::prelude::*;
    use std::time::Duration;

    const AFTER: Duration = Duration::from_secs(300);

    fn id(number: u8) -> MachineId {
        MachineId::from_bytes([number; 7])
    }

    /// A machine with a soft limit of 20, calm and idle for so many seconds.
    fn awake(number: u8, load: usize, calm: u64, idle: u64) -> Awake {
        Awake {
            id: id(number),
            load,
            soft_limit: 20,
            awake_for: Duration::from_secs(900),
            calm_for: Duration::from_secs(calm),
            idle_for: Duration::from_secs(idle),
        }
    }

    #[test]
    fn the_last_machine_sleeps_only_when_nothing_has_come_for_a_while() {
        assert_eq!(to_sleep(&[awake(1, 0, 300, 299)], 0, AFTER), []);
        assert_eq!(to_sleep(&[awake(1, 1, 900, 0)], 0, AFTER), []);
        assert_eq!(to_sleep(&[awake(1, 0, 300, 300)], 0, AFTER), [id(1)]);
        let two = [awake(1, 0, 300, 300), awake(2, 0, 300, 301)];
        assert_eq!(to_sleep(&two, 0, AFTER), [id(2), id(1)]);
        assert_eq!(to_sleep(&two, 1, AFTER), [id(2)], "one is kept");
        assert_eq!(to_sleep(&two, 5, AFTER), [], "there are too few");
        assert_eq!(to_sleep(&[], 0, AFTER), []);
    }

    #[test]
    fn one_more_than_the_busy_ones_stays() {
        // Two were busy of late; of the calm ones the idlest goes.
        let four = [
            awake(1, 25, 0, 0),
            awake(2, 0, 10, 10),
            awake(3, 4, 300, 0),
            awake(4, 0, 300, 100),
        ];
        assert_eq!(to_sleep(&four, 0, AFTER), [id(4)]);
        assert_eq!(to_sleep(&four[..3], 0, AFTER), []);
        let lightly_used = [
            awake(1, 3, 900, 0),
            awake(2, 2, 900, 0),
            awake(3, 4, 900, 0),
        ];
        assert_eq!(to_sleep(&lightly_used, 0, AFTER), [id(2), id(1)]);
    }

    #[test]
    fn nobody_sleeps_for_one_that_was_just_woken() {
        let young = Awake {
            awake_for: Duration::from_secs(1),
            ..awake(1, 0, 1, 1)
        };
        let calm = awake(2, 1, 900, 0);
        let busy = awake(3, 25, 0, 0);
        assert_eq!(to_sleep(&[young.clone(), calm.clone()], 0, AFTER), []);
        assert_eq!(to_sleep(&[young, calm.clone(), busy], 0, AFTER), []);
        assert_eq!(to_sleep(&[awake(1, 0, 300, 300), calm], 0, AFTER), [id(1)]);
    }

    #[test]
    fn nobody_sleeps_whose_load_would_make_the_others_busy() {
        let two = [awake(1, 12, 900, 0), awake(2, 9, 900, 0)];
        assert_eq!(to_sleep(&two, 0, AFTER), []);
        let two = [awake(1, 10, 900, 0), awake(2, 9, 900, 0)];
        assert_eq!(to_sleep(&two, 0, AFTER), [id(2)]);
    }

    fn machines() -> impl Strategy<Value = Vec<Awake>> {
        let machine = (0..30_usize, 1..25_usize, 0..600_u64, 0..600_u64);
        proptest::collection::vec(machine, 0..12).prop_map(|all| {
            let all = all.into_iter().zip(1..);
            all.map(|((load, soft_limit, calm, idle), number)| Awake {
                soft_limit,
                // Who serves something is not idle, and who is idle is calm.
                idle_for: Duration::from_secs(if load > 0 { 0 } else { idle.min(calm) }),
                calm_for: Duration::from_secs(if load >= soft_limit { 0 } else { calm }),
                ..awake(number, load, 0, 0)
            })
            .collect()
        })
    }

    proptest! {
        #[test]
        fn enough_machines_always_stay(machines in machines(), n_kept in 0..6_usize) {
            let gone = to_sleep(&machines, n_kept, AFTER);
            let stay: Vec<_> = machines.iter().filter(|one| !gone.contains(&one.id)).collect();
            prop_assert!(gone.is_empty() || stay.len() >= n_kept);
            prop_assert!(machines.iter().all(|one| !gone.contains(&one.id) || one.calm_for >= AFTER));
            let load: usize = machines.iter().map(|one| one.load).sum();
            if load > 0 && !gone.is_empty() {
                let room: usize = stay.iter().map(|one| one.soft_limit).sum();
                prop_assert!(load < room);
                let n_busy = stay.iter().filter(|one| one.calm_for < AFTER).count();
                prop_assert!(stay.len() > n_busy);
            }
        }
    }
}
