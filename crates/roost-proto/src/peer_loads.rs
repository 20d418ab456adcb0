//! What an edge tells those of other nodes of the load of its machines: a line
//! of JSON on the stream of the [tables](crate::peer_table), told apart from
//! them by its first character.
//!
//! ```text
//! {"loads":[{"app":"web","machine":"148e0a…","port":80,"load":5}]}
//! {"loads":[],"datagrams":[{"app":"game","machine":"148e0a…","port":5000,"load":2}]}
//! ```
//!
//! Services of datagrams have ports of their own, and a member of their own: to an edge that does
//! not know of it their ports would be those of other services. A line has every service that is serving something; one that it does not name serves nothing.

use roost_model::id::MachineId;
use roost_model::machine::Protocol;
use roost_model::name::AppName;
use serde::{Deserialize, Serialize};

/// What one service of a machine is serving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLoad {
    /// The app of the machine.
    pub app: AppName,
    /// The machine.
    pub machine: MachineId,
    /// What carries the traffic of the service.
    #[serde(skip)]
    pub protocol: Protocol,
    /// The first external port of the service: those of a machine that have one protocol share none.
    pub port: u16,
    /// Requests, connections and flows of datagrams, whoever sends them.
    pub load: u32,
}

/// Members that are not known are passed over, so that a later version may add some.
#[derive(Serialize, Deserialize)]
struct Line {
    loads: Vec<ServiceLoad>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    datagrams: Vec<ServiceLoad>,
}

/// Whether this is a line about loads, and not a table.
pub fn is_one(line: &str) -> bool {
    line.starts_with('{')
}

/// The line of these loads. Of more than `most` it has the highest ones.
pub fn to_line(mut loads: Vec<ServiceLoad>, most: usize) -> String {
    if loads.len() > most {
        loads.sort_by_key(|it| std::cmp::Reverse(it.load));
        loads.truncate(most);
    }
    let is_udp = |it: &mut ServiceLoad| it.protocol == Protocol::Udp;
    let datagrams = loads.extract_if(.., is_udp).collect();
    let line = Line { loads, datagrams };
    let mut line = serde_json::to_string(&line).expect("rows have text keys only");
    line.push('\n');
    line
}

/// The loads of such a line, which has `most` of them at most.
pub fn from_line(line: &str, most: usize) -> Result<Vec<ServiceLoad>, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let n_loads = line.loads.len() + line.datagrams.len();
    if n_loads > most {
        return Err(format!("{n_loads} loads are more than {most}"));
    }
    let datagrams = line.datagrams.into_iter().map(|it| ServiceLoad {
        protocol: Protocol::Udp,
        ..it
    });
    Ok(line.loads.into_iter().chain(datagrams).collect())
}

#[cfg(test)]
mod tests {
    use super::{ServiceLoad, from_line, is_one, to_line};
    use crate::peer_table;
    use crate::traffic::{PeerNode, TrafficTable};
    use roost_model::id::{MachineId, NodeId};
    use roost_model::machine::Protocol;
    use roost_model::name::AppName;
    use std::sync::Arc;

    fn load(number: u8, load: u32) -> ServiceLoad {
        ServiceLoad {
            app: AppName::parse("web").unwrap(),
            machine: MachineId::from_bytes([number; 7]),
            protocol: Protocol::Tcp,
            port: 80,
            load,
        }
    }

    fn datagrams(number: u8, load: u32) -> ServiceLoad {
        ServiceLoad {
            protocol: Protocol::Udp,
            ..self::load(number, load)
        }
    }

    #[test]
    fn loads_arrive_as_they_were_and_are_no_table() {
        let loads = vec![load(1, 5), load(2, u32::MAX)];
        let line = to_line(loads.clone(), 2);
        assert!(is_one(&line) && line.ends_with("}\n") && line.matches('\n').count() == 1);
        assert_eq!(from_line(&line, 2), Ok(loads));
        assert_eq!(from_line(&to_line(Vec::new(), 2), 2), Ok(Vec::new()));
        assert!(!is_one(&peer_table::to_line(&TrafficTable::new())));
        // Beside a service of the same port that takes connections, and never in its place.
        let loads = vec![load(1, 5), datagrams(1, 7)];
        let line = to_line(loads.clone(), 2);
        assert_eq!(from_line(&line, 2), Ok(loads));
        assert!(from_line(&line, 1).is_err(), "both are counted");
        assert_eq!(
            line.split_once(r#","datagrams":"#)
                .unwrap()
                .0
                .matches("port")
                .count(),
            1
        );
        // An edge that knows of tables only has not asked; it would pass the line over.
        let node = Arc::new(PeerNode {
            id: NodeId::parse("node_00000000000000000000000001").unwrap(),
            edge: "192.0.2.1:4282".parse().unwrap(),
        });
        assert!(peer_table::from_line(&line, &node).is_err());
    }

    #[test]
    fn of_too_many_the_highest_are_told_and_more_are_refused() {
        let all: Vec<ServiceLoad> = (1..=5).map(|n| load(n, n.into())).collect();
        let told = from_line(&to_line(all.clone(), 3), 3).unwrap();
        let loads: Vec<u32> = told.iter().map(|it| it.load).collect();
        assert_eq!(loads, [5, 4, 3]);
        let error = from_line(&to_line(all, 5), 3).unwrap_err();
        assert_eq!(error, "5 loads are more than 3");
    }

    #[test]
    fn what_a_newer_edge_adds_is_passed_over_and_what_is_malformed_refused() {
        let row = r#"{"app":"web","machine":"01010101010101","port":80,"load":7,"new":[1]}"#;
        let newer = format!("{{\"loads\":[{row}],\"more\":{{}}}}");
        assert_eq!(from_line(&newer, 9), Ok(vec![load(1, 7)]));
        for line in [
            "{}",
            r#"{"loads":{}}"#,
            r#"{"loads":[{}]}"#,
            r#"{"loads":[{"app":"web","machine":"01010101010101","port":80,"load":-1}]}"#,
            r#"{"loads":[{"app":"web","machine":"01010101010101","port":70000,"load":1}]}"#,
            r#"{"loads":[{"app":"../","machine":"01010101010101","port":80,"load":1}]}"#,
            r#"{"loads":[{"app":"web","machine":"x","port":80,"load":1}]}"#,
            r#"{"loads":["#,
        ] {
            assert!(from_line(line, 9).is_err(), "{line}");
        }
    }
}
