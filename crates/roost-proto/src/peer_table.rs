//! What an edge tells those of other nodes of the machines of its own: a line
//! of JSON, the whole at every change.

use crate::machine_config::ServiceConfig;
use crate::traffic::{AppTraffic, Endpoint, EndpointHealth, PeerNode, TrafficTable};
use roost_model::id::MachineId;
use roost_model::name::{AppName, RegionCode};
use roost_model::split::Split;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// One endpoint.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    app: AppName,
    machine: MachineId,
    region: RegionCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    split: Option<Split>,
    address: SocketAddr,
    health: Health,
    service: ServiceConfig,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    Passing,
    Failing(String),
    Draining,
    Asleep(String),
    Down(String),
}

impl From<&EndpointHealth> for Health {
    fn from(health: &EndpointHealth) -> Self {
        match health {
            EndpointHealth::Passing => Self::Passing,
            EndpointHealth::Failing(why) => Self::Failing(why.clone()),
            EndpointHealth::Draining => Self::Draining,
            EndpointHealth::Asleep(state) => Self::Asleep(state.clone()),
            EndpointHealth::Down(state) => Self::Down(state.clone()),
        }
    }
}

impl From<Health> for EndpointHealth {
    fn from(health: Health) -> Self {
        match health {
            Health::Passing => Self::Passing,
            Health::Failing(why) => Self::Failing(why),
            Health::Draining => Self::Draining,
            Health::Asleep(state) => Self::Asleep(state),
            Health::Down(state) => Self::Down(state),
        }
    }
}

/// The line of a table: of its machines those of the own node.
pub fn to_line(table: &TrafficTable) -> String {
    let own = |endpoint: &&Endpoint| endpoint.node.is_none();
    let rows = table.iter().flat_map(|(app, traffic)| {
        let endpoints = traffic.endpoints.iter().filter(own);
        endpoints.map(|endpoint| Row {
            app: app.clone(),
            machine: endpoint.machine_id.clone(),
            region: endpoint.region.clone(),
            release: endpoint.release,
            split: endpoint.split.as_deref().cloned(),
            address: endpoint.address,
            health: (&endpoint.health).into(),
            service: (&*endpoint.service).into(),
        })
    });
    let rows: Vec<Row> = rows.collect();
    let mut line = serde_json::to_string(&rows).expect("rows have text keys only");
    line.push('\n');
    line
}

/// Endpoints of a line that this edge does not understand: that of a newer node may say more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// How many there are.
    pub endpoints: usize,
    /// What is not understood of the first one.
    pub why: String,
}

/// The table of such a line, and what of it had to be left out; its machines are this node's.
/// A line of which nothing is understood is none.
pub fn from_line(
    line: &str,
    node: &Arc<PeerNode>,
) -> Result<(TrafficTable, Option<LeftOut>), String> {
    let mut table = TrafficTable::new();
    let mut left_out = None::<LeftOut>;
    let mut n_read = 0;
    for row in rows(line)? {
        match row.and_then(|row| endpoint(row, node)) {
            Ok((app, endpoint)) => {
                n_read += 1;
                let traffic: &mut AppTraffic = Arc::make_mut(table.get_or_default(app));
                traffic.endpoints.push(endpoint);
            }
            Err(why) => {
                let first = LeftOut { endpoints: 0, why };
                left_out.get_or_insert(first).endpoints += 1;
            }
        }
    }
    match left_out {
        Some(left_out) if n_read == 0 => Err(left_out.why),
        left_out => Ok((table, left_out)),
    }
}

/// The rows of a line, each for itself.
fn rows(line: &str) -> Result<Vec<Result<Row, String>>, String> {
    // Nearly always all are understood: then nothing is held twice.
    if let Ok(rows) = serde_json::from_str::<Vec<Row>>(line) {
        return Ok(rows.into_iter().map(Ok).collect());
    }
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    let row = |row| serde_json::from_value(row).map_err(|error| error.to_string());
    Ok(rows.into_iter().map(row).collect())
}

