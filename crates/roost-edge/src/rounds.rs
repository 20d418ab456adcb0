//! The rounds of a request: the first, one for each replay, and a last one back
//! to the machine that replayed it, when that comes to nothing.

use crate::affinity::Affinity;
use crate::body::Slot;
use crate::exchange::Exchange;
use crate::forward::{Answer, Head};
use crate::kept::NotKept;
use crate::limits;
use crate::pages::Page;
use crate::pick::Asked;
use crate::replay::{self, Fallback, Replay, ReplayFault};
use crate::replay_cache::{self, Asker, Found, Keeping, Kept};
use crate::route;
use crate::split::{Asking, Side};
use crate::statics::Answered;
use crate::table::{AppRoute, Target};
use crate::wants::Wants;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use roost_model::machine::Protocol;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// What a machine has answered.
enum Outcome {
    Answer(Answer),
    Replay(Box<Replay>),
}

/// A replay that is being carried out.
struct Handover {
    replay: Box<Replay>,
    /// The app and machine that asked for it.
    from: (Arc<AppRoute>, Arc<Target>),
    /// The request as it went there, when it may have to go back.
    before: Option<Box<Head>>,
    since: Instant,
}

/// What the app that was asked for lets the edge keep of its replays, and this request's part in it.
struct ShortCut {
    origin: Arc<AppRoute>,
    /// What brought the request where it is, or is kept since.
    keys: Vec<String>,
    /// Whether the request is on its way by what was kept.
    is_taken: bool,
    /// Whether a replay may be kept: the first of the app itself.
    may_keep: bool,
    /// What the next machine hears of it.
    status: &'static str,
}

impl ShortCut {
    fn forget(&mut self) {
        for key in self.keys.drain(..) {
            self.origin.replays.forget(&key);
        }
    }

    /// Keeps a replay of this machine, if it or the config says so.
    fn note(
        &mut self,
        replay: &Replay,
        asker: Asker<'_>,
        source: &Target,
    ) -> Result<(), ReplayFault> {
        let is_first = std::mem::take(&mut self.may_keep);
        if replay.keeping == Some(Keeping::Invalidate) {
            self.forget();
        } else if is_first && replay.may_be_kept() {
            let kept = Kept {
                app: replay.app.clone(),
                wants: replay.wants(source.endpoint.machine_id.as_str()),
            };
            let (cache, now) = (&self.origin.replays, Instant::now());
            if let Some(Keeping::Below(below)) = &replay.keeping {
                let key = cache.keep_below(below, asker, kept.clone(), now)?;
                self.keys.push(key);
            }
            self.keys.extend(cache.keep_session(asker, kept, now));
        }
        Ok(())
    }
}

impl Exchange {
    /// Takes the way that an earlier replay has shown. Not a request that chooses its machine itself.
    fn short_cut(
        &mut self,
        app: &mut Arc<AppRoute>,
        wants: &mut Wants,
        head: &mut Head,
    ) -> ShortCut {
        let mut cut = ShortCut {
            origin: app.clone(),
            keys: Vec::new(),
            is_taken: false,
            // Else one client would decide for all who answers.
            may_keep: wants.is_anything(),
            status: "miss",
        };
        if cut.origin.replays.is_empty() || !wants.is_anything() {
            return cut;
        }
        let asker = self.asker(&cut.origin, head);
        match cut.origin.replays.find(asker, Instant::now()) {
            Found::Nothing => {}
            Found::Bypassed => cut.status = "bypass",
            Found::Hit(key, kept) => {
                cut.keys.push(key);
                let next = match &kept.app {
                    Some(name) => self.app_for_replay(name).ok(),
                    None => Some(app.clone()),
                };
                if let Some(next) = next {
                    self.app = Some(next.clone());
                    (*app, *wants, cut.is_taken) = (next, kept.wants, true);
                    let hit = HeaderValue::from_static("hit");
                    replay_cache::STATUS.set(&mut head.headers, hit);
                } else {
                    cut.forget();
                }
            }
        }
        cut
    }

