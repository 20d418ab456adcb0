//! `roost help`: help for a command, and the pages of the error codes.

use crate::args::{Cli, HelpArgs};
use crate::error::{CliError, Exit};
use crate::output::Output;
use clap::{Arg, Command, CommandFactory as _};
use roost_model::nearest::nearest;

// `(code, page)` for each file of `docs/errors`, in order of the codes.
include!(concat!(env!("OUT_DIR"), "/error_pages.rs"));

/// Runs `help`.
pub(crate) fn run(args: &HelpArgs, output: Output) -> Result<(), CliError> {
    let topic: Vec<&str> = args.topic.iter().map(String::as_str).collect();
    match topic.as_slice() {
        ["errors" | "error"] => {
            let codes: Vec<_> = ERROR_PAGES
                .iter()
                .map(|(code, page)| serde_json::json!({"code": code, "summary": summary(page)}))
                .collect();
            output.result(&codes, || {
                let rows = ERROR_PAGES.iter();
                let rows = rows.map(|(code, page)| vec![(*code).into(), summary(page).into()]);
                crate::output::table(&["code", "what it means"], rows.collect())
            });
            Ok(())
        }
        ["errors" | "error", code] => {
            let page = page(code)?;
            output.result(&serde_json::json!({"code": code, "page": page}), || {
                page.trim_end().to_owned()
            });
            Ok(())
        }
        words => {
            let mut root = Cli::command();
            root.build();
            let command = find(&mut root, words)?;
            let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            let flags: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
            let mut value =
                serde_json::json!({"command": words, "commands": names, "flags": flags});
            let text = command.render_long_help().to_string();
            value["help"] = text.as_str().into();
            output.result(&value, || text.trim_end().to_owned());
            Ok(())
        }
    }
}

/// The codes that have a page.
pub(crate) fn codes() -> impl Iterator<Item = &'static str> {
    ERROR_PAGES.iter().map(|(code, _)| *code)
}

fn page(code: &str) -> Result<&'static str, CliError> {
    if let Some((_, page)) = ERROR_PAGES.iter().find(|(known, _)| *known == code) {
        return Ok(page);
    }
    let shown: String = code.chars().take(60).collect();
    let message = format!("there is no error code `{shown}`");
    let error = CliError::new(Exit::NotFound, "not-found", message);
    Err(match nearest(code, codes()) {
        Some(known) => error.hint(format!("did you mean `{known}`?")),
        None => error.hint("`roost help errors` lists them"),
    })
}

/// The first sentence under the heading.
fn summary(page: &'static str) -> &'static str {
    let mut lines = page.lines();
    lines
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or_default()
}

fn find<'a>(root: &'a mut Command, words: &[&str]) -> Result<&'a mut Command, CliError> {
    let mut command = root;
    for word in words {
        if command.find_subcommand(word).is_none() {
            let shown: String = word.chars().take(60).collect();
            let error = CliError::usage(format!("there is no command `{shown}`"));
            let names = command.get_subcommands().map(Command::get_name);
            return Err(match nearest(word, names) {
                Some(known) => error.hint(format!("did you mean `{known}`?")),
                None => error.hint("`roost help` lists them; `roost help errors` the error codes"),
            });
        }
        command = command
            .find_subcommand_mut(word)
            .expect("the command was found just above");
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::{Cli, ERROR_PAGES, find, page, summary};
    use clap::CommandFactory as _;

    #[test]
    fn every_page_has_a_summary_and_a_slip_of_the_finger_finds_it() {
        assert!(ERROR_PAGES.len() > 50);
        for (code, page) in ERROR_PAGES {
            assert!(page.starts_with(&format!("# {code}\n")), "{code}");
            assert!(summary(page).ends_with('.'), "{code}: {}", summary(page));
        }
        assert!(page("port-in-use").unwrap().contains("--http-port"));
        let error = page("port-in-usr").unwrap_err().render();
        assert!(error.contains("did you mean `port-in-use`?"), "{error}");
    }

    #[test]
    fn a_command_is_found_by_its_other_names_and_a_typo_gets_the_nearest() {
        let mut root = Cli::command();
        root.build();
        let stop = find(&mut root, &["machine", "stop"]).unwrap();
        assert_eq!(stop.get_bin_name(), Some("roost machines stop"));
        assert_eq!(find(&mut root, &["app", "ls"]).unwrap().get_name(), "list");
        let error = find(&mut root, &["depoly"]).unwrap_err().render();
        assert!(error.contains("did you mean `deploy`?"), "{error}");
    }
}
