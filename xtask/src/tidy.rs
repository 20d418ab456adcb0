//! Rules that a program can check: each failure names the file and the remedy.

use crate::metadata::{Metadata, Package, used_packages};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, tests included.
const FILE_LINES_MAX: usize = 800;
/// Longest ARCHITECTURE.md.
const ARCHITECTURE_LINES_MAX: usize = 400;
/// Longest CONTRIBUTING.md.
const CONTRIBUTING_LINES_MAX: usize = 120;

#[derive(Debug, Deserialize)]
struct Layers {
    layers: BTreeMap<String, u32>,
    allowed: BTreeMap<String, Vec<String>>,
    only: BTreeMap<String, Vec<String>>,
    unsafe_code: UnsafeCode,
    banned: Banned,
}

#[derive(Debug, Deserialize)]
struct UnsafeCode {
    allowed: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Banned {
    crates: Vec<String>,
}

/// Runs every rule and fails with the list of all breaches.
#[expect(clippy::print_stdout, reason = "a command-line tool")]
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = Metadata::load(root)?;
    let layers: Layers = toml::from_str(&read(&root.join("xtask/layers.toml"))?)?;
    let mut breaches = Vec::new();
    check_layers(&metadata, &layers, &mut breaches);
    check_banned(root, &layers, &mut breaches)?;
    check_manifests(&metadata, &layers, &mut breaches)?;
    check_dependency_decisions(root, &metadata, &mut breaches)?;
    let sources = rust_files(root)?;
    check_sources(root, &sources, &mut breaches)?;
    check_error_pages(root, &sources, &mut breaches)?;
    check_document_sizes(root, &mut breaches)?;
    if breaches.is_empty() {
        println!(
            "tidy: {} files, {} crates, no breach",
            sources.len(),
            layers.layers.len()
        );
        return Ok(());
    }
    bail!(
        "tidy: {} breaches\n  {}",
        breaches.len(),
        breaches.join("\n  ")
    )
}

fn check_layers(metadata: &Metadata, table: &Layers, breaches: &mut Vec<String>) {
    for package in metadata.members() {
        let Some(layer) = table.layers.get(&package.name) else {
            breaches.push(format!("{}: not in xtask/layers.toml", package.name));
            continue;
        };
        let ours = package.dependencies.iter().filter(|dependency| {
            dependency.kind.as_deref() != Some("dev") && table.layers.contains_key(&dependency.name)
        });
        for dependency in ours {
            let lower = table.layers[&dependency.name] < *layer;
            let listed = table
                .allowed
                .get(&package.name)
                .is_some_and(|names| names.contains(&dependency.name));
            let narrowed = table
                .only
                .get(&package.name)
                .is_some_and(|names| !names.contains(&dependency.name));
            if (!lower && !listed) || narrowed {
                breaches.push(format!(
                    "{} → {}: upward, sideways or not in its `only` list (xtask/layers.toml)",
                    package.name, dependency.name
                ));
            }
        }
    }
}

fn check_banned(root: &Path, table: &Layers, breaches: &mut Vec<String>) -> Result<()> {
    let names = used_packages(root)?;
    for banned in &table.banned.crates {
        if names.contains(banned.as_str()) {
            breaches.push(format!(
                "{banned}: banned, find who brings it with cargo tree -i {banned}"
            ));
        }
    }
    Ok(())
}

fn check_manifests(metadata: &Metadata, table: &Layers, breaches: &mut Vec<String>) -> Result<()> {
    for package in metadata.members() {
        let manifest = read(&package.manifest_path)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            breaches.push(format!(
                "{}: lacks `[lints] workspace = true`",
                package.name
            ));
        }
        if !table.unsafe_code.allowed.contains(&package.name) {
            check_forbids_unsafe(package, breaches)?;
        }
    }
    Ok(())
}

fn check_forbids_unsafe(package: &Package, breaches: &mut Vec<String>) -> Result<()> {
    let folder = package
        .manifest_path
        .parent()
        .context("a manifest lies in a folder")?;
    for entry in ["src/lib.rs", "src/main.rs"] {
        let path = folder.join(entry);
        if path.exists() && !read(&path)?.contains("#![forbid(unsafe_code)]") {
            breaches.push(format!("{}: lacks #![forbid(unsafe_code)]", path.display()));
        }
    }
    Ok(())
}

