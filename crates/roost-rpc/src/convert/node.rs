//! Nodes: what they have, and what is held.

use super::{BadMessage, Wire, present, text, time, word};
use crate::proto;
use roost_model::id::{NodeId, ReservationId};
use roost_model::machine::Rung;
use roost_model::name::{AppName, RegionCode, ZoneName};
use roost_model::placement::{Capacity, NodeView, Overcommit, Usage};
use roost_model::size::ByteSize;
use roost_proto::worker::{Reservation, RungStatus};
use std::collections::{BTreeMap, HashMap};

impl Wire for Usage {
    type Message = proto::Usage;

    fn to_wire(&self) -> proto::Usage {
        let Self {
            n_machines,
            shared_cpus,
            dedicated_cores,
            shared_memory,
            dedicated_memory,
        } = *self;
        proto::Usage {
            n_machines,
            shared_cpus,
            dedicated_cores,
            shared_memory_bytes: shared_memory.bytes(),
            dedicated_memory_bytes: dedicated_memory.bytes(),
        }
    }

    fn from_wire(message: proto::Usage) -> Result<Self, BadMessage> {
        let proto::Usage {
            n_machines,
            shared_cpus,
            dedicated_cores,
            shared_memory_bytes,
            dedicated_memory_bytes,
        } = message;
        Ok(Self {
            n_machines,
            shared_cpus,
            dedicated_cores,
            shared_memory: ByteSize(shared_memory_bytes),
            dedicated_memory: ByteSize(dedicated_memory_bytes),
        })
    }
}

impl Wire for Capacity {
    type Message = proto::Capacity;

    fn to_wire(&self) -> proto::Capacity {
        let Self {
            n_cores,
            memory,
            n_machines,
            overcommit,
        } = *self;
        proto::Capacity {
            n_cores,
            memory_bytes: memory.bytes(),
            n_machines,
            overcommit_cpu_percent: overcommit.cpu_percent(),
            overcommit_memory_percent: overcommit.memory_percent(),
        }
    }

    fn from_wire(message: proto::Capacity) -> Result<Self, BadMessage> {
        let proto::Capacity {
            n_cores,
            memory_bytes,
            n_machines,
            overcommit_cpu_percent: cpu,
            overcommit_memory_percent: memory,
        } = message;
        let overcommit = Overcommit::new(cpu, memory);
        Ok(Self {
            n_cores,
            memory: ByteSize(memory_bytes),
            n_machines,
            overcommit: overcommit
                .ok_or_else(|| BadMessage::new("overcommit", "is out of range"))?,
        })
    }
}

impl Wire for NodeView {
    type Message = proto::NodeView;

    fn to_wire(&self) -> proto::NodeView {
        let Self {
            id,
            region,
            zone,
            labels,
            refused_rungs,
            cordoned,
            capacity,
            used,
            reserved,
            disk_free,
            images,
            machines,
        } = self;
        proto::NodeView {
            id: id.to_string(),
            region: region.to_string(),
            zone: zone.as_ref().map(ToString::to_string),
            labels: labels.clone().into_iter().collect(),
            refused_rungs: refused_rungs
                .iter()
                .map(|(rung, why)| (rung.as_str().to_owned(), why.clone()))
                .collect(),
            cordoned: *cordoned,
            capacity: Some(capacity.to_wire()),
            used: Some(used.to_wire()),
            reserved: Some(reserved.to_wire()),
            disk_free_bytes: disk_free.bytes(),
            images: images.iter().cloned().collect(),
            machines: counts_to_wire(machines),
        }
    }

    fn from_wire(message: proto::NodeView) -> Result<Self, BadMessage> {
        let proto::NodeView {
            id,
            region,
            zone,
            labels,
            refused_rungs,
            cordoned,
            capacity,
            used,
            reserved,
            disk_free_bytes,
            images,
            machines,
        } = message;
        let zone = zone.map(|name| text(&name, "zone", ZoneName::parse));
        Ok(Self {
            id: text(&id, "id", NodeId::parse)?,
            region: text(&region, "region", RegionCode::parse)?,
            zone: zone.transpose()?,
            labels: labels.into_iter().collect(),
            refused_rungs: refusals_from_wire(refused_rungs)?,
            cordoned,
            capacity: present(capacity, "capacity")?,
            used: present(used, "used")?,
            reserved: present(reserved, "reserved")?,
            disk_free: ByteSize(disk_free_bytes),
            images: images.into_iter().collect(),
            machines: counts_from_wire(machines)?,
        })
    }
}

type Counts = BTreeMap<AppName, BTreeMap<String, u32>>;

fn counts_to_wire(counts: &Counts) -> Vec<proto::GroupCount> {
    let of_app = |(app, groups): (&AppName, &BTreeMap<String, u32>)| {
        let app = app.to_string();
        let count = move |(group, n_machines): (&String, &u32)| proto::GroupCount {
            app: app.clone(),
            group: group.clone(),
            n_machines: *n_machines,
        };
        groups.iter().map(count).collect::<Vec<_>>()
    };
    counts.iter().flat_map(of_app).collect()
}

fn counts_from_wire(counts: Vec<proto::GroupCount>) -> Result<Counts, BadMessage> {
    let mut machines = Counts::new();
    for count in counts {
        let proto::GroupCount {
            app,
            group,
            n_machines,
        } = count;
        let app = text(&app, "app", AppName::parse)?;
        machines.entry(app).or_default().insert(group, n_machines);
    }
    Ok(machines)
}

fn refusals_from_wire(
    refusals: HashMap<String, String>,
) -> Result<BTreeMap<Rung, String>, BadMessage> {
    let refusal = |(rung, why): (String, String)| Ok((word(&rung, "rung", Rung::parse)?, why));
    refusals.into_iter().map(refusal).collect()
}

impl Wire for Reservation {
    type Message = proto::Reservation;

    fn to_wire(&self) -> proto::Reservation {
        let Self {
            id,
            guest,
            expires_at,
        } = self;
        proto::Reservation {
            id: id.to_string(),
            guest: Some(guest.to_wire()),
            expires_at_ms: expires_at.as_ms(),
        }
    }

    fn from_wire(message: proto::Reservation) -> Result<Self, BadMessage> {
        let proto::Reservation {
            id,
            guest,
            expires_at_ms,
        } = message;
        Ok(Self {
            id: text(&id, "id", ReservationId::parse)?,
            guest: present(guest, "guest")?,
            expires_at: time(expires_at_ms),
        })
    }
}

impl Wire for RungStatus {
    type Message = proto::RungStatus;

    fn to_wire(&self) -> proto::RungStatus {
        let Self { rung, refusal } = self;
        proto::RungStatus {
            rung: rung.as_str().to_owned(),
            refusal: refusal.clone(),
        }
    }

    fn from_wire(message: proto::RungStatus) -> Result<Self, BadMessage> {
        let proto::RungStatus { rung, refusal } = message;
        Ok(Self {
            rung: word(&rung, "rung", Rung::parse)?,
            refusal,
        })
    }
}
