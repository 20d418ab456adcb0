//! A real worker whose machines are fakes.

use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_worker::testing::{Node, Run};

/// On a node with 1 GiB of memory that promises nothing twice.
pub(crate) async fn start() -> (Node, Run) {
    let capacity = Capacity {
        n_cores: 8,
        memory: ByteSize::gib(1),
        n_machines: 100,
        overcommit: Overcommit::NONE,
    };
    let node = Node::new(capacity);
    let run = node.start().await;
    (node, run)
}
