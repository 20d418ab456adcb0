//! Questions to real servers on loopback.

use super::grpc::{HealthCheckRequest, HealthCheckResponse, ServingStatus};
use super::tls::TlsClient;
use super::{Answer, Asker, Target};
use crate::limits::{CHECK_OUTPUT_BYTES_MAX, CHECKS_IN_FLIGHT_MAX, CHECKS_PER_MACHINE_MAX};
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_host::driver::DriverError;
use roost_model::id::MachineId;
use roost_model::machine::{Check, CheckKind, CheckTls, GrpcCheck, HttpCheck, StatusRanges};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::Status;

/// The name that the server's certificate is for.
const NAME: &str = "app.example";

fn target() -> Target {
    let id = MachineId::from_bytes([1; 7]);
    Target {
        driver: Err(DriverError::NotRunning(id.clone())),
        id,
        ipv4: Ipv4Addr::LOCALHOST,
        slots: Semaphore::new(CHECKS_PER_MACHINE_MAX),
    }
}

async fn ask_with(asker: &Asker, kind: CheckKind) -> Answer {
    let check = Check {
        timeout: Duration::from_secs(30),
        ..Check::new(kind)
    };
    asker.ask(&target(), &check).await
}

async fn ask(kind: CheckKind) -> Answer {
    ask_with(&Asker::new(), kind).await
}

/// Serves each connection so until the set is dropped.
async fn serve<F>(
    tasks: &mut JoinSet<()>,
    on_connection: impl Fn(TcpStream) -> F + Send + 'static,
) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(on_connection(stream));
        }
    });
    port
}

/// Reads the head of a request, then sends this again and again, so often.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    first: &[u8],
    more: &[u8],
    n_more: usize,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    if stream.write_all(first).await.is_err() {
        return;
    }
    for _ in 0..n_more {
        if stream.write_all(more).await.is_err() {
            return;
        }
    }
    // What would be lost if the connection were reset is read first.
    let _ = stream.shutdown().await;
    let _ = stream.read(&mut [0]).await;
}

/// Keeps the connection, and says nothing.
async fn keep_silent(stream: TcpStream) {
    std::future::pending::<()>().await;
    drop(stream);
}

/// A certificate for `NAME`, and a client that trusts it.
fn tls_pair() -> (TlsAcceptor, TlsClient) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    (
        TlsAcceptor::from(Arc::new(config)),
        TlsClient::with_roots(roots),
    )
}

fn with_tls(client: TlsClient) -> Asker {
    let asker = Asker::new();
    asker.tls.set(client).unwrap();
    asker
}

fn verifying(name: &str) -> CheckTls {
    CheckTls {
        server_name: Some(name.into()),
        skip_verify: false,
    }
}

#[tokio::test]
async fn a_port_that_is_closed_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(
        ask(CheckKind::Tcp { port }).await,
        Ok("connection accepted".into())
    );
    drop(listener);
    assert_eq!(
        ask(CheckKind::Tcp { port }).await,
        Err("connection refused".into())
    );
}

#[tokio::test]
async fn the_status_decides_and_redirects_are_not_followed() {
    let mut tasks = JoinSet::new();
    let port = serve(&mut tasks, |stream| {
        answer(
            stream,
            b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 2\r\n\r\nup",
            b"",
            0,
        )
    })
    .await;
    let http = HttpCheck::get(port, "/up");
    assert_eq!(
        ask(CheckKind::Http(http.clone())).await,
        Err("302 Found up".into())
    );
    let statuses = StatusRanges::parse(&["300-399"]).unwrap();
    let expecting = HttpCheck { statuses, ..http };
    assert_eq!(
        ask(CheckKind::Http(expecting)).await,
        Ok("302 Found up".into())
    );
}

