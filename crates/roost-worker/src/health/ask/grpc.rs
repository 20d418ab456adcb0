//! gRPC checks: one call of `grpc.health.v1.Health/Check`.
//!
//! The two messages are written out here, so that no compiler of messages is
//! needed for four fields (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use super::Answer;
use super::http::AGENT;
use super::text::excerpt;
use super::tls::Transport;
use crate::limits;
use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_model::error::chain;
use roost_model::machine::GrpcCheck;
use std::net::SocketAddr;
use tonic::{Code, Status};

const METHOD: &str = "/grpc.health.v1.Health/Check";

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

pub(super) async fn exchange(
    transport: Transport,
    address: SocketAddr,
    check: &GrpcCheck,
) -> Answer {
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(limits::CHECK_HEAD_BYTES_MAX)
        .initial_stream_window_size(limits::CHECK_WINDOW_BYTES)
        .initial_connection_window_size(limits::CHECK_WINDOW_BYTES)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| format!("no HTTP/2: {}", chain(&error)))?;
    let origin = origin(address, check)?;
    let exchange = async {
        let channel = tower::service_fn(move |request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let mut client = tonic::client::Grpc::with_origin(channel, origin)
            .max_decoding_message_size(limits::CHECK_GRPC_BYTES_MAX);
        let service = check.service.clone();
        let mut request = tonic::Request::new(HealthCheckRequest { service });
        let agent = tonic::metadata::MetadataValue::from_static(AGENT);
        request.metadata_mut().insert("user-agent", agent);
        let codec = tonic_prost::ProstCodec::default();
        let path = PathAndQuery::from_static(METHOD);
        client.ready().await.map_err(|error| error.to_string())?;
        let answer = client.unary(request, path, codec).await;
        verdict(answer.map(tonic::Response::into_inner))
    };
    // Driven together, and dropped together, as in HTTP checks.
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        // Cancel-safe: both live in this function and are polled until the answer is here.
        outcome = &mut exchange => outcome,
        // Cancel-safe: as above.
        _ = &mut connection => exchange.await,
    }
}

fn origin(address: SocketAddr, check: &GrpcCheck) -> Result<Uri, String> {
    let authority = Authority::try_from(address.to_string());
    let scheme = match check.tls {
        None => Scheme::HTTP,
        Some(_) => Scheme::HTTPS,
    };
    let uri = Uri::builder().scheme(scheme).path_and_query("/");
    uri.authority(authority.map_err(|error| error.to_string())?)
        .build()
        .map_err(|error| error.to_string())
}

fn verdict(answer: Result<HealthCheckResponse, Status>) -> Answer {
    match answer {
        Ok(response) => match response.status() {
            ServingStatus::Serving => Ok("SERVING".into()),
            ServingStatus::NotServing => Err("NOT_SERVING".into()),
            ServingStatus::ServiceUnknown => Err("SERVICE_UNKNOWN".into()),
            ServingStatus::Unknown => Err("UNKNOWN".into()),
        },
        Err(status) => {
            let hint = match status.code() {
                Code::Unimplemented => " (the app does not serve grpc.health.v1.Health)",
                Code::NotFound => " (the app does not know this service)",
                _ => "",
            };
            let message = excerpt(status.message().as_bytes());
            Err(format!("{:?}: {message}{hint}", status.code()))
        }
    }
}
