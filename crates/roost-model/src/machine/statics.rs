//! Folders of a machine whose files the edge serves by itself.

use crate::limits;
use crate::web::path;

/// A folder of a machine whose files the edge serves by itself, below a prefix of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFolder {
    guest_path: String,
    url_prefix: String,
    /// The prefix, taken apart.
    prefix: Vec<String>,
    index_document: Option<String>,
}

/// What is wrong with a static folder of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl StaticFolder {
    /// The files in `guest_path` of the machine at addresses that begin with `url_prefix`;
    /// `index_document` is the file for those that end with a slash.
    pub fn new(
        guest_path: &str,
        url_prefix: &str,
        index_document: Option<&str>,
    ) -> Result<Self, StaticFault> {
        let fault = |key, problem| Err(StaticFault { key, problem });
        let mut names = guest_path.split('/').filter(|name| !name.is_empty());
        let leads_out = names.clone().any(|name| name == ".." || name == ".");
        if !guest_path.starts_with('/') || leads_out || names.next().is_none() {
            return fault(
                "guest_path",
                "must be the absolute path of a folder below `/`",
            );
        }
        if guest_path.len() > limits::STATIC_PATH_BYTES_MAX || guest_path.contains('\0') {
            return fault("guest_path", "must have at most 1,024 bytes, and no NUL");
        }
        let is_plain = url_prefix.len() <= limits::STATIC_PATH_BYTES_MAX
            && !url_prefix.contains(['?', '#', '*']);
        let Some(prefix) = path::parts(url_prefix).filter(|_| is_plain) else {
            return fault("url_prefix", "must be a path that begins with `/`");
        };
        let is_name =
            |name: &str| path::parts(&format!("/{name}")).is_some_and(|parts| parts == [name]);
        if index_document.is_some_and(|name| !is_name(name)) {
            return fault("index_document", "must be the plain name of a file");
        }
        Ok(Self {
            guest_path: guest_path.to_owned(),
            url_prefix: url_prefix.to_owned(),
            prefix,
            index_document: index_document.map(str::to_owned),
        })
    }

    /// The folder in the machine.
    pub fn guest_path(&self) -> &str {
        &self.guest_path
    }

    /// The prefix of paths.
    pub fn url_prefix(&self) -> &str {
        &self.url_prefix
    }

    /// The file for paths that end with a slash.
    pub fn index_document(&self) -> Option<&str> {
        self.index_document.as_deref()
    }

    /// The file in the machine that a request for this path is for, if there is one: of the
    /// folder with the longest prefix. The path is percent-encoded.
    pub fn file_of(folders: &[Self], path: &str) -> Option<String> {
        let parts = path::parts(path)?;
        let fits = folders.iter().filter(|one| parts.starts_with(&one.prefix));
        let folder = fits.max_by_key(|one| one.prefix.len())?;
        let mut names: Vec<&str> = parts[folder.prefix.len()..]
            .iter()
            .map(String::as_str)
            .collect();
        if path.ends_with('/') {
            names.push(folder.index_document()?);
        }
        if names.is_empty() {
            return None;
        }
        let guest_path = folder.guest_path.trim_end_matches('/');
        Some(format!("{guest_path}/{}", names.join("/")))
    }
}

/// The first thing that is wrong with the folders of one machine together: which, and what.
pub fn statics_conflict(folders: &[StaticFolder]) -> Option<(usize, String)> {
    let most = limits::STATICS_MAX;
    if folders.len() > most {
        return Some((most, format!("is one too many: {most} are the most")));
    }
    let is_double = |idx: &usize| {
        let mut before = folders[..*idx].iter();
        before.any(|other| other.prefix == folders[*idx].prefix)
    };
    let double = (0..folders.len()).find(is_double)?;
    Some((double, "has the url_prefix of another one".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{StaticFolder, statics_conflict};
    use proptest::prelude::*;

    fn folder(guest_path: &str, url_prefix: &str, index: Option<&str>) -> StaticFolder {
        StaticFolder::new(guest_path, url_prefix, index).unwrap()
    }

    #[test]
    fn the_longest_prefix_of_whole_names_decides() {
        let folders = [
            folder("/srv/", "/", None),
            folder("/app/public", "/static/", Some("index.html")),
            folder("/app/dist", "/static/js", None),
        ];
        for (path, file) in [
            ("/static/a%20b.css", Some("/app/public/a b.css")),
            ("/static//x/./y.png", Some("/app/public/x/y.png")),
            ("/static/js/app.js", Some("/app/dist/app.js")),
            ("/staticx", Some("/srv/staticx")),
            ("/static/", Some("/app/public/index.html")),
            ("/static/x/", Some("/app/public/x/index.html")),
            ("/static", None),
            ("/static/js/", None),
            ("/", None),
            ("/static/../secret", None),
            ("/static/%2e%2e/secret", None),
            ("/static/a%2f..%2fb", None),
            ("/static/%00", None),
            ("/static/.env", None),
        ] {
            assert_eq!(
                StaticFolder::file_of(&folders, path).as_deref(),
                file,
                "{path}"
            );
        }
        assert_eq!(StaticFolder::file_of(&[], "/a"), None);
    }

    #[test]
    fn what_is_no_folder_prefix_or_name_is_refused() {
        for (guest_path, url_prefix, index, key) in [
            ("srv", "/", None, "guest_path"),
            ("/", "/", None, "guest_path"),
            ("/srv/../etc", "/", None, "guest_path"),
            ("/a\0", "/", None, "guest_path"),
            ("/srv", "a", None, "url_prefix"),
            ("/srv", "", None, "url_prefix"),
            ("/srv", "/../a", None, "url_prefix"),
            ("/srv", "/a?b", None, "url_prefix"),
            ("/srv", "/a/*", None, "url_prefix"),
            ("/srv", "/", Some("a/b"), "index_document"),
            ("/srv", "/", Some(".."), "index_document"),
            ("/srv", "/", Some(""), "index_document"),
        ] {
            let fault = StaticFolder::new(guest_path, url_prefix, index).unwrap_err();
            assert_eq!(fault.key, key, "{guest_path} {url_prefix} {index:?}");
        }
        let twice = [folder("/a", "/x", None), folder("/b", "/x/", None)];
        assert_eq!(statics_conflict(&twice).unwrap().0, 1);
        let many: Vec<_> = (0..11)
            .map(|n| folder("/a", &format!("/{n}"), None))
            .collect();
        assert_eq!(statics_conflict(&many).unwrap().0, 10);
        assert_eq!(statics_conflict(&many[1..]), None);
    }

    proptest! {
        /// Whatever a stranger asks for, the file is below the folder.
        #[test]
        fn no_path_leads_out_of_its_folder(
            parts in proptest::collection::vec("(\\.|%2e|%2F|/|\\\\|%5c|%00|%25|a|b|\\PC){0,5}", 0..6)
        ) {
            let folders = [folder("/srv/in", "/", Some("index.html"))];
            let path = format!("/{}", parts.join("/"));
            if let Some(file) = StaticFolder::file_of(&folders, &path) {
                let rest = file.strip_prefix("/srv/in/").unwrap();
                for name in rest.split('/') {
                    prop_assert!(!name.is_empty() && name != "." && name != "..", "{}", file);
                    prop_assert!(!name.contains('\0'), "{}", file);
                }
            }
        }
    }
}
