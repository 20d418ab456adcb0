//! Whether a file is a program that can run alone: for this CPU, and linked statically.
//!
//! Read from the ELF header and the program headers (System V ABI, chapter 5).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Program headers lie at the start; this much holds any real table.
const HEAD_BYTES_MAX: u64 = 64 * 1024;
const PT_INTERP: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// Why a file cannot be the only program of a machine.
#[derive(Debug, thiserror::Error)]
pub enum ExecutableError {
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is no Linux program: a script, or for another system.
    #[error("it is no Linux program (no ELF file)")]
    NotElf,
    /// Its header contradicts itself.
    #[error("its ELF header is broken")]
    Broken,
    /// It is an object file, a library or a core dump.
    #[error("it is an ELF file but no program")]
    NotProgram,
    /// It is for another CPU.
    #[error("it is for {found}, and this node needs {wanted}")]
    OtherCpu {
        /// The CPU it is for.
        found: String,
        /// The CPU of the node.
        wanted: &'static str,
    },
    /// It needs a loader and libraries that the image would not have.
    #[error("it is linked dynamically: it needs the loader {interpreter}")]
    Dynamic {
        /// The loader.
        interpreter: String,
    },
}

impl ExecutableError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dynamic { .. } => Some(
                "link it statically (Rust: RUSTFLAGS=\"-C target-feature=+crt-static\" with an \
                 explicit --target; Go: CGO_ENABLED=0; C: -static), or use a Dockerfile"
                    .into(),
            ),
            Self::OtherCpu { wanted, .. } => Some(format!("build it for {wanted}")),
            Self::NotElf => Some("name a compiled program, or use a Dockerfile".into()),
            Self::Read(_) | Self::Broken | Self::NotProgram => None,
        }
    }
}

/// Checks the file; links must have been followed already.
pub(super) fn check_static(path: &Path) -> Result<(), ExecutableError> {
    let file = File::open(path).map_err(ExecutableError::Read)?;
    let mut head = Vec::new();
    file.take(HEAD_BYTES_MAX)
        .read_to_end(&mut head)
        .map_err(ExecutableError::Read)?;
    check_head(&head)
}

/// The CPU that this program was built for, as ELF numbers it, and its name.
fn native_cpu() -> (u16, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => (183, "arm64"),
        "riscv64" => (243, "riscv64"),
        _ => (62, "amd64"),
    }
}

fn cpu_name(number: u16) -> String {
    match number {
        3 => "386".into(),
        40 => "arm".into(),
        62 => "amd64".into(),
        183 => "arm64".into(),
        243 => "riscv64".into(),
        other => format!("CPU number {other}"),
    }
}

fn check_head(head: &[u8]) -> Result<(), ExecutableError> {
    if head.get(..4) != Some(b"\x7fELF") {
        return Err(ExecutableError::NotElf);
    }
    // 64 bit, little endian: all CPUs that roost runs on.
    let (wanted, wanted_name) = native_cpu();
    let machine = u16_at(head, 18)?;
    if head.get(4..6) != Some(&[2, 1]) || machine != wanted {
        let found = cpu_name(machine);
        return Err(ExecutableError::OtherCpu {
            found,
            wanted: wanted_name,
        });
    }
    let kind = u16_at(head, 16)?;
    let entry = u64_at(head, 24)?;
    if !matches!(kind, ET_EXEC | ET_DYN) || entry == 0 {
        return Err(ExecutableError::NotProgram);
    }
    let table = usize_of(u64_at(head, 32)?)?;
    let size = usize::from(u16_at(head, 54)?);
    let count = usize::from(u16_at(head, 56)?);
    for idx in 0..count {
        let at = idx
            .checked_mul(size)
            .and_then(|offset| offset.checked_add(table));
        let at = at.ok_or(ExecutableError::Broken)?;
        if u32_at(head, at)? == PT_INTERP {
            let start = usize_of(u64_at(head, at.saturating_add(8))?)?;
            let length = usize_of(u64_at(head, at.saturating_add(32))?)?.min(256);
            let name = head
                .get(start..start.saturating_add(length))
                .unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            let interpreter = name.trim_end_matches('\0').to_owned();
            return Err(ExecutableError::Dynamic { interpreter });
        }
    }
    Ok(())
}

fn bytes_at<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], ExecutableError> {
    let bytes = at.checked_add(N).and_then(|end| head.get(at..end));
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(ExecutableError::Broken)
}

fn u16_at(head: &[u8], at: usize) -> Result<u16, ExecutableError> {
    bytes_at(head, at).map(u16::from_le_bytes)
}

fn u32_at(head: &[u8], at: usize) -> Result<u32, ExecutableError> {
    bytes_at(head, at).map(u32::from_le_bytes)
}

fn u64_at(head: &[u8], at: usize) -> Result<u64, ExecutableError> {
    bytes_at(head, at).map(u64::from_le_bytes)
}

fn usize_of(value: u64) -> Result<usize, ExecutableError> {
    usize::try_from(value).map_err(|_| ExecutableError::Broken)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{ExecutableError, check_head, check_static, native_cpu};
    use proptest::prelude::*;

    /// The smallest file that passes as a static program of this CPU.
    pub(in crate::build) fn tiny_program() -> Vec<u8> {
        let mut head = vec![0; 120];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[16] = 2;
        head[18..20].copy_from_slice(&native_cpu().0.to_le_bytes());
        head[24] = 1;
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64] = 1;
        head
    }

    #[test]
    fn a_static_program_passes_and_each_fault_is_named() {
        assert!(check_head(&tiny_program()).is_ok());
        let mut dynamic = tiny_program();
        dynamic[64] = 3;
        assert!(matches!(
            check_head(&dynamic),
            Err(ExecutableError::Dynamic { .. })
        ));
        let mut foreign = tiny_program();
        foreign[18] = 8;
        assert!(matches!(
            check_head(&foreign),
            Err(ExecutableError::OtherCpu { .. })
        ));
        let mut library = tiny_program();
        (library[16], library[24]) = (3, 0);
        assert!(matches!(
            check_head(&library),
            Err(ExecutableError::NotProgram)
        ));
        assert!(matches!(
            check_head(b"#!/bin/sh\n"),
            Err(ExecutableError::NotElf)
        ));
    }

    #[test]
    fn the_running_test_is_dynamic_and_says_its_loader() {
        let error = check_static(&std::env::current_exe().unwrap()).unwrap_err();
        let ExecutableError::Dynamic { interpreter } = &error else {
            panic!("{error}")
        };
        assert!(interpreter.contains("ld-linux"), "{interpreter}");
        assert!(error.hint().unwrap().contains("crt-static"));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut head = tiny_program();
            for (at, byte) in noise.iter().enumerate().skip(20) {
                if let Some(slot) = head.get_mut(at) { *slot = *byte; }
            }
            drop(check_head(&head));
            drop(check_head(&noise));
        }
    }
}
