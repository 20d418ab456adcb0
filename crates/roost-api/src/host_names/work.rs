//! The work on one certificate that is due: some pieces, each recorded before the next.

use super::{
    HostNameError, authority, forget_account, lookup, method_of, order_of, publish,
    seal_certificate, seal_order,
};
use crate::limits;
use crate::state::ApiState;
use roost_certs::chain;
use roost_certs::challenge::Method;
use roost_certs::issue::{self, Authority, AuthorityError, Order, Step};
use roost_certs::times;
use roost_model::time::Timestamp;
use roost_proto::names::CertificatePem;
use roost_store::StoreError;
use roost_store::host_names::{Attempt, HostNameRecord, Revocation};

/// Why no certificate came of an attempt.
struct Failure {
    outcome: &'static str,
    message: String,
    /// Whether the other way to prove the name may do better.
    turn: bool,
    next_at: Timestamp,
    limited_until: Option<Timestamp>,
}

/// Brings the certificate of a host name further. What was done, if that is worth telling.
pub(crate) async fn work_on(
    state: &ApiState,
    record: &HostNameRecord,
) -> Result<Option<String>, HostNameError> {
    let host = &record.host;
    let method = order_of(state, record)?.map_or(method_of(record), |order| order.method);
    let ended = match under_way(state, record).await {
        Ok(None) => return Ok(None),
        Ok(Some(Ok(certificate))) => issued(state, record, method, &certificate).await?,
        Ok(Some(Err(failure))) => Err(failure),
        Err(HostNameError::Authority(error)) => {
            if error == AuthorityError::Lost("the account") {
                forget_account(state).await?;
            }
            Err(failure_of(state, record, error))
        }
        Err(error) => return Err(error),
    };
    let done = match ended {
        Ok(done) => done,
        Err(failure) => {
            let next = if failure.turn { method.other() } else { method };
            let attempt = attempt(state, method, failure.outcome, failure.message);
            let next = (next.as_str(), failure.next_at);
            let store = &state.store;
            store
                .set_certificate_failed(host, &attempt, next, failure.limited_until)
                .await?;
            format!("no certificate for {host} yet: {}", attempt.message)
        }
    };
    publish(state).await?;
    Ok(Some(done))
}

/// Some pieces of work; the certificate or the failure that they ended in, if they did.
async fn under_way(
    state: &ApiState,
    record: &HostNameRecord,
) -> Result<Option<Result<CertificatePem, Failure>>, HostNameError> {
    let host = &record.host;
    let Some(authority) = authority(state).await? else {
        return Ok(None);
    };
    let authority: &dyn Authority = authority.as_ref();
    let mut order = match order_of(state, record)? {
        Some(order) => order,
        None => {
            if let Some(failure) = held_back(state, record).await {
                return Ok(Some(Err(failure)));
            }
            let now = state.clock.now();
            let order = issue::begin(authority, host, method_of(record), now).await?;
            save(state, record, &order, now).await?;
            order
        }
    };
    for _ in 0..limits::CERTIFICATE_STEPS_MAX {
        let now = state.clock.now();
        match issue::advance(authority, host, &mut order, now).await? {
            Step::Again => {
                save(state, record, &order, now).await?;
                publish(state).await?;
            }
            Step::Wait => {
                save(state, record, &order, now.after(limits::ORDER_POLL)).await?;
                return Ok(None);
            }
            Step::Issued(certificate) => return Ok(Some(Ok(certificate))),
            Step::Failed(why) => {
                let failure = failed(state, record, "failed", why, true);
                return Ok(Some(Err(failure)));
            }
        }
    }
    Ok(None)
}

async fn save(
    state: &ApiState,
    record: &HostNameRecord,
    order: &Order,
    next_at: Timestamp,
) -> Result<(), HostNameError> {
    let sealed = seal_order(state, &record.host, order)?;
    let store = &state.store;
    store
        .set_certificate_order(&record.host, Some(&sealed), next_at)
        .await?;
    Ok(())
}

