//! What edges say to each other beside a request and its answer: one header
//! line each way, `VERSION;name=value;…`, in which every value is a plain word.
//!
//! ```text
//! request  1;kind=http;app=web;machine=148e0a…;port=443;client=192.0.2.7:0;local=192.0.2.1:443;
//!          tls=1;http=2;region=fra;id=01JD…;at=1767225600000000;hop=1;attempt=1;wait=0
//! answer   1;is=answer  |  1;is=answer;of=file  |  1;is=enclosed;status=403  |
//!          1;is=elsewhere;reason=hard-limit;why=…  |  1;is=failed;how=late;why=…
//! ```
//!
//! Names that are not known are passed over, so that a later version may add some.

use crate::accept::Ends;
use crate::pick::Asked;
use crate::wants::Wants;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use roost_model::id::MachineId;
use roost_model::machine::Protocol;
use roost_model::name::AppName;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// The header; `roost-…` is taken away from what clients send.
pub(crate) const RELAY: HeaderName = HeaderName::from_static("roost-relay");
/// What comes first in it: this format.
const VERSION: &str = "1";
/// The most of a reason in words that is passed on.
const WHY_BYTES_MAX: usize = 300;

/// What is the same for all attempts of a request but changes from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Leg {
    /// Edges that the request has passed before this one.
    pub(crate) hop: u8,
    /// The number of the attempt at the edge before.
    pub(crate) attempt: u8,
    /// How long it may wait for the machine.
    pub(crate) wait: Duration,
}

/// What is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    WebSocket,
    /// A raw connection.
    Raw,
    /// A flow of datagrams.
    Datagrams,
    /// The machine is to be woken; there is nothing else.
    Wake,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Http,
        Self::WebSocket,
        Self::Raw,
        Self::Datagrams,
        Self::Wake,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
            Self::Raw => "raw",
            Self::Datagrams => "datagrams",
            Self::Wake => "wake",
        }
    }

    /// What the client has come by.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Datagrams => Protocol::Udp,
            Self::Http | Self::WebSocket | Self::Raw | Self::Wake => Protocol::Tcp,
        }
    }
}

/// What an edge says of a request to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) app: AppName,
    pub(crate) machine: MachineId,
    /// The external port that the client has come to.
    pub(crate) port: u16,
    pub(crate) client: SocketAddr,
    /// The address that it has come to.
    pub(crate) local: SocketAddr,
    pub(crate) is_tls: bool,
    pub(crate) version: Version,
    /// The region of the edge that the client has come to.
    pub(crate) region: String,
    pub(crate) id: ulid::Ulid,
    /// When it came, in microseconds of the epoch.
    pub(crate) at_us: u64,
    pub(crate) leg: Leg,
}

/// A header that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("it says nothing of the request")]
    Missing,
    #[error("it speaks another version")]
    Version,
    #[error("`{0}` is missing or is none")]
    Field(&'static str),
}

/// The fields of a header value.
pub(super) struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Result<Self, WireError> {
        let mut values = headers.get_all(RELAY).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(WireError::Missing);
        };
        let text = value.to_str().map_err(|_| WireError::Version)?;
        match text.split_once(';') {
            Some((VERSION, fields)) => Ok(Self(fields)),
            _ => Err(WireError::Version),
        }
    }

    pub(super) fn text(&self, name: &'static str) -> Result<&'a str, WireError> {
        let mut fields = self.0.split(';').filter_map(|field| field.split_once('='));
        let field = fields.find(|(field, _)| *field == name);
        field.map(|(_, value)| value).ok_or(WireError::Field(name))
    }

    fn read<T: FromStr>(&self, name: &'static str) -> Result<T, WireError> {
        let parsed = self.text(name)?.parse();
        parsed.map_err(|_| WireError::Field(name))
    }
}

impl Block {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, WireError> {
        let fields = Fields::of(headers)?;
        let kind = fields.text("kind")?;
        let kind = Kind::ALL.into_iter().find(|it| it.as_str() == kind);
        Ok(Self {
            kind: kind.ok_or(WireError::Field("kind"))?,
            app: AppName::parse(fields.text("app")?).map_err(|_| WireError::Field("app"))?,
            machine: MachineId::parse(fields.text("machine")?)
                .map_err(|_| WireError::Field("machine"))?,
            port: fields.read("port")?,
            client: fields.read("client")?,
            local: fields.read("local")?,
            is_tls: fields.read::<u8>("tls")? != 0,
            version: match fields.text("http")? {
                "2" => Version::HTTP_2,
                "1.1" => Version::HTTP_11,
                "1.0" => Version::HTTP_10,
                _ => return Err(WireError::Field("http")),
            },
            region: fields.text("region")?.to_owned(),
            id: ulid::Ulid::from_string(fields.text("id")?).map_err(|_| WireError::Field("id"))?,
            at_us: fields.read("at")?,
            leg: Leg {
                hop: fields.read("hop")?,
                attempt: fields.read("attempt")?,
                wait: Duration::from_millis(fields.read("wait")?),
            },
        })
    }

    /// Whom the request asks for: this machine, and no other.
    pub(crate) fn asked<'a>(&'a self, wants: &'a Wants) -> Asked<'a> {
        Asked {
            app: self.app.as_str(),
            protocol: self.kind.protocol(),
            external: self.port,
            wants,
            side: None,
            affinity: None,
        }
    }

    /// The connection of the client, which the first edge has.
    pub(crate) fn ends(&self) -> Ends {
        Ends {
            client: self.client,
            local: self.local,
            is_tls: self.is_tls,
            handshake: Duration::ZERO,
            external: self.port,
            own: None,
        }
    }

