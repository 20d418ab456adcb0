//! Puts the pages of `docs/errors` into the program, for `roost help errors`.

use std::fmt::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::var("CARGO_MANIFEST_DIR")?;
    let folder = Path::new(&root).join("../../docs/errors").canonicalize()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut pages: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    pages.sort_by_key(std::fs::DirEntry::file_name);
    let mut text = String::from("static ERROR_PAGES: &[(&str, &str)] = &[\n");
    for page in pages {
        let path = page.path();
        if let Some(code) = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|end| end == "md"))
        {
            let code = code.to_string_lossy();
            writeln!(
                text,
                "    ({code:?}, include_str!({:?})),",
                path.display().to_string()
            )?;
        }
    }
    text.push_str("];\n");
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("error_pages.rs"), text)?;
    Ok(())
}
