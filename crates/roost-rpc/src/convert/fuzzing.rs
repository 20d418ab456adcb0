//! What the fuzz target `worker_message` and its seeds run.

use super::request::{
    Change, Create, Destroy, Events, Exec, GetOperation, GiveBack, List, SetCordoned, SetMetadata,
    Signal, Stop, Take, Update, Wait,
};
use super::{Wire, failure_from_wire, failure_to_wire};
use prost::Message as _;
use roost_model::placement::NodeView;
use roost_proto::worker::{
    ExecOutcome, Lease, ListeningSocket, MachineEvent, MachineStatus, Operation, OperationFilter,
    Process, Reservation, Reserve, RungStatus,
};
use std::fmt::Debug;

/// Takes bytes as every message in turn: what is accepted arrives as it was.
///
/// # Panics
/// When it does not.
pub fn run(bytes: &[u8]) {
    requests(bytes);
    answers(bytes);
    let status = tonic::Status::with_details(tonic::Code::Unknown, "", bytes.to_vec().into());
    if let Some(error) = failure_from_wire(&status) {
        // A text that came too long is cut once.
        let cut = failure_from_wire(&failure_to_wire(&error)).expect("it was accepted");
        let again = failure_from_wire(&failure_to_wire(&cut)).expect("it was accepted");
        assert_eq!(again, cut);
    }
}

fn requests(bytes: &[u8]) {
    carry::<Create>(bytes);
    carry::<Update>(bytes);
    carry::<Change>(bytes);
    carry::<Stop>(bytes);
    carry::<Signal>(bytes);
    carry::<Destroy>(bytes);
    carry::<SetCordoned>(bytes);
    carry::<SetMetadata>(bytes);
    carry::<Wait>(bytes);
    carry::<Events>(bytes);
    carry::<Exec>(bytes);
    carry::<List>(bytes);
    carry::<Take>(bytes);
    carry::<GiveBack>(bytes);
    carry::<GetOperation>(bytes);
    carry::<OperationFilter>(bytes);
    carry::<Reserve>(bytes);
}

fn answers(bytes: &[u8]) {
    carry::<Reservation>(bytes);
    carry::<NodeView>(bytes);
    carry::<MachineStatus>(bytes);
    carry::<MachineEvent>(bytes);
    carry::<ExecOutcome>(bytes);
    carry::<Process>(bytes);
    carry::<Vec<ListeningSocket>>(bytes);
    carry::<Vec<RungStatus>>(bytes);
    carry::<Option<Operation>>(bytes);
    carry::<Option<Lease>>(bytes);
}

fn carry<T: Wire>(bytes: &[u8])
where
    T::Message: PartialEq + Debug,
{
    let Ok(message) = T::Message::decode(bytes) else {
        return;
    };
    if let Ok(value) = T::from_wire(message) {
        let message = value.to_wire();
        let again = T::from_wire(value.to_wire()).expect("what was accepted is refused");
        assert_eq!(again.to_wire(), message);
    }
}
