//! Machines that are no more, for those who look back.

use super::Fleet;
use crate::limits;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use roost_model::id::NodeId;
use roost_model::name::AppName;
use roost_proto::worker::MachineStatus;

impl Fleet {
    /// The machines of an app that are destroyed and still on the record of a
    /// node that answers, in order of their creation.
    pub(crate) async fn destroyed_machines(&self, app: &AppName) -> Vec<MachineStatus> {
        let list = |node: NodeId| -> BoxFuture<'_, Vec<MachineStatus>> {
            Box::pin(async move {
                let Ok(worker) = self.worker(&node) else {
                    return vec![];
                };
                // History that cannot be had now is no reason to refuse the present.
                let asked = self.ask_soon(&node, worker.destroyed_machines(app)).await;
                asked.unwrap_or_default()
            })
        };
        let lists: Vec<_> = self.answering().into_iter().map(list).collect();
        let lists = stream::iter(lists).buffer_unordered(limits::FAN_OUT);
        let mut all: Vec<_> = lists.concat().await;
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }
}