fn endpoint(row: Row, node: &Arc<PeerNode>) -> Result<(AppName, Endpoint), String> {
    let service = row.service.of_record();
    let service = service.map_err(|why| format!("machine {}: {why}", row.machine))?;
    let endpoint = Endpoint {
        machine_id: row.machine,
        region: row.region,
        release: row.release,
        split: row.split.map(Arc::new),
        address: row.address,
        health: row.health.into(),
        service: Arc::new(service),
        // The edge of the machine's node answers for its files.
        statics: Arc::default(),
        node: Some(node.clone()),
    };
    Ok((row.app, endpoint))
}

#[cfg(test)]
mod tests {
    use super::{from_line, to_line};
    use crate::traffic::{AppTraffic, Endpoint, EndpointHealth, PeerNode, TrafficTable};
    use roost_model::id::{MachineId, NodeId};
    use roost_model::machine::{PortHandler, PortRange, Service, ServicePort};
    use roost_model::name::{AppName, RegionCode};
    use roost_model::split::Split;
    use std::sync::Arc;

    const NODE: &str = "node_00000000000000000000000001";

    #[test]
    fn a_table_arrives_as_it_was_but_for_machines_of_others() {
        let node = Arc::new(PeerNode {
            id: NodeId::parse(NODE).unwrap(),
            edge: "192.0.2.1:4282".parse().unwrap(),
        });
        let raw = ServicePort::new(PortRange::single(5432), PortHandler::Raw);
        let mut service = Service::http(8080);
        service.ports.push(raw);
        service.concurrency.hard_limit = Some(30);
        let healths = [
            EndpointHealth::Passing,
            EndpointHealth::Failing("no".into()),
            EndpointHealth::Draining,
            EndpointHealth::Asleep("stopped".into()),
            EndpointHealth::Down("failed".into()),
        ];
        let split = Split::parse("percent=5;by=client;regions=fra;header=x: 1").unwrap();
        let endpoints = healths.into_iter().map(|health| Endpoint {
            machine_id: MachineId::from_bytes([1; 7]),
            region: RegionCode::parse("fra").unwrap(),
            release: Some(3),
            split: Some(Arc::new(split.clone())),
            address: "10.0.0.1:8080".parse().unwrap(),
            health,
            service: Arc::new(service.clone()),
            statics: Arc::default(),
            node: None,
        });
        let endpoints: Vec<Endpoint> = endpoints.collect();
        let app = AppName::parse("web").unwrap();
        let table = |endpoints: &[Endpoint]| {
            let endpoints = endpoints.to_vec();
            TrafficTable::from([(app.clone(), AppTraffic { endpoints })])
        };
        let line = to_line(&table(&endpoints));
        let (read, left_out) = from_line(&line, &node).unwrap();
        assert_eq!(left_out, None);
        let theirs = |mut it: Endpoint| {
            it.node = Some(node.clone());
            it
        };
        let theirs: Vec<Endpoint> = endpoints.into_iter().map(theirs).collect();
        assert_eq!(read, table(&theirs));
        assert_eq!(to_line(&table(&theirs)), "[]\n");
        // A newer node may know of more: what is understood is taken, the rest counted.
        let mut rows: Vec<serde_json::Value> = serde_json::from_str(&line).unwrap();
        rows[0]["service"]["unheard-of"] = true.into();
        rows[2]["health"] = "dreaming".into();
        let newer = serde_json::to_string(&rows).unwrap();
        let (read, left_out) = from_line(&newer, &node).unwrap();
        let known = [1, 3, 4].map(|n| theirs[n].clone());
        assert_eq!(read, table(&known));
        let left_out = left_out.unwrap();
        assert_eq!(left_out.endpoints, 2);
        assert!(left_out.why.contains("unheard-of"), "{}", left_out.why);
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        let node = Arc::new(PeerNode {
            id: NodeId::parse(NODE).unwrap(),
            edge: "192.0.2.1:4282".parse().unwrap(),
        });
        for line in ["", "{}", "[{}]", "[1]"] {
            assert!(from_line(line, &node).is_err(), "{line}");
        }
    }
}