/// Every direct dependency is a decision with a line in `docs/dependencies.md`.
fn check_dependency_decisions(
    root: &Path,
    metadata: &Metadata,
    breaches: &mut Vec<String>,
) -> Result<()> {
    let decisions = read(&root.join("docs/dependencies.md"))?;
    let own: BTreeSet<&str> = metadata
        .members()
        .map(|package| package.name.as_str())
        .collect();
    let direct: BTreeSet<&str> = metadata
        .members()
        .flat_map(|package| &package.dependencies)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| !own.contains(name))
        .collect();
    for name in direct {
        if !decisions.contains(&format!("`{name}`")) {
            breaches.push(format!("{name}: no line in docs/dependencies.md"));
        }
    }
    Ok(())
}

fn check_sources(root: &Path, sources: &[PathBuf], breaches: &mut Vec<String>) -> Result<()> {
    for path in sources {
        let text = read(path)?;
        let shown = path.strip_prefix(root).unwrap_or(path).display();
        if !text.starts_with("//!") && !text.starts_with("#![no_main]") {
            breaches.push(format!("{shown}: does not begin with //!"));
        }
        let n_lines = text.lines().count();
        if n_lines > FILE_LINES_MAX {
            breaches.push(format!(
                "{shown}: {n_lines} lines, and {FILE_LINES_MAX} is the most"
            ));
        }
        let is_tidy = path.ends_with("xtask/src/tidy.rs");
        for word in ["todo!(", "unimplemented!(", "#[ignore"] {
            if !is_tidy && text.contains(word) {
                breaches.push(format!("{shown}: has {word}"));
            }
        }
    }
    Ok(())
}

/// What stands before a code in the sources, white space left out.
const CODE_MARKS: [&str; 7] = [
    "ErrorCode(\"",
    "CliError::failed(\"",
    "CliError::new(Exit::",
    "ApiError::conflict(\"",
    "ApiError::not_found(\"",
    "PortError::invalid(\"",
    "Page::refused(StatusCode::",
];

/// Every code that an error can have has a page that explains it.
fn check_error_pages(root: &Path, sources: &[PathBuf], breaches: &mut Vec<String>) -> Result<()> {
    for path in sources
        .iter()
        .filter(|path| !path.ends_with("xtask/src/tidy.rs"))
    {
        let text: String = read(path)?.split_whitespace().collect();
        let codes = CODE_MARKS
            .iter()
            .flat_map(|mark| text.split(mark).skip(1).map(move |after| (mark, after)));
        for (mark, after) in codes {
            // After `Exit::` or `StatusCode::` the code is the second argument.
            let after = if mark.ends_with('"') {
                Some(after)
            } else {
                after.split_once(",\"").map(|(_, code)| code)
            };
            let Some((code, _)) = after.and_then(|after| after.split_once('"')) else {
                continue;
            };
            let is_code =
                !code.is_empty() && code.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if is_code && !root.join(format!("docs/errors/{code}.md")).exists() {
                breaches.push(format!(
                    "docs/errors/{code}.md: missing (used in {})",
                    path.display()
                ));
            }
        }
    }
    breaches.sort();
    breaches.dedup();
    Ok(())
}

fn check_document_sizes(root: &Path, breaches: &mut Vec<String>) -> Result<()> {
    let limits = [
        ("ARCHITECTURE.md", ARCHITECTURE_LINES_MAX),
        ("CONTRIBUTING.md", CONTRIBUTING_LINES_MAX),
    ];
    for (name, lines_max) in limits {
        let n_lines = read(&root.join(name))?.lines().count();
        if n_lines > lines_max {
            breaches.push(format!(
                "{name}: {n_lines} lines, and {lines_max} is the most"
            ));
        }
    }
    Ok(())
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![
        root.join("crates"),
        root.join("xtask"),
        root.join("examples"),
        root.join("fuzz"),
    ];
    while let Some(folder) = folders.pop() {
        if !folder.exists() || folder.ends_with("target") {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
