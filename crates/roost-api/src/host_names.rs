//! Custom host names: what the edge is told of them, and who issues their certificates.

mod lookup;
mod work;

pub(crate) use lookup::lookup;
pub(crate) use work::{revoke, work_on};

use crate::app::addresses::in_use;
use crate::error::ApiError;
use crate::state::ApiState;
use roost_auth::seal::SealError;
use roost_certs::acme::{Account, AcmeSettings};
use roost_certs::challenge::Method;
use roost_certs::issue::{Authority, AuthorityError, Order};
use roost_model::error::chain;
use roost_model::host_name::HostName;
use roost_proto::names::{CertificatePem, ChallengeAnswer, Host, NameTable};
use roost_store::host_names::{CertificateRecord, HostNameRecord};
use roost_store::{Store, StoreError};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

/// What an operator and the edge have to do with custom host names.
#[derive(Debug, Default)]
pub struct HostNameParts {
    /// Where the table is published.
    pub table: watch::Sender<Arc<NameTable>>,
    /// Who issues certificates, if anybody.
    pub acme: Option<AcmeSettings>,
    /// The addresses under which the edge is reached from outside for all apps, if they are known.
    pub public_ips: Vec<IpAddr>,
}

/// The same at work.
pub(crate) struct HostNames {
    pub(crate) parts: HostNameParts,
    /// Opened when it is first needed.
    authority: Mutex<Option<Arc<dyn Authority>>>,
    /// Held from the reading of the database to the publishing of what was read.
    publishing: Mutex<()>,
    /// Changes when there is something to do.
    changes: watch::Sender<u64>,
}

/// Something about a host name could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostNameError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the sealed {what} of {of}")]
    Sealed {
        what: &'static str,
        of: String,
        #[source]
        source: SealError,
    },
    #[error("the {what} of {of} cannot be read")]
    Unreadable { what: &'static str, of: String },
    #[error("answer the challenge for {0}")]
    Challenge(HostName),
}

impl From<HostNameError> for ApiError {
    fn from(error: HostNameError) -> Self {
        match error {
            HostNameError::Store(error) => error.into(),
            other => Self::internal(chain(&other)),
        }
    }
}

