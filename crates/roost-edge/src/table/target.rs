//! One service of a machine, as requests may be sent to it.

use crate::choose::Candidate;
use crate::gauge::Busy;
use crate::load::Load;
use crate::meter::Series;
use crate::pool::Pool;
use crate::relay::distance::{Distance, FARTHEST};
use crate::tally::Tally;
use http::StatusCode;
use roost_model::machine::{HttpOptions, Protocol, ServicePort};
use roost_model::name::AppName;
use roost_proto::traffic::Endpoint;
use std::sync::Arc;
use std::time::Duration;

/// One endpoint with what the edge keeps about it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) app: AppName,
    pub(crate) endpoint: Endpoint,
    pub(crate) pool: Arc<Pool>,
    /// All that the machine is serving, by whatever service.
    pub(crate) in_flight: Arc<Busy>,
    /// What this service of it is serving.
    pub(crate) load: Arc<Load>,
    /// Where its requests are counted.
    pub(crate) series: Arc<Series>,
    /// Where they are counted as well while a release is tried out, if it is of this node.
    pub(crate) tally: Option<Arc<Tally>>,
    /// How far its node is, if that is known.
    pub(crate) distance: Option<Distance>,
    /// Whether it is in the region of the edge.
    pub(crate) is_near: bool,
}

impl Target {
    /// It has answered, so long after it was sent the request.
    pub(crate) fn answered(&self, status: StatusCode, latency: Duration) {
        self.series.answered(status, latency);
        if let Some(tally) = &self.tally {
            tally.answered(status, latency);
        }
    }

    /// It has not answered.
    pub(crate) fn unanswered(&self) {
        self.series.unanswered();
        if let Some(tally) = &self.tally {
            tally.unanswered();
        }
    }

    /// What its service does at an external port of its protocol.
    pub(crate) fn port(&self, external: u16) -> Option<&ServicePort> {
        self.endpoint.service.port(external)
    }

    pub(super) fn port_of(&self, protocol: Protocol, external: u16) -> Option<&ServicePort> {
        let service = &self.endpoint.service;
        (service.protocol == protocol).then(|| service.port(external))?
    }

    /// How its service speaks HTTP at an external port.
    pub(crate) fn http(&self, external: u16) -> Option<&HttpOptions> {
        Some(&self.port(external)?.http)
    }

    /// How long an exchange there may stand still, if its service says so.
    pub(crate) fn idle_timeout(&self, external: u16) -> Option<Duration> {
        self.http(external)?.idle_timeout
    }

    /// From here on it gets nothing.
    pub(crate) fn hard_limit(&self) -> Option<usize> {
        let limit = self.endpoint.service.concurrency.hard_limit?;
        Some(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Whether it is serving more than its soft limit.
    pub(crate) fn is_beyond_soft_limit(&self) -> bool {
        let soft_limit = self.endpoint.service.concurrency.soft_limit;
        self.load.everywhere() > usize::try_from(soft_limit).unwrap_or(usize::MAX)
    }

    /// The first external port of its service: no other one of the machine with this protocol has it.
    pub(crate) fn first_port(&self) -> Option<(Protocol, u16)> {
        let service = &self.endpoint.service;
        Some((service.protocol, service.ports.first()?.ports.first))
    }

    /// What the choice of a machine looks at, when it is serving so much.
    pub(crate) fn candidate(&self, is_out: bool, load: usize) -> Candidate {
        let soft_limit = self.endpoint.service.concurrency.soft_limit;
        Candidate {
            load,
            soft_limit: usize::try_from(soft_limit).unwrap_or(usize::MAX).max(1),
            hard_limit: self.hard_limit(),
            is_new: self.load.is_new(),
            distance: self.distance_counted(),
            is_out,
        }
    }

    /// How far it counts as among those of its region. In the edge's own one it is no reason
    /// against a machine that nobody has measured the way to it; in another one it is, since the
    /// way there is long.
    pub(super) fn distance_counted(&self) -> Distance {
        let unknown = if self.is_near { 0 } else { FARTHEST };
        self.distance.unwrap_or(unknown)
    }
}
