//! Who a machine's program runs as: `user[:group]` against the image's own files.

use crate::limits::ACCOUNT_GROUPS_MAX;

/// A resolved user; all ids are those inside the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// The home directory.
    pub home: String,
}

/// A machine's program cannot run as the user that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error("the image has no user `{0}` (in /etc/passwd)")]
    NoUser(String),
    /// No such group.
    #[error("the image has no group `{0}` (in /etc/group)")]
    NoGroup(String),
    /// An id that machines do not have.
    #[error("user `{user}` has id {id}, and a machine's ids are below {n_ids}")]
    IdTooLarge {
        /// The user as asked for.
        user: String,
        /// One of its ids.
        id: u32,
        /// How many ids a machine has.
        n_ids: u32,
    },
}

impl Account {
    /// Resolves a user of a machine whose ids are below `n_ids`, by the texts of
    /// the image's `/etc/passwd` and `/etc/group`; nobody named means root.
    pub fn resolve(
        user: &str,
        passwd: &str,
        group: &str,
        n_ids: u32,
    ) -> Result<Self, AccountError> {
        let account = choose(user, passwd, group)?;
        let ids = [account.uid, account.gid];
        let mut ids = ids.iter().chain(&account.additional_gids);
        // The largest number of all would even mean "do not change".
        match ids.find(|id| **id >= n_ids) {
            Some(id) => Err(AccountError::IdTooLarge {
                user: user.to_owned(),
                id: *id,
                n_ids,
            }),
            None => Ok(account),
        }
    }
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

fn choose(user: &str, passwd: &str, group: &str) -> Result<Account, AccountError> {
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
        (None, None) => return Err(AccountError::NoUser(user.to_owned())),
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
                .take(ACCOUNT_GROUPS_MAX)
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

fn choose_group(wanted: &str, group: &str) -> Result<u32, AccountError> {
    if let Some(entry) = group_entries(group).find(|entry| entry.name == wanted) {
        return Ok(entry.gid);
    }
    wanted
        .parse()
        .map_err(|_| AccountError::NoGroup(wanted.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Account, AccountError};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        www:x:33:33:www:/var/www:/bin/false\n\
        broken:x:not-a-number\n\
        big:x:1000:70000::/:/bin/sh\n\
        app:x:1000:100::/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:app\nusers:x:100:app\nextra:x:200:www,app\n";

    fn resolve(user: &str) -> Result<Account, AccountError> {
        Account::resolve(user, PASSWD, GROUP, 65_536)
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let by_name = resolve("app").unwrap();
        assert_eq!(
            (by_name.uid, by_name.gid, by_name.home.as_str()),
            (1000, 100, "/home/app")
        );
        assert_eq!(by_name.additional_gids, [33, 100, 200]);
        assert_eq!(resolve("33").unwrap(), resolve("www").unwrap());
        let unknown = resolve("4242").unwrap();
        assert_eq!(
            (unknown.uid, unknown.gid, unknown.home.as_str()),
            (4242, 4242, "/")
        );
    }

    #[test]
    fn nobody_named_means_root_even_without_account_files() {
        let root = Account::resolve("", "", "", 65_536).unwrap();
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
        assert_eq!(Account::resolve("root", "", "", 65_536), Ok(root));
    }

    #[test]
    fn a_group_that_is_named_replaces_all_others() {
        let account = resolve("app:extra").unwrap();
        assert_eq!(
            (account.gid, account.additional_gids.as_slice()),
            (200, [200].as_slice())
        );
        assert_eq!(resolve("33:77").unwrap().gid, 77);
    }

    #[test]
    fn ids_that_no_machine_has_are_refused() {
        assert_eq!(resolve("65535:65535").unwrap().uid, 65_535);
        assert_eq!(
            resolve("4294967295").unwrap_err().to_string(),
            "user `4294967295` has id 4294967295, and a machine's ids are below 65536"
        );
        for user in ["65536", "0:4294967295", "big"] {
            let error = resolve(user).unwrap_err();
            assert!(
                matches!(error, AccountError::IdTooLarge { .. }),
                "{error:?}"
            );
        }
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        assert_eq!(resolve("nope"), Err(AccountError::NoUser("nope".into())));
        assert_eq!(
            resolve("app:nope"),
            Err(AccountError::NoGroup("nope".into()))
        );
        assert!(resolve("broken").is_err());
    }
}
