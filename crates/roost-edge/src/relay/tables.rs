//! How edges learn of each other's machines: each follows the tables of those
//! that its configuration names, by a stream of the connection that carries the
//! requests. A table that stops coming stays: traffic needs nothing but the
//! machines and the edges before them.

use crate::body::RequestBody;
use crate::limits;
use crate::relay::beside::{Beside, ToldBeside};
use crate::relay::distance::RoundTrips;
use crate::relay::loads::Told;
use crate::relay::peers::{self, PeerSender};
use crate::relay::wire;
use crate::shared::Shared;
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use roost_proto::traffic::PeerNode;
use roost_proto::{peer_loads, peer_table, peer_tallies};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// What a stream of tables is asked for by.
pub(crate) const PROTOCOL: &str = "table";

/// Tells another edge of the machines of this node, and of what it has asked for beside them, until
/// either side ends.
pub(crate) async fn tell(shared: Arc<Shared>, upgrade: OnUpgrade, beside: Beside) {
    let limit = shared.config.timeouts.header;
    let Ok(Ok(stream)) = timeout(limit, upgrade).await else {
        return;
    };
    let mut stream = TokioIo::new(stream);
    let mut feed = shared.router.feed();
    feed.mark_changed();
    let mut age = std::pin::pin!(sleep(limits::RELAY_AGE_MAX));
    let mut pace = interval(limits::RELAY_LOADS_PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = ToldBeside::new(beside);
    loop {
        let is_table = tokio::select! {
            // When the worker is gone there is another feed, or none: the other edge asks again.
            changed = feed.changed() => if changed.is_err() { return } else { true },
            _ = pace.tick(), if beside.is_anything() => false,
            () = shared.graceful.cancelled() => return,
            () = shared.retired.cancelled() => return,
            () = &mut age => return,
            // The other edge says nothing; this is its end.
            _ = stream.read_u8() => return,
        };
        let lines = if is_table {
            told.loads_again();
            vec![peer_table::to_line(&feed.borrow_and_update()).into()]
        } else {
            told.next(&shared)
        };
        if lines.is_empty() {
            continue;
        }
        let written = async {
            for line in &lines {
                stream.write_all(line.as_bytes()).await?;
            }
            stream.flush().await
        };
        match timeout(shared.config.timeouts.body_idle, written).await {
            Ok(Ok(())) => sleep(limits::RELAY_TABLE_PAUSE).await,
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Follows the tables of an edge as long as this one runs. `first` is dropped with the first
/// table, or when there is none to be had yet.
pub(crate) async fn follow(shared: Arc<Shared>, node: Arc<PeerNode>, first: mpsc::Sender<()>) {
    let mut heard = Heard {
        first: Some(first),
        not_understood: None,
        no_loads: None,
        no_tallies: None,
        round_trips: RoundTrips::default(),
    };
    loop {
        let read = async {
            let error = read(&shared, &node, &mut heard).await;
            shared.peers.keep_round_trip(&node.id, None);
            shared.peers.keep_telling(&node.id, false);
            heard.first = None;
            let (node, address) = (node.id.as_str(), node.edge);
            tracing::debug!(node, %address, error, "the table of another edge ended; asking again");
            sleep(limits::RELAY_TABLE_RETRY).await;
        };
        tokio::select! {
            () = read => {}
            () = shared.graceful.cancelled() => return,
            () = shared.retired.cancelled() => return,
        }
    }
}

/// What has come of another edge so far.
struct Heard {
    /// Held until its first table is there.
    first: Option<mpsc::Sender<()>>,
    /// What of its last table was not understood.
    not_understood: Option<String>,
    /// Why its last loads were not.
    no_loads: Option<String>,
    /// Why its last tallies were not.
    no_tallies: Option<String>,
    round_trips: RoundTrips,
}

/// Complains of what is not understood: once for each change, however often it comes.
fn complain(before: &mut Option<String>, node: &PeerNode, what: &str, error: Option<String>) {
    if let Some(error) = error.as_ref().filter(|_| error != *before) {
        let node = node.id.as_str();
        tracing::warn!(node, error, "{what} of another edge are not understood");
    }
    *before = error;
}

async fn read(shared: &Shared, node: &Arc<PeerNode>, heard: &mut Heard) -> String {
    let (stream, sender) = match open(shared, node).await {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    let mut round_trips = std::mem::take(&mut heard.round_trips);
    let error = tokio::select! {
        error = hear(shared, node, heard, stream) => error,
        never = measure(shared, node, &mut round_trips, sender) => match never {},
    };
    heard.round_trips = round_trips;
    error
}

/// Measures round trips on the connection of the stream, as long as that stands.
async fn measure(
    shared: &Shared,
    node: &PeerNode,
    round_trips: &mut RoundTrips,
    mut sender: PeerSender,
) -> Infallible {
    loop {
        let begun = Instant::now();
        let answer = timeout(limits::RELAY_CONNECT_TIMEOUT, peers::hello(&mut sender)).await;
        // What has become of the connection the stream finds out.
        if let Ok(Ok(())) = answer {
            if let Some(distance) = round_trips.note(begun.elapsed()) {
                shared.router.is_at(node, distance);
            }
            let shortest = round_trips.shortest();
            shared.peers.keep_round_trip(&node.id, shortest);
        }
        sleep(if round_trips.shortest().is_some() {
            limits::RELAY_ROUND_TRIP_INTERVAL
        } else {
            limits::RELAY_ROUND_TRIP_FIRST
        })
        .await;
    }
}

/// Takes what comes by a stream until it ends.
async fn hear(
    shared: &Shared,
    node: &Arc<PeerNode>,
    heard: &mut Heard,
    stream: Upgraded,
) -> String {
    let mut stream = BufReader::new(TokioIo::new(stream));
    // What it tells of loads counts as long as the stream stands.
    let mut told = Told::default();
    let told_tallies = shared.tallies.of(&node.id);
    loop {
        let mut line = String::new();
        let most = limits::RELAY_TABLE_BYTES_MAX;
        match (&mut stream).take(most).read_line(&mut line).await {
            Ok(_) if line.ends_with('\n') => {}
            Ok(_) => return "it ended".to_owned(),
            Err(error) => return error.to_string(),
        }
        if peer_tallies::is_one(&line) {
            let error = told_tallies.hear(&line).err();
            complain(&mut heard.no_tallies, node, "tallies", error);
            continue;
        }
        if peer_loads::is_one(&line) {
            let error = told.hear(&shared.router, node, &line).err();
            complain(&mut heard.no_loads, node, "loads", error);
            continue;
        }
        let left_out = match peer_table::from_line(&line, node) {
            Ok((table, left_out)) => {
                shared.router.learn(node, table);
                shared.peers.keep_telling(&node.id, true);
                heard.first = None;
                left_out.map(|it| format!("{} of its machines: {}", it.endpoints, it.why))
            }
            // The next one may be better; to ask for the same again would not be.
            Err(error) => {
                shared.peers.keep_telling(&node.id, false);
                Some(error)
            }
        };
        complain(&mut heard.not_understood, node, "machines", left_out);
    }
}

async fn open(shared: &Shared, node: &PeerNode) -> Result<(Upgraded, PeerSender), String> {
    let taken = shared.peers.take(node).await;
    let (sender, place) = taken.map_err(|error| error.to_string())?;
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_static("http://edge/");
    *request.version_mut() = Version::HTTP_2;
    let protocol = Protocol::from_static(PROTOCOL);
    request.extensions_mut().insert(protocol);
    let headers = request.headers_mut();
    headers.insert(wire::RELAY, Beside::all());
    let upgraded = async {
        let response = sender.clone().send_request(request).await?;
        hyper::upgrade::on(response).await
    };
    let upgraded = timeout(limits::RELAY_CONNECT_TIMEOUT, upgraded).await;
    // Not counted among the streams: it is one for each connection at most.
    upgraded
        .map_err(|_| "no answer in time".to_owned())?
        .inspect_err(|_| place.blame())
        .map(|stream| (stream, sender))
        .map_err(|error| roost_model::error::chain(&error))
}
