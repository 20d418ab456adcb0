//! A real request to an app's URL: the proof that a deploy has worked.

use crate::client::builder_for;
use crate::error::CliError;
use crate::limits;
use crate::output::Output;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Time for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// What one request saw.
struct Proof {
    status: u16,
    first_byte: Duration,
}

/// Requests the URLs, best first, until one answers; gives that one.
pub(crate) async fn any(urls: &[String], output: Output) -> Result<String, CliError> {
    let since = Instant::now();
    loop {
        let mut last = CliError::failed("no-url", "the app has no URL");
        for url in urls {
            match request(url).await {
                // The edge itself answers 502 to 504 when no machine does.
                Ok(proof) if !(502..=504).contains(&proof.status) => {
                    output.say(&format!(
                        "  {url} answers {} ({} ms to the first byte)",
                        proof.status,
                        proof.first_byte.as_millis()
                    ));
                    return Ok(url.clone());
                }
                Ok(proof) => {
                    last = CliError::failed(
                        "url-not-serving",
                        format!("{url} answers {}", proof.status),
                    )
                }
                Err(error) => {
                    let why = std::error::Error::source(&error)
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    last = CliError::failed(
                        "url-unreachable",
                        format!("{url} does not answer: {why}"),
                    );
                }
            }
        }
        if since.elapsed() > limits::PROOF_TIMEOUT {
            return Err(last.hint("`roost status` and `roost logs` show what the machines do"));
        }
        tokio::time::sleep(limits::RETRY_PAUSE).await;
    }
}

async fn request(url: &str) -> Result<Proof, reqwest::Error> {
    let mut client = builder_for(url)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ATTEMPT_TIMEOUT)
        .no_proxy();
    // `*.localhost` is loopback by RFC 6761, whatever the resolver says.
    if let Ok(parsed) = reqwest::Url::parse(url)
        && let Some(host) = parsed.host_str()
        && host.ends_with(".localhost")
    {
        let port = parsed.port_or_known_default().unwrap_or(80);
        let addresses = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]
        .map(|ip| SocketAddr::new(ip, port));
        client = client.resolve_to_addrs(host, &addresses);
    }
    let client = client.build()?;
    let since = Instant::now();
    let mut response = client.get(url).send().await?;
    let status = response.status().as_u16();
    let _ = response.chunk().await?;
    Ok(Proof {
        status,
        first_byte: since.elapsed(),
    })
}
