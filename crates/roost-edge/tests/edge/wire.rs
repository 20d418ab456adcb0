//! A long way between two edges, that can be cut.

use crate::world::World;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A way to an address on which bytes take so long in either direction; where it begins, and how
/// it is cut.
pub(crate) async fn wire(
    world: &World,
    to: SocketAddr,
    delay: Duration,
) -> (SocketAddr, CancellationToken) {
    // Nobody lays it elsewhere.
    let (_, to) = watch::channel(to);
    wire_to(world, to, delay).await
}

/// A way that leads elsewhere from when its end is laid there; what was on it is cut off.
pub(crate) async fn wire_to(
    world: &World,
    to: watch::Receiver<SocketAddr>,
    delay: Duration,
) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, cut) = (listener.local_addr().unwrap(), CancellationToken::new());
    let (is_cut, tasks) = (cut.clone(), world.tasks.clone());
    world.tasks.spawn("wire", async move {
        loop {
            let near = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                () = is_cut.cancelled() => return,
            };
            let (is_cut, mut to) = (is_cut.clone(), to.clone());
            tasks.spawn("wire-connection", async move {
                let at = *to.borrow_and_update();
                let Ok(far) = TcpStream::connect(at).await else {
                    return;
                };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                let there = carry(near_in, far_out, delay);
                let back = carry(far_in, near_out, delay);
                // Who closes one direction is done with the other.
                let carried = async {
                    tokio::select! { () = there => {}, () = back => {}, Ok(()) = to.changed() => {} }
                };
                let _ = is_cut.run_until_cancelled(carried).await;
            });
        }
    });
    (address, cut)
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let piece = (Instant::now() + delay, buffer[..n].to_vec());
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