    fn asker<'a>(&'a self, origin: &'a AppRoute, head: &'a Head) -> Asker<'a> {
        let port = origin.port(self.external());
        let service = port.and_then(|port| port.targets.first());
        let first = service.and_then(|target| target.endpoint.service.ports.first());
        Asker {
            service: first.map_or(0, |port| port.ports.first),
            host: &self.host,
            path: head.path.path(),
            headers: &head.headers,
            rules: port.map_or(&[], |port| &port.rule.http.replay_cache),
        }
    }

    /// Goes from machine to machine until one answers for the client.
    pub(crate) async fn rounds(
        &mut self,
        mut app: Arc<AppRoute>,
        head: &mut Head,
        slot: Slot<'_>,
        alone: bool,
    ) -> Result<Answered, Page> {
        let mut wants = Wants::of(&head.headers);
        let affinity = self.affinity_of(&app, &wants, head);
        let mut cut = self.short_cut(&mut app, &mut wants, head);
        self.affinity = affinity.clone().filter(|_| !cut.is_taken);
        // On the heap: few requests are replayed.
        let mut handover: Option<Box<Handover>> = None;
        let mut is_last = false;
        for _ in 0..=limits::REPLAYS_MAX {
            let from = handover.as_deref();
            // Awaited where it is made: the place of a future that moves is there twice.
            let answer = match self.round(&app, head, &wants, slot, alone, from).await {
                Ok(Answered::App(answer)) => answer,
                Ok(file @ Answered::File(_)) => return Ok(file),
                // Nobody got it: the way there leads nowhere any more.
                Err(page) if cut.is_taken && is_unsent(&page) => {
                    cut.is_taken = false;
                    cut.forget();
                    app = cut.origin.clone();
                    wants = Wants::default();
                    self.affinity.clone_from(&affinity);
                    self.app = Some(app.clone());
                    replay_cache::STATUS.remove(&mut head.headers);
                    continue;
                }
                Err(page) => {
                    let Some((fallback, failed)) = fallback_of(handover.take()) else {
                        return Err(page);
                    };
                    take_back(slot)?;
                    (app, wants, *head) = go_back(*failed, fallback, &page);
                    is_last = true;
                    continue;
                }
            };
            let replay = match self.replay_in(answer, slot).await? {
                Outcome::Answer(answer) => return Ok(Answered::App(answer)),
                Outcome::Replay(replay) => replay,
            };
            if is_last {
                return Err(too_many(
                    "a request that fell back may not be replayed again",
                ));
            }
            // The app says where it goes from here on.
            self.affinity = None;
            let Some(source) = self.target() else {
                return Err(too_many("nobody has replayed it"));
            };
            take_back(slot)?;
            cut.may_keep &= !cut.is_taken;
            cut.is_taken = false;
            cut.note(&replay, self.asker(&cut.origin.clone(), head), &source)
                .map_err(|fault| unreadable(&fault))?;
            let next = match &replay.app {
                Some(name) => self.app_for_replay(name)?,
                None => app.clone(),
            };
            wants = replay.wants(source.endpoint.machine_id.as_str());
            let before = replay.fallback.map(|_| Box::new(head.clone()));
            hand_over(head, &replay, &source, cut.status);
            self.app = Some(next.clone());
            handover = Some(Box::new(Handover {
                from: (std::mem::replace(&mut app, next), source),
                before,
                since: Instant::now(),
                replay,
            }));
        }
        Err(too_many("it was replayed too often"))
    }

    /// One round; a replay may have set it a limit.
    async fn round(
        &mut self,
        app: &Arc<AppRoute>,
        head: &mut Head,
        wants: &Wants,
        slot: Slot<'_>,
        alone: bool,
        handover: Option<&Handover>,
    ) -> Result<Answered, Page> {
        self.count_open(app)?;
        let affinity = self.affinity.clone();
        let mut asked = Asked {
            app: app.name.as_str(),
            protocol: Protocol::Tcp,
            external: self.external(),
            wants,
            side: None,
            affinity: affinity.as_deref(),
        };
        asked.side = self.side(app, &asked, head);
        let Some(limit) = handover.and_then(|handover| handover.replay.timeout) else {
            return self.attempt(app, asked, head, slot, alone).await;
        };
        let attempt = Box::pin(self.attempt(app, asked, head, slot, alone));
        // Cancel-safe: what a dropped attempt has counted is counted down, and its connection closes.
        timeout(limit, attempt).await.unwrap_or_else(|_| {
            self.note_silence();
            let title = "the replay was not answered in time";
            Err(Page::new(
                StatusCode::GATEWAY_TIMEOUT,
                REPLAY_TIMEOUT,
                title,
            ))
        })
    }

    /// What keeps the request with others. Not one that asks for a certain machine.
    fn affinity_of(&self, app: &AppRoute, wants: &Wants, head: &mut Head) -> Option<Arc<Affinity>> {
        // Most apps have none.
        if !app.has_affinity {
            return None;
        }
        let rule = &app.port(self.external())?.rule;
        let affinity = Affinity::take(rule.http.session_affinity.as_ref()?, &mut head.headers)?;
        (!wants.names_a_machine()).then(|| Arc::new(affinity))
    }

    fn side(&self, app: &AppRoute, asked: &Asked<'_>, head: &Head) -> Option<Side> {
        let asking = Asking {
            headers: Some(&head.headers),
            client: head.arrival.origin.ends.0,
            random: head.arrival.random(),
        };
        Side::of(app, asked, &self.shared.config.region, asking)
    }

    /// Whether an answer is a replay. The body of one that is does not reach the client.
    async fn replay_in(&mut self, answer: Answer, slot: Slot<'_>) -> Result<Outcome, Page> {
        let headers = answer.0.headers();
        let header = replay::REPLAY.get(headers).map(str::to_owned);
        if header.is_none() && !replay::has_json(headers) {
            return Ok(Outcome::Answer(answer));
        }
        // On the heap: few answers are replays.
        Box::pin(self.read_replay(answer, header, slot)).await
    }

    async fn read_replay(
        &mut self,
        answer: Answer,
        header: Option<String>,
        slot: Slot<'_>,
    ) -> Result<Outcome, Page> {
        let (response, sender) = *answer;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, limits::REPLAY_BYTES_MAX).collect();
        let body = timeout(self.shared.config.timeouts.body_idle, body).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
        if let (Some(_), Some(sender), Some(target)) = (&body, sender, self.target())
            && slot.is_none_or(|slot| slot.finished())
        {
            target.pool.put_http1(sender);
        }
        let replay = match (header, body) {
            (Some(header), _) => Replay::from_headers(&header, &parts.headers),
            (None, Some(body)) => Replay::from_json(&body),
            (None, None) => Err(ReplayFault::Json("it is too long or broke off".into())),
        };
        replay
            .map(|replay| Outcome::Replay(Box::new(replay)))
            .map_err(|fault| unreadable(&fault))
    }

    fn app_for_replay(&self, name: &str) -> Result<Arc<AppRoute>, Page> {
        let routes = self.shared.router.routes();
        let app = routes
            .app(name)
            .filter(|app| route::takes_http(app, self.external()));
        app.cloned().ok_or_else(|| {
            let title = "the app replayed the request to one that takes no HTTP here";
            Page::new(StatusCode::BAD_GATEWAY, "replay-app-unknown", title).detail(format!(
                "the app is {}",
                name.chars().take(100).collect::<String>()
            ))
        })
    }
}