#[tokio::test]
async fn what_a_config_asks_for_is_what_is_sent() {
    let mut tasks = JoinSet::new();
    let (heads, mut sent) = tokio::sync::mpsc::channel(1);
    let port = serve(&mut tasks, move |mut stream| {
        let heads = heads.clone();
        async move {
            let mut head = vec![0; 4_096];
            let n = stream.read(&mut head).await.unwrap();
            heads
                .send(String::from_utf8_lossy(&head[..n]).into_owned())
                .await
                .unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let headers = [
        ("Host".into(), "app.example".into()),
        ("X-Forwarded-Proto".into(), "https".into()),
    ];
    let http = HttpCheck {
        method: "HEAD".into(),
        headers: headers.into(),
        ..HttpCheck::get(port, "/up?deep=1")
    };
    assert_eq!(
        ask(CheckKind::Http(http)).await,
        Ok("204 No Content".into())
    );
    let head = sent.recv().await.unwrap();
    assert!(head.starts_with("HEAD /up?deep=1 HTTP/1.1\r\n"), "{head}");
    for line in [
        "host: app.example",
        "x-forwarded-proto: https",
        "user-agent: roost-check",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert_eq!(head.matches("host:").count(), 1, "{head}");
}

#[tokio::test]
async fn an_answer_without_end_costs_little() {
    let mut tasks = JoinSet::new();
    // A gigabyte of body, and of headers.
    let chunk: &'static [u8] = &[b'a'; 64 * 1024];
    let body = serve(&mut tasks, move |stream| {
        answer(stream, b"HTTP/1.1 200 OK\r\n\r\n", chunk, 16 * 1024)
    })
    .await;
    let output = ask(CheckKind::Http(HttpCheck::get(body, "/")))
        .await
        .unwrap();
    assert_eq!(output.len(), "200 OK ".len() + CHECK_OUTPUT_BYTES_MAX);
    let headers = serve(&mut tasks, move |stream| {
        answer(stream, b"HTTP/1.1 200 OK\r\nx: ", chunk, 16 * 1024)
    })
    .await;
    let problem = ask(CheckKind::Http(HttpCheck::get(headers, "/")))
        .await
        .unwrap_err();
    assert!(problem.contains("no HTTP answer"), "{problem}");
    let trickle = serve(&mut tasks, |mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nup").await;
        keep_silent(stream).await;
    })
    .await;
    let answer = ask(CheckKind::Http(HttpCheck::get(trickle, "/"))).await;
    assert_eq!(answer, Ok("200 OK".into()), "the status has been seen");
}

#[tokio::test]
async fn a_machine_that_never_answers_takes_no_turns_of_others() {
    let mut tasks = JoinSet::new();
    let port = serve(&mut tasks, keep_silent).await;
    let asker = Arc::new(Asker::new());
    let hanging = Arc::new(target());
    let check = Arc::new(Check {
        timeout: Duration::from_secs(60),
        ..Check::new(CheckKind::Http(HttpCheck::get(port, "/")))
    });
    let mut questions = JoinSet::new();
    for _ in 0..2 * CHECKS_IN_FLIGHT_MAX {
        let (asker, hanging, check) = (asker.clone(), hanging.clone(), check.clone());
        questions.spawn(async move { asker.ask(&hanging, &check).await });
    }
    while hanging.slots.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let other = ask_with(&asker, CheckKind::Tcp { port }).await;
    assert_eq!(other, Ok("connection accepted".into()));
    let free = asker.connections.available_permits();
    assert_eq!(free, CHECKS_IN_FLIGHT_MAX - CHECKS_PER_MACHINE_MAX);
    drop(questions);
}

#[tokio::test]
async fn a_time_out_is_told() {
    let mut tasks = JoinSet::new();
    let port = serve(&mut tasks, keep_silent).await;
    let check = Check {
        timeout: Duration::from_millis(50),
        ..Check::new(CheckKind::Http(HttpCheck::get(port, "/")))
    };
    let answer = Asker::new().ask(&target(), &check).await;
    assert_eq!(answer, Err("no answer within 50 ms".into()));
}

#[tokio::test]
async fn certificates_are_verified_unless_a_check_asks_otherwise() {
    let mut tasks = JoinSet::new();
    let (acceptor, client) = tls_pair();
    let port = serve(&mut tasks, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(
                    stream,
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup",
                    b"",
                    0,
                )
                .await;
            }
        }
    })
    .await;
    let asker = with_tls(client);
    let https = |tls: CheckTls| {
        let tls = Some(tls);
        CheckKind::Http(HttpCheck {
            tls,
            ..HttpCheck::get(port, "/")
        })
    };
    assert_eq!(
        ask_with(&asker, https(verifying(NAME))).await,
        Ok("200 OK up".into())
    );
    for wrong in [verifying("other.example"), CheckTls::default()] {
        let problem = ask_with(&asker, https(wrong)).await.unwrap_err();
        assert!(problem.contains("not valid for name"), "{problem}");
    }
    let skip_verify = true;
    for server_name in [None, Some("other.example".to_owned())] {
        let tls = CheckTls {
            server_name,
            skip_verify,
        };
        assert_eq!(ask_with(&asker, https(tls)).await, Ok("200 OK up".into()));
    }
    let (_, stranger) = tls_pair();
    let problem = ask_with(&with_tls(stranger), https(verifying(NAME)))
        .await
        .unwrap_err();
    assert!(problem.starts_with("no TLS: "), "{problem}");
}