/// A name that is known to lead elsewhere is not asked for: it could only fail, and authorities
/// count failures.
async fn held_back(state: &ApiState, record: &HostNameRecord) -> Option<Failure> {
    let seen = lookup(state, &record.app, &record.host).await;
    (seen.points_here == Some(false))
        .then(|| failed(state, record, "held-back", seen.message, false))
}

fn failed(
    state: &ApiState,
    record: &HostNameRecord,
    outcome: &'static str,
    message: String,
    turn: bool,
) -> Failure {
    let n_failures = record.n_failures.saturating_add(1);
    Failure {
        outcome,
        message,
        turn,
        next_at: times::retry_at(state.clock.now(), n_failures, rand::random()),
        limited_until: None,
    }
}

fn failure_of(state: &ApiState, record: &HostNameRecord, error: AuthorityError) -> Failure {
    let message = error.to_string();
    match error {
        AuthorityError::RateLimited { retry_after, .. } => {
            let until = times::after_rate_limit(state.clock.now(), retry_after, rand::random());
            Failure {
                next_at: until,
                limited_until: Some(until),
                ..failed(state, record, "rate-limited", message, false)
            }
        }
        AuthorityError::Refused { .. } => failed(state, record, "failed", message, false),
        AuthorityError::Lost(_) | AuthorityError::Unreachable(_) | AuthorityError::Crypto => {
            failed(state, record, "unreachable", message, false)
        }
    }
}

/// Takes a certificate into service, if it is one.
async fn issued(
    state: &ApiState,
    record: &HostNameRecord,
    method: Method,
    certificate: &CertificatePem,
) -> Result<Result<String, Failure>, HostNameError> {
    let (host, now) = (&record.host, state.clock.now());
    let facts = match chain::check(&certificate.chain, &certificate.key, host, now) {
        Ok(facts) => facts,
        Err(fault) => {
            let message = format!("what the certificate authority issued cannot serve: {fault}");
            return Ok(Err(failed(state, record, "failed", message, false)));
        }
    };
    let kept = seal_certificate(state, host, certificate)?;
    let message = format!("issued by {}", facts.issuer);
    let attempt = attempt(state, method, "issued", message);
    let renew_at = times::renew_at(facts.not_before, facts.not_after, rand::random());
    let renew_at = renew_at.max(now.after(limits::RENEW_MIN));
    let store = &state.store;
    store
        .set_certificate(host, &kept, &attempt, renew_at)
        .await?;
    Ok(Ok(format!("{host} has a certificate")))
}

fn attempt(state: &ApiState, method: Method, outcome: &str, message: String) -> Attempt {
    Attempt {
        at: state.clock.now(),
        method: method.to_string(),
        outcome: outcome.to_owned(),
        message,
    }
}

/// Revokes a certificate whose host name is gone. Whether that came to an end.
pub(crate) async fn revoke(state: &ApiState, due: &Revocation) -> Result<bool, StoreError> {
    let revoked = match authority(state).await {
        Ok(Some(authority)) => authority.revoke(&due.chain).await.map_err(Into::into),
        // Nobody is there to be asked any more.
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let error = match revoked {
        // A repetition would be refused as well.
        Ok(()) | Err(HostNameError::Authority(AuthorityError::Refused { .. })) => {
            state.store.end_revocation(&due.chain, None).await?;
            return Ok(true);
        }
        Err(error) => error,
    };
    if matches!(
        error,
        HostNameError::Authority(AuthorityError::Lost("the account"))
    ) {
        forget_account(state).await?;
    }
    let error = roost_model::error::chain(&error);
    let now = state.clock.now();
    let is_over = chain::facts(&due.chain).map_or(true, |facts| facts.not_after <= now);
    let next_at = times::retry_at(now, due.n_failures.saturating_add(1), rand::random());
    let next_at = (!is_over).then_some(next_at);
    state.store.end_revocation(&due.chain, next_at).await?;
    tracing::warn!(host = %due.host, error, "a certificate is not revoked yet");
    Ok(is_over)
}
