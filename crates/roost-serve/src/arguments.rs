//! The command line: `roost-serve --root FOLDER --port NUMBER`.

use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const USAGE: &str = "usage: roost-serve [--root FOLDER] [--port NUMBER]

Serves the files of FOLDER (default /site) over HTTP on port NUMBER (default 8080).";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Serve until a signal comes.
    Serve(Arguments),
    /// Print the usage.
    Help,
}

/// What to serve and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The folder.
    pub(crate) root: PathBuf,
    /// The port on all addresses.
    pub(crate) port: u16,
}

/// Reads the arguments that follow the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut root = PathBuf::from("/site");
    let mut port = 8080;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            let value = inline.clone().or_else(|| arguments.next());
            value.ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "--root" => root = PathBuf::from(value()?),
            "--port" => {
                let text = value()?;
                let number = text.parse().ok().filter(|port| *port != 0);
                port = number.ok_or_else(|| format!("`{text}` is not a port number"))?;
            }
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument `{name}`; try --help")),
        }
    }
    Ok(Command::Serve(Arguments { root, port }))
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Command, parse};

    fn of(words: &[&str]) -> Result<Command, String> {
        parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn both_spellings_of_a_flag_are_read_and_the_rest_has_defaults() {
        let expected = Command::Serve(Arguments {
            root: "/a".into(),
            port: 8080,
        });
        assert_eq!(of(&["--root", "/a"]), Ok(expected));
        let expected = Command::Serve(Arguments {
            root: "/site".into(),
            port: 81,
        });
        assert_eq!(of(&["--port=81"]), Ok(expected));
    }

    #[test]
    fn a_wrong_argument_is_named() {
        assert!(of(&["--port", "70000"]).unwrap_err().contains("70000"));
        assert!(of(&["--port", "0"]).is_err());
        assert!(of(&["--root"]).unwrap_err().contains("--root"));
        assert!(of(&["--rot"]).unwrap_err().contains("--rot"));
    }
}