    pub(crate) fn value(&self) -> HeaderValue {
        let http = match self.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        let text = format!(
            "{VERSION};kind={};app={};machine={};port={};client={};local={};tls={};http={http};\
             region={};id={};at={};hop={};attempt={};wait={}",
            self.kind.as_str(),
            self.app,
            self.machine,
            self.port,
            self.client,
            self.local,
            u8::from(self.is_tls),
            self.region,
            self.id,
            self.at_us,
            self.leg.hop,
            self.leg.attempt,
            self.leg.wait.as_millis(),
        );
        HeaderValue::try_from(text).expect("names, numbers and addresses are valid header values")
    }
}

/// Why a request is to go elsewhere. None of its bytes has reached the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The machine is at its hard limit.
    HardLimit,
    /// Too many wait for it.
    QueueFull,
    /// It runs and its checks fail, or it does not run.
    Unhealthy,
    /// It takes nothing new.
    Draining,
    /// The node has no such machine.
    Gone,
    /// It was woken and is not ready yet.
    Waking,
    /// It sleeps and could not be woken.
    WakeFailed,
    /// It did not take the connection.
    Unreachable,
    /// The edge there has more to do than it can, or ends.
    Overloaded,
    /// The request has passed too many edges.
    Loop,
    /// The edge there does not understand this one.
    Version,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::HardLimit,
        Self::QueueFull,
        Self::Unhealthy,
        Self::Draining,
        Self::Gone,
        Self::Waking,
        Self::WakeFailed,
        Self::Unreachable,
        Self::Overloaded,
        Self::Loop,
        Self::Version,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::HardLimit => "hard-limit",
            Self::QueueFull => "queue-full",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::Waking => "waking",
            Self::WakeFailed => "wake-failed",
            Self::Unreachable => "unreachable",
            Self::Overloaded => "overloaded",
            Self::Loop => "loop",
            Self::Version => "version",
        }
    }

    /// Whether to wait for the machine makes sense.
    pub(crate) fn may_pass(self) -> bool {
        match self {
            Self::HardLimit | Self::QueueFull | Self::Unhealthy | Self::Waking => true,
            Self::Draining
            | Self::Gone
            | Self::WakeFailed
            | Self::Unreachable
            | Self::Overloaded
            | Self::Loop
            | Self::Version => false,
        }
    }
}

/// "Elsewhere", with the reason and the node that said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) node: String,
    pub(crate) reason: Reason,
    /// The reason in words; may be empty.
    pub(crate) why: String,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, reason) = (&self.node, self.reason.as_str());
        write!(f, "the edge of {node} said elsewhere: {reason}")?;
        if !self.why.is_empty() {
            write!(f, " ({})", self.why)?;
        }
        Ok(())
    }
}

/// How an attempt failed after the app may have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The connection broke before an answer.
    Broken,
    /// There was no answer in time.
    Late,
    /// The request's body broke off or stood still.
    Body,
    /// The header of the answer is too large.
    Header,
}

impl Failed {
    const ALL: [Self; 4] = [Self::Broken, Self::Late, Self::Body, Self::Header];

    fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Late => "late",
            Self::Body => "body",
            Self::Header => "header",
        }
    }
}

/// What an edge says of an answer to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is that of the app, or the tunnel is open.
    Answer,
    /// The app has answered with this status to a wish for a tunnel, which is not open.
    Enclosed(StatusCode),
    Elsewhere(Reason, String),
    Failed(Failed, String),
}

impl Verdict {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, WireError> {
        let fields = Fields::of(headers)?;
        let why = || fields.text("why").unwrap_or_default().to_owned();
        match fields.text("is")? {
            "answer" => Ok(Self::Answer),
            "enclosed" => Ok(Self::Enclosed(fields.read("status")?)),
            "elsewhere" => {
                let reason = fields.text("reason")?;
                let known = Reason::ALL.into_iter().find(|it| it.as_str() == reason);
                // One of a later version is still no byte to the app.
                Ok(Self::Elsewhere(known.unwrap_or(Reason::Version), why()))
            }
            "failed" => {
                let how = fields.text("how")?;
                let known = Failed::ALL.into_iter().find(|it| it.as_str() == how);
                Ok(Self::Failed(known.unwrap_or(Failed::Broken), why()))
            }
            _ => Err(WireError::Field("is")),
        }
    }

    pub(crate) fn value(&self) -> HeaderValue {
        let mut text = format!("{VERSION};");
        // Writing to memory that grows does not fail.
        let _ = match self {
            Self::Answer => return HeaderValue::from_static("1;is=answer"),
            Self::Enclosed(status) => write!(text, "is=enclosed;status={}", status.as_u16()),
            Self::Elsewhere(reason, why) => {
                let why = plain(why);
                write!(text, "is=elsewhere;reason={};why={why}", reason.as_str())
            }
            Self::Failed(how, why) => {
                write!(text, "is=failed;how={};why={}", how.as_str(), plain(why))
            }
        };
        HeaderValue::try_from(text).expect("only plain characters were written")
    }
}

/// Says of an answer that it is a static file of the machine, and none of the app. An edge that does
/// not know of it takes the answer as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OfFile;

impl OfFile {
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let fields = Fields::of(headers).ok()?;
        (fields.text("of") == Ok("file")).then_some(Self)
    }

    pub(crate) fn value() -> HeaderValue {
        HeaderValue::from_static("1;is=answer;of=file")
    }
}

/// Words that fit into a field.
fn plain(words: &str) -> String {
    let plain = |c: char| match c {
        ';' => ',',
        ' '..='~' => c,
        _ => '?',
    };
    words.chars().take(WHY_BYTES_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests;