/// Answers as `grpc.health.v1.Health` of an app with the service `shop.Cart` does.
struct Health;

impl tonic::server::UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = std::future::Ready<Result<tonic::Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
        let status = match request.into_inner().service.as_str() {
            "" | "shop.Cart" => ServingStatus::Serving,
            "shop.Till" => ServingStatus::NotServing,
            _ => return std::future::ready(Err(Status::not_found("no such\u{1b}[31m service"))),
        };
        let status = status as i32;
        std::future::ready(Ok(tonic::Response::new(HealthCheckResponse { status })))
    }
}

async fn serve_grpc(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service =
        hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let codec = tonic_prost::ProstCodec::default();
            let mut server = tonic::server::Grpc::new(codec);
            Ok::<_, Infallible>(server.unary(Health, request).await)
        });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

#[tokio::test]
async fn a_grpc_check_asks_about_its_service() {
    let mut tasks = JoinSet::new();
    let port = serve(&mut tasks, serve_grpc).await;
    let about = |service: &str| {
        let service = service.into();
        CheckKind::Grpc(GrpcCheck {
            port,
            service,
            tls: None,
        })
    };
    assert_eq!(ask(about("")).await, Ok("SERVING".into()));
    assert_eq!(ask(about("shop.Cart")).await, Ok("SERVING".into()));
    assert_eq!(ask(about("shop.Till")).await, Err("NOT_SERVING".into()));
    let unknown = "NotFound: no such[31m service (the app does not know this service)";
    assert_eq!(ask(about("shop.Rope")).await, Err(unknown.into()));
}

#[tokio::test]
async fn a_grpc_check_speaks_tls() {
    let mut tasks = JoinSet::new();
    let (acceptor, client) = tls_pair();
    let port = serve(&mut tasks, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
                serve_grpc(stream).await;
            }
        }
    })
    .await;
    let asker = with_tls(client);
    let check = |name: &str| {
        let tls = Some(verifying(name));
        CheckKind::Grpc(GrpcCheck {
            port,
            service: String::new(),
            tls,
        })
    };
    assert_eq!(ask_with(&asker, check(NAME)).await, Ok("SERVING".into()));
    assert!(ask_with(&asker, check("other.example")).await.is_err());
}

#[tokio::test]
async fn a_grpc_answer_of_a_gigabyte_is_refused_at_its_announcement() {
    let mut tasks = JoinSet::new();
    let port = serve(&mut tasks, |stream| async move {
        let service = hyper::service::service_fn(|_| async {
            let mut bytes = vec![0; 256 * 1024];
            bytes[1..5].copy_from_slice(&(1_u32 << 30).to_be_bytes());
            let body = http_body_util::Full::new(hyper::body::Bytes::from(bytes));
            let response = hyper::Response::builder().header("content-type", "application/grpc");
            response.body(body)
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let service = String::new();
    let tls = None;
    let problem = ask(CheckKind::Grpc(GrpcCheck { port, service, tls })).await;
    let problem = problem.unwrap_err();
    assert!(problem.starts_with("OutOfRange: "), "{problem}");
}

#[tokio::test]
async fn what_does_not_speak_grpc_fails_with_a_reason() {
    let mut tasks = JoinSet::new();
    let http1 = serve(&mut tasks, |stream| {
        answer(
            stream,
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup",
            b"",
            0,
        )
    })
    .await;
    let silent = serve(&mut tasks, |stream| async move { drop(stream) }).await;
    for port in [http1, silent] {
        let service = String::new();
        let problem = ask(CheckKind::Grpc(GrpcCheck {
            port,
            service,
            tls: None,
        }))
        .await;
        let problem = problem.unwrap_err();
        assert!(
            !problem.is_empty() && !problem.contains("no answer within"),
            "{problem}"
        );
    }
}