const REPLAY_TIMEOUT: &str = "replay-timeout";

/// Changes a request as a replay says, and says where it comes from.
fn hand_over(head: &mut Head, replay: &Replay, source: &Target, status: &'static str) {
    replay.transform.apply(&mut head.headers);
    if let Some(path) = &replay.transform.path {
        head.path = path.clone();
    }
    let mut text = format!(
        "instance={};region={};t={}",
        source.endpoint.machine_id,
        source.endpoint.region,
        roost_runtime::clock::now().as_ms().saturating_mul(1000)
    );
    if let Some(state) = &replay.state {
        text.push_str(";state=");
        text.push_str(state);
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        replay::SOURCE.set(&mut head.headers, value);
    }
    replay_cache::STATUS.set(&mut head.headers, HeaderValue::from_static(status));
}

fn fallback_of(handover: Option<Box<Handover>>) -> Option<(Fallback, Box<Handover>)> {
    let handover = handover?;
    Some((handover.replay.fallback?, handover))
}

/// Back to the machine that replayed, with the request as it was.
fn go_back(failed: Handover, fallback: Fallback, page: &Page) -> (Arc<AppRoute>, Wants, Head) {
    let (app, source) = failed.from;
    let id = source.endpoint.machine_id.as_str();
    let wants = match fallback {
        Fallback::ForceSelf => Wants::only(id),
        Fallback::PreferSelf => {
            let mut wants = Wants::preferring(id);
            wants.then_any();
            wants
        }
    };
    let reason = match page.code {
        REPLAY_TIMEOUT => "timeout",
        _ if is_nobody(page) => "no_candidate",
        _ => "retries_exhausted",
    };
    let text = format!(
        "instance={};app={};region={};replay_source={id};reason={reason};elapsed_ms={}",
        failed.replay.instance().unwrap_or_default(),
        failed.replay.app.as_deref().unwrap_or(app.name.as_str()),
        failed.replay.regions(),
        failed.since.elapsed().as_millis(),
    );
    let mut head = *failed
        .before
        .expect("a replay with a fallback keeps the request");
    if let Ok(value) = HeaderValue::from_str(&text) {
        replay::FAILED.set(&mut head.headers, value);
    }
    (app, wants, head)
}

