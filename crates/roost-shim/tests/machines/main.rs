//! Real machines, with the built-in runtime and with `runc`.
//!
//! They need root; without it, or without `/bin/busybox`, they say that they
//! are skipped.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

/// Makes a test of each claim for each runtime.
macro_rules! with_both_runtimes {
    ($($claim:ident),* $(,)?) => {
        mod library {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                if let Some(host) = crate::host::Host::library() {
                    super::$claim(&host).await;
                    host.end().await;
                }
            })*
        }
        mod runc {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                if let Some(host) = crate::host::Host::runc() {
                    super::$claim(&host).await;
                    host.end().await;
                }
            })*
        }
    };
}

mod attacks;
mod disk;
mod flood;
mod host;
mod isolation;
mod lifecycle;
mod network;

mod start;
