//! What every rung's driver has to do, over the real drivers.
//!
//! One suite, [`contract`], runs over containers and over emulated VMs always,
//! and over VMs on KVM where the environment says that it can be used
//! (`ROOST_TEST_KVM=1`, set by `make test-kvm` in its outer machine;
//! `ROOST_FIRECRACKER=PATH` adds Firecracker). What only VMs have is in [`vm`].

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

/// Makes a test of each claim, a function over a host, for each kind of machine.
macro_rules! with_kinds {
    ([$($kind:ident $module:ident),* $(,)?], $claims:tt) => {
        $(with_kinds!($kind, $module, $claims);)*
    };
    ($kind:ident, $module:ident, [$($claim:ident),* $(,)?]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    if let Some(mut host) = crate::host::Host::new(crate::host::Kind::$kind).await {
                        super::$claim(&mut host).await;
                    }
                }
            )*
        }
    };
}

mod contract;
mod host;
mod vm;