/// Whether no machine has been sent the request, because there is none.
fn is_nobody(page: &Page) -> bool {
    matches!(
        page.code,
        "no-machines" | "no-wanted-machine" | "no-healthy-machine"
    )
}

/// Whether no machine has the request, for whatever reason.
fn is_unsent(page: &Page) -> bool {
    let is_refusal = matches!(
        page.code,
        "app-open"
            | "hard-limit"
            | "queue-full"
            | "machine-unreachable"
            | "wake-failed"
            | "wake-timeout"
    );
    is_refusal || is_nobody(page)
}

fn take_back(slot: Slot<'_>) -> Result<(), Page> {
    slot.map_or(Ok(()), |slot| slot.take_back())
        .map_err(not_kept)
}

fn not_kept(why: NotKept) -> Page {
    match why {
        NotKept::NoRoom => {
            let title = "the edge had no room to keep the body of a request that the app replayed";
            Page::refused(StatusCode::SERVICE_UNAVAILABLE, "replay-room", title).retry_after(1)
        }
        NotKept::TooLong | NotKept::Gone => {
            let title = "the app replayed a request whose body is too long to be sent again";
            Page::refused(StatusCode::PAYLOAD_TOO_LARGE, "replay-body", title)
                .detail(format!("the most is {} bytes", limits::KEPT_BODY_BYTES_MAX))
        }
    }
}

fn unreadable(fault: &ReplayFault) -> Page {
    let title = "the app answered with a replay that is not understood";
    Page::new(StatusCode::BAD_GATEWAY, "replay-invalid", title).detail(fault.to_string())
}

fn too_many(why: &str) -> Page {
    let title = "the app replayed the request round and round";
    Page::new(StatusCode::LOOP_DETECTED, "replay-loop", title).detail(why)
}

#[cfg(test)]
mod tests {
    use super::not_kept;
    use crate::kept::NotKept;

    #[test]
    fn who_finds_no_room_may_come_again_and_who_is_too_long_may_not() {
        let page = not_kept(NotKept::NoRoom);
        assert_eq!((page.status.as_u16(), page.code), (503, "replay-room"));
        assert!(page.headers.iter().any(|(name, _)| name == "retry-after"));
        let page = not_kept(NotKept::TooLong);
        assert_eq!((page.status.as_u16(), page.code), (413, "replay-body"));
    }
}