impl HostNames {
    pub(crate) fn new(parts: HostNameParts) -> Self {
        Self {
            parts,
            authority: Mutex::default(),
            publishing: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Whether there is an authority to ask.
    pub(crate) fn can_issue(&self) -> bool {
        self.parts.acme.is_some()
    }

    /// A wake-up whenever there may be something to do.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn wake(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Puts another authority in the place of the configured one.
    #[cfg(test)]
    pub(crate) async fn set_authority(&self, authority: Arc<dyn Authority>) {
        *self.authority.lock().await = Some(authority);
    }
}

/// Who issues certificates; none when no authority is configured.
async fn authority(state: &ApiState) -> Result<Option<Arc<dyn Authority>>, HostNameError> {
    let names = &state.host_names;
    let mut kept = names.authority.lock().await;
    if let Some(authority) = &*kept {
        return Ok(Some(authority.clone()));
    }
    let Some(settings) = &names.parts.acme else {
        return Ok(None);
    };
    let directory = &settings.directory;
    let place = format!("acme-account:{directory}");
    let account = match state.store.acme_account(directory).await? {
        Some(sealed) => {
            let text = open(state, &sealed, ("account", directory), &place)?;
            Account::open(settings, &text).await?
        }
        None => {
            let (account, text) = Account::register(settings).await?;
            let sealed = seal(state, &text, ("account", directory), &place)?;
            let (store, now) = (&state.store, state.clock.now());
            store
                .set_acme_account(directory, Some(&sealed), now)
                .await?;
            tracing::info!(
                directory,
                "an account with the certificate authority was made"
            );
            account
        }
    };
    let account: Arc<dyn Authority> = Arc::new(account);
    *kept = Some(account.clone());
    Ok(Some(account))
}

/// Forgets an account that the authority does not know.
async fn forget_account(state: &ApiState) -> Result<(), StoreError> {
    let names = &state.host_names;
    let mut kept = names.authority.lock().await;
    if let Some(settings) = &names.parts.acme {
        let (store, now) = (&state.store, state.clock.now());
        store
            .set_acme_account(&settings.directory, None, now)
            .await?;
        *kept = None;
    }
    Ok(())
}

/// Tells the edge how it is now.
pub(crate) async fn publish(state: &ApiState) -> Result<(), StoreError> {
    let _one_at_a_time = state.host_names.publishing.lock().await;
    let table = table(state, &state.store).await?;
    state.host_names.parts.table.send_if_modified(|known| {
        let is_new = **known != table;
        if is_new {
            *known = Arc::new(table);
        }
        is_new
    });
    Ok(())
}

async fn table(state: &ApiState, store: &Store) -> Result<NameTable, StoreError> {
    let mut table = NameTable::default();
    for record in store.host_names(None).await? {
        let certificate = record.certificate.as_ref();
        let certificate = certificate.map(|known| open_certificate(state, &record, known));
        let certificate = or_without(&record, certificate.transpose());
        if let Some(answer) = or_without(&record, answer_of(state, &record)) {
            table.challenges.insert(record.host.clone(), answer);
        }
        let host = Host {
            app: record.app,
            certificate: certificate.map(Arc::new),
        };
        table.hosts.insert(record.host, host);
    }
    let addresses = in_use(state).await?.into_iter();
    table.addresses = addresses.map(|own| (own.address, own.app)).collect();
    Ok(table)
}

/// What cannot be opened must not take the other names off the edge.
fn or_without<T>(record: &HostNameRecord, opened: Result<Option<T>, HostNameError>) -> Option<T> {
    opened.unwrap_or_else(|error| {
        let error = chain(&error);
        tracing::error!(host = %record.host, error, "a host name serves without it");
        None
    })
}

/// What the edge answers an authority that validates this name.
fn answer_of(
    state: &ApiState,
    record: &HostNameRecord,
) -> Result<Option<ChallengeAnswer>, HostNameError> {
    let Some(order) = order_of(state, record)? else {
        return Ok(None);
    };
    let answer = order.challenge.map(|challenge| {
        let answer = challenge.answer(&record.host, order.method);
        answer.map_err(|_| HostNameError::Challenge(record.host.clone()))
    });
    answer.transpose()
}

fn open_certificate(
    state: &ApiState,
    record: &HostNameRecord,
    certificate: &CertificateRecord,
) -> Result<CertificatePem, HostNameError> {
    let place = format!("certificate-key:{}", record.host);
    let of = ("key", record.host.as_str());
    Ok(CertificatePem {
        chain: certificate.chain.clone(),
        key: open(state, &certificate.sealed_key, of, &place)?,
    })
}

/// A certificate as it is kept.
pub(crate) fn seal_certificate(
    state: &ApiState,
    host: &HostName,
    certificate: &CertificatePem,
) -> Result<CertificateRecord, HostNameError> {
    let place = format!("certificate-key:{host}");
    Ok(CertificateRecord {
        chain: certificate.chain.clone(),
        sealed_key: seal(state, &certificate.key, ("key", host.as_str()), &place)?,
    })
}

/// The order of a host name that is under way.
fn order_of(state: &ApiState, record: &HostNameRecord) -> Result<Option<Order>, HostNameError> {
    let Some(sealed) = &record.sealed_order else {
        return Ok(None);
    };
    let of = ("order", record.host.as_str());
    let text = open(state, sealed, of, &order_place(&record.host))?;
    let order = serde_json::from_str(&text);
    order.map(Some).map_err(|_| HostNameError::Unreadable {
        what: "order",
        of: record.host.to_string(),
    })
}

fn seal_order(state: &ApiState, host: &HostName, order: &Order) -> Result<Vec<u8>, HostNameError> {
    let text = serde_json::to_string(order).map_err(|_| HostNameError::Unreadable {
        what: "order",
        of: host.to_string(),
    })?;
    let of = ("order", host.as_str());
    seal(state, &Zeroizing::new(text), of, &order_place(host))
}

fn order_place(host: &HostName) -> String {
    format!("certificate-order:{host}")
}

/// How the name of a record is to be proven next.
fn method_of(record: &HostNameRecord) -> Method {
    Method::parse(&record.method).unwrap_or(Method::Http01)
}

fn seal(
    state: &ApiState,
    text: &str,
    (what, of): (&'static str, &str),
    place: &str,
) -> Result<Vec<u8>, HostNameError> {
    let sealed = state.sealing_key.seal(text.as_bytes(), place.as_bytes());
    sealed.map_err(|source| HostNameError::Sealed {
        what,
        of: of.to_owned(),
        source,
    })
}

fn open(
    state: &ApiState,
    sealed: &[u8],
    (what, of): (&'static str, &str),
    place: &str,
) -> Result<Zeroizing<String>, HostNameError> {
    let of = || of.to_owned();
    let opened = state.sealing_key.open(sealed, place.as_bytes());
    let opened = opened.map_err(|source| HostNameError::Sealed {
        what,
        of: of(),
        source,
    })?;
    let text = std::str::from_utf8(&opened);
    let text = text.map_err(|_| HostNameError::Unreadable { what, of: of() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests;
