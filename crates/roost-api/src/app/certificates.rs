//! Custom host names: add, show, check, remove.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::host_names::{lookup, publish, seal_certificate};
use crate::state::ApiState;
use roost_auth::policy::Action;
use roost_certs::chain;
use roost_certs::challenge::Method;
use roost_model::error::{Blame, CallerFault};
use roost_model::host_name::HostName;
use roost_model::name::AppName;
use roost_proto::names::CertificatePem;
use roost_proto::rest::{Certificate, CertificateAttempt, CertificateList};
use roost_store::StoreError;
use roost_store::host_names::{HostNameRecord, NewHostName, Source};

/// The host names of an app.
pub(crate) async fn list(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
) -> Result<CertificateList, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let records = state.store.host_names(Some(&app.id)).await?;
    Ok(CertificateList {
        certificates: records.iter().map(|record| view(state, record)).collect(),
    })
}

/// One host name.
pub(crate) async fn get(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    host: &HostName,
) -> Result<Certificate, ApiError> {
    ctx.allow(Action::SeeApp, Some(name))?;
    let app = find_app(state, name).await?;
    let records = state.store.host_names(Some(&app.id)).await?;
    let found = records.iter().find(|record| record.host == *host);
    let attempts = state.store.certificate_attempts(host).await?;
    let attempts = attempts.into_iter().map(|attempt| CertificateAttempt {
        at: attempt.at.as_ms(),
        method: attempt.method,
        outcome: attempt.outcome,
        message: attempt.message,
    });
    Ok(Certificate {
        attempts: attempts.collect(),
        ..view(state, found.ok_or_else(|| not_found(name, host))?)
    })
}

/// Has a certificate issued for a host name.
pub(crate) async fn issue(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    host: &str,
) -> Result<Certificate, ApiError> {
    ctx.allow(Action::ManageCertificates, Some(name))?;
    let host = checked(state, host)?;
    if host.is_wildcard() {
        let message = format!("a certificate for {host} can be uploaded, but not issued yet");
        return Err(invalid("wildcard-not-issued", message)
            .with_hint("give `--cert` and `--key`, or add each name that is needed by itself"));
    }
    if !state.host_names.can_issue() {
        let message = "this platform has no authority to issue certificates";
        return Err(invalid("no-certificate-authority", message).with_hint(
            "give `--cert` and `--key`, or name one with `roost up --acme-directory URL`",
        ));
    }
    add(ctx, state, name, host, None).await
}

/// Takes an uploaded certificate for a host name.
pub(crate) async fn upload(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    host: &str,
    certificate: CertificatePem,
) -> Result<Certificate, ApiError> {
    ctx.allow(Action::ManageCertificates, Some(name))?;
    let host = checked(state, host)?;
    let now = state.clock.now();
    chain::check(&certificate.chain, &certificate.key, &host, now)
        .map_err(|fault| invalid("certificate-invalid", fault.to_string()))?;
    add(ctx, state, name, host, Some(certificate)).await
}

async fn add(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    host: HostName,
    certificate: Option<CertificatePem>,
) -> Result<Certificate, ApiError> {
    let app = find_app(state, name).await?;
    if app.deleting_at.is_some() {
        return Err(StoreError::Deleting(name.to_string()).into());
    }
    let (state_of_task, host_of_task) = (state.clone(), host.clone());
    ctx.supervised(state, async move {
        let (state, host) = (state_of_task, host_of_task);
        let certificate = certificate.map(|pem| seal_certificate(&state, &host, &pem));
        let certificate = certificate.transpose()?;
        let new = NewHostName {
            host: &host,
            app_id: &app.id,
            certificate: certificate.as_ref(),
            method: Method::Http01.as_str(),
        };
        match state.store.add_host_name(new, state.clock.now()).await {
            Err(StoreError::Exists(_)) => {
                let message = format!("the host name {host} belongs to another app");
                return Err(ApiError::conflict("host-name-taken", message)
                    .with_hint("remove it there first: `roost certs remove HOST -a APP`"));
            }
            other => other?,
        }
        publish(&state).await?;
        state.host_names.wake();
        Ok(())
    })
    .await?;
    get(ctx, state, name, &host).await
}

/// Says where a host name leads, and has a certificate that failed tried again now.
pub(crate) async fn check(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    host: &HostName,
) -> Result<Certificate, ApiError> {
    ctx.allow(Action::ManageCertificates, Some(name))?;
    get(ctx, state, name, host).await?;
    let seen = lookup(state, name, host).await;
    let now = state.clock.now();
    state.store.hasten_certificate(host, now).await?;
    state.host_names.wake();
    Ok(Certificate {
        lookup: Some(seen),
        ..get(ctx, state, name, host).await?
    })
}

/// Removes a host name. A certificate that was issued for it is revoked.
pub(crate) async fn remove(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    host: &HostName,
) -> Result<(), ApiError> {
    ctx.allow(Action::ManageCertificates, Some(name))?;
    let app = find_app(state, name).await?;
    let (state_of_task, host_of_task) = (state.clone(), host.clone());
    let was_there = ctx.supervised(state, async move {
        let (state, host) = (state_of_task, host_of_task);
        let now = state.clock.now();
        let was_there = state.store.remove_host_name(&app.id, &host, now).await?;
        publish(&state).await?;
        state.host_names.wake();
        Ok(was_there)
    });
    match was_there.await? {
        true => Ok(()),
        false => Err(not_found(name, host)),
    }
}

/// A host name that an app may have.
fn checked(state: &ApiState, host: &str) -> Result<HostName, ApiError> {
    let host = HostName::parse(host)?;
    let mut domains = state.node.domains.iter();
    if let Some(domain) = domains.find(|domain| host.is_in(domain)) {
        return Err(ApiError::invalid(format!(
            "{host} is a name of the platform itself: each app answers at APP.{domain}"
        )));
    }
    Ok(host)
}

fn invalid(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(Blame::Caller(CallerFault::Invalid), code, message)
}

fn not_found(app: &AppName, host: &HostName) -> ApiError {
    let message = format!("app `{app}` has no host name {host}");
    ApiError::not_found("host-name-not-found", message)
        .with_hint(format!("`roost certs list -a {app}` shows those it has"))
}

fn view(state: &ApiState, record: &HostNameRecord) -> Certificate {
    let facts = record.certificate.as_ref();
    let facts = facts.and_then(|certificate| chain::facts(&certificate.chain).ok());
    let status = match &facts {
        Some(facts) if facts.not_after <= state.clock.now() => "expired",
        Some(_) => "active",
        None if record.n_failures > 0 => "failing",
        None => "pending",
    };
    let ms = |time: roost_model::time::Timestamp| time.as_ms();
    let next_at = record.next_at.filter(|_| record.source == Source::Acme);
    Certificate {
        hostname: record.host.to_string(),
        app: record.app.to_string(),
        source: record.source.as_str().into(),
        status: status.into(),
        issuer: facts.as_ref().map(|facts| facts.issuer.clone()),
        expires_at: facts.as_ref().map(|facts| ms(facts.not_after)),
        names: facts.map(|facts| facts.names).unwrap_or_default(),
        next_attempt_at: next_at.map(ms),
        rate_limited_until: record.limited_until.map(ms),
        attempts: vec![],
        lookup: None,
        created_at: ms(record.created_at),
    }
}
