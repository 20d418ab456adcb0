//! `certs`: custom host names and their certificates.

use crate::args::{AddArgs, CertsCommand, Global};
use crate::client::{Client, NOTHING, encode};
use crate::error::CliError;
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_model::host_name::HostName;
use roost_proto::rest::{
    Certificate, CertificateList, IssueCertificateRequest, UploadCertificateRequest,
};
use std::io::Read as _;
use std::path::Path;

/// Most bytes of a file that is sent; the platform takes no more.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Runs `certs …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: CertsCommand,
    output: Output,
) -> Result<(), CliError> {
    let app = app_name(global)?;
    let path = format!("/v1/apps/{app}/certificates");
    match command {
        CertsCommand::Add(args) => add(client, global, &app, &args, output).await?,
        CertsCommand::List => {
            let list: CertificateList = client.get(&path).await?;
            let rows = || list.certificates.iter().map(row).collect();
            output.result(&list.certificates, || {
                table(&["host name", "status", "source", "expires"], rows())
            });
        }
        CertsCommand::Show { host } => {
            let host = checked(&host)?;
            let found: Certificate = client.get(&format!("{path}/{}", encode(&host))).await?;
            output.result(&found, || text(&found));
        }
        CertsCommand::Check { host } => {
            let host = checked(&host)?;
            if global.dry_run {
                let details = serde_json::json!({"app": app, "hostname": host});
                let what = format!("look where {host} leads, and try again what failed");
                output.plan("certs check", details, &what);
                return Ok(());
            }
            let path = format!("{path}/{}/check", encode(&host));
            let found: Certificate = client.post(&path, NOTHING).await?;
            output.result(&found, || text(&found));
        }
        CertsCommand::Remove { host } => {
            let host = checked(&host)?;
            let path = format!("{path}/{}", encode(&host));
            let found: Certificate = client.get(&path).await?;
            let what = match found.source.as_str() {
                "acme" if found.expires_at.is_some() => {
                    format!("remove {host} from {app} and revoke its certificate")
                }
                _ => format!("remove {host} from {app}"),
            };
            if global.dry_run {
                let details = serde_json::json!({"app": app, "hostname": host});
                output.plan("certs remove", details, &what);
                return Ok(());
            }
            output.confirm(&what, &host)?;
            client.delete(&path).await?;
            output.result(&serde_json::json!({"removed": host}), || {
                format!("removed {host}")
            });
        }
    }
    Ok(())
}

async fn add(
    client: &Client,
    global: &Global,
    app: &str,
    args: &AddArgs,
    output: Output,
) -> Result<(), CliError> {
    let hostname = checked(&args.host)?;
    let upload = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    if global.dry_run {
        let how = if upload.is_some() {
            "with the certificate given"
        } else {
            "and have a certificate issued"
        };
        let details = serde_json::json!({"app": app, "hostname": hostname});
        output.plan(
            "certs add",
            details,
            &format!("add {hostname} to {app} {how}"),
        );
        return Ok(());
    }
    let path = format!("/v1/apps/{app}/certificates");
    let added: Certificate = match upload {
        Some((fullchain, private_key)) => {
            let request = UploadCertificateRequest {
                hostname,
                fullchain,
                private_key,
            };
            client
                .post(&format!("{path}/custom"), Some(&request))
                .await?
        }
        None => {
            let request = IssueCertificateRequest { hostname };
            client.post(&format!("{path}/acme"), Some(&request)).await?
        }
    };
    output.result(&added, || text(&added));
    if added.source == "acme" && added.expires_at.is_none() {
        output.say(&format!(
            "`roost certs show {} -a {app}` shows how far it is",
            added.hostname
        ));
    }
    Ok(())
}

fn checked(host: &str) -> Result<String, CliError> {
    HostName::parse(host)
        .map(String::from)
        .map_err(|error| CliError::usage(error.to_string()))
}

fn read(path: &Path) -> Result<String, CliError> {
    let failed = |error| CliError::io(format!("read {}", path.display()), &error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let n_bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    if n_bytes.map_err(failed)? as u64 > FILE_BYTES_MAX {
        let path = path.display();
        return Err(CliError::usage(format!(
            "{path} has more than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

fn row(certificate: &Certificate) -> Vec<String> {
    vec![
        certificate.hostname.clone(),
        certificate.status.clone(),
        certificate.source.clone(),
        certificate.expires_at.map(date).unwrap_or_default(),
    ]
}

/// All about one host name, one line each.
fn text(certificate: &Certificate) -> String {
    let mut lines = vec![format!(
        "{}: {}, answered by {}",
        certificate.hostname, certificate.status, certificate.app
    )];
    let source = match certificate.source.as_str() {
        "custom" => "a certificate of your own, which is not renewed",
        _ => "a certificate that is issued and renewed",
    };
    lines.push(format!("  source   {source}"));
    if let (Some(issuer), Some(expires_at)) = (&certificate.issuer, certificate.expires_at) {
        lines.push(format!("  issuer   {issuer}"));
        lines.push(format!("  names    {}", certificate.names.join(", ")));
        lines.push(format!("  expires  {}", date(expires_at)));
    }
    if let Some(until) = certificate.rate_limited_until {
        lines.push(format!("  limited  by the authority until {}", date(until)));
    }
    if let Some(next) = certificate.next_attempt_at {
        lines.push(format!("  next     {}", date(next)));
    }
    if let Some(lookup) = &certificate.lookup {
        lines.push(format!("  lookup   {}", lookup.message));
    }
    for attempt in &certificate.attempts {
        lines.push(format!(
            "  {}  {} by {}: {}",
            date(attempt.at),
            attempt.outcome,
            attempt.method,
            attempt.message
        ));
    }
    lines.join("\n")
}
