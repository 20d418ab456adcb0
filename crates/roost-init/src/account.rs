//! Who a process runs as: `user[:group]` against the image's own files.

use crate::failure::{Attempt as _, Failure};
use crate::limits::{ACCOUNT_FILE_BYTES_MAX, GROUPS_MAX, IDS_MAX};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// The user id.
    pub(crate) uid: u32,
    /// The group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) additional_gids: Vec<u32>,
    /// The home directory.
    pub(crate) home: String,
}

/// Resolves a user of the guest; nobody named means root.
pub(crate) fn resolve(user: &str) -> Result<Account, Failure> {
    let passwd = read_image_file(Path::new("/etc/passwd"))?;
    let group = read_image_file(Path::new("/etc/group"))?;
    choose(user, &passwd, &group)
        .and_then(|account| check_ids(user, account))
        .map_err(Failure::machine)
}

/// Refuses what no machine has; the largest number of all would even change nothing.
fn check_ids(user: &str, account: Account) -> Result<Account, String> {
    let ids = [account.uid, account.gid];
    match ids
        .iter()
        .chain(&account.additional_gids)
        .find(|id| **id >= IDS_MAX)
    {
        Some(id) => Err(format!(
            "user `{user}` has id {id}, and a machine's ids are below {IDS_MAX}"
        )),
        None => Ok(account),
    }
}

/// Reads a text of the image; nothing when there is none.
fn read_image_file(path: &Path) -> Result<String, Failure> {
    let what = || format!("read {} of the image", path.display());
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error).attempt_for_machine(what()),
    };
    // Looked at before it is opened: opening a pipe would wait.
    if !metadata.is_file() || metadata.len() > ACCOUNT_FILE_BYTES_MAX {
        return Err(Failure::machine(format!(
            "{} of the image is not a file of at most {ACCOUNT_FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ACCOUNT_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .attempt_for_machine(what())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        let home = fields.nth(1).unwrap_or("");
        Some(Passwd {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entries(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?);
        Some(Group {
            name,
            gid: gid.parse().ok()?,
            members: fields.next().unwrap_or(""),
        })
    })
}

fn choose(user: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "root" } else { user };
    let number = user.parse::<u32>().ok();
    // A name beats a number: an account may be called `1000`.
    let entry = passwd_entries(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| passwd_entries(passwd).find(|entry| Some(entry.uid) == number));
    let (uid, gid, home) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home),
        // As on Fly.io: a number that no account has is its own group.
        (None, Some(uid)) => (uid, uid, ""),
        // An image made of one program has no accounts; root is always there.
        (None, None) if user == "root" => (0, 0, "/root"),
        (None, None) => return Err(format!("the image has no user `{user}` (in /etc/passwd)")),
    };
    let (gid, additional_gids) = match wanted_group {
        Some(name) if !name.is_empty() => {
            let gid = choose_group(name, group)?;
            (gid, vec![gid])
        }
        _ => {
            let name = entry.as_ref().map_or("", |entry| entry.name);
            let mut gids: Vec<u32> = group_entries(group)
                .filter(|entry| !name.is_empty() && entry.members.split(',').any(|m| m == name))
                .map(|entry| entry.gid)
                .take(GROUPS_MAX)
                // As a login does: whoever checks group membership finds it there.
                .chain([gid])
                .collect();
            gids.sort_unstable();
            gids.dedup();
            (gid, gids)
        }
    };
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    Ok(Account {
        uid,
        gid,
        additional_gids,
        home,
    })
}

fn choose_group(wanted: &str, group: &str) -> Result<u32, String> {
    if let Some(entry) = group_entries(group).find(|entry| entry.name == wanted) {
        return Ok(entry.gid);
    }
    wanted
        .parse()
        .map_err(|_| format!("the image has no group `{wanted}` (in /etc/group)"))
}

#[cfg(test)]
mod tests {
    use super::{check_ids, choose};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        www:x:33:33:www:/var/www:/bin/false\n\
        broken:x:not-a-number\n\
        app:x:1000:100::/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:app\nusers:x:100:app\nextra:x:200:www,app\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let by_name = choose("app", PASSWD, GROUP).unwrap();
        assert_eq!(
            (by_name.uid, by_name.gid, by_name.home.as_str()),
            (1000, 100, "/home/app")
        );
        assert_eq!(by_name.additional_gids, [33, 100, 200]);
        assert_eq!(choose("1000", PASSWD, GROUP).unwrap(), by_name);
        let unknown = choose("4242", PASSWD, GROUP).unwrap();
        assert_eq!(
            (unknown.uid, unknown.gid, unknown.home.as_str()),
            (4242, 4242, "/")
        );
    }

    #[test]
    fn nobody_named_means_root_even_without_account_files() {
        assert_eq!(choose("", "", "").unwrap().uid, 0);
        assert_eq!(choose("root", "", "").unwrap().home, "/root");
    }

    #[test]
    fn a_group_that_is_named_replaces_all_others() {
        let account = choose("app:extra", PASSWD, GROUP).unwrap();
        assert_eq!(
            (account.gid, account.additional_gids.as_slice()),
            (200, [200].as_slice())
        );
        assert_eq!(choose("33:77", PASSWD, GROUP).unwrap().gid, 77);
    }

    #[test]
    fn ids_that_no_machine_has_are_refused() {
        let passwd = "big:x:1000:70000::/:/bin/sh\n";
        let check = |user| check_ids(user, choose(user, passwd, "").unwrap());
        assert_eq!(check("65535:65535").unwrap().uid, 65_535);
        assert_eq!(
            check("4294967295").unwrap_err(),
            "user `4294967295` has id 4294967295, and a machine's ids are below 65536"
        );
        for user in ["65536", "0:4294967295", "big"] {
            assert!(check(user).unwrap_err().contains("below 65536"), "{user}");
        }
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        assert!(
            choose("nope", PASSWD, GROUP)
                .unwrap_err()
                .contains("`nope`")
        );
        assert!(
            choose("app:nope", PASSWD, GROUP)
                .unwrap_err()
                .contains("group `nope`")
        );
        assert!(choose("broken", PASSWD, GROUP).is_err());
    }
}
