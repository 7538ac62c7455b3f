//! Who a step runs as: `/etc/passwd` and `/etc/group` of the image, read as upstream reads them. Pure.

use crate::error::Failure;

/// Files larger than this are refused.
pub(crate) const FILE_MAX: u64 = 10 << 20;
/// Ids above this are refused by the tools this follows.
const ID_MAX: u32 = i32::MAX as u32;

/// A user as the kernel wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one among them.
    pub(crate) groups: Vec<u32>,
}

/// Ids that need no look into any file: `uid:gid`, where `root` is 0 too.
pub(crate) fn numeric(user: &str) -> Option<Identity> {
    let (uid, gid) = user.split_once(':')?;
    let id = |text: &str| if text == "root" { Some(0) } else { text.parse::<u32>().ok() };
    let (uid, gid) = (id(uid)?, id(gid)?);
    Some(Identity { uid, gid, groups: vec![gid] })
}

/// Looks `user` up. `None` for a file means that the image has none that can be read.
pub(crate) fn lookup(user: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<Identity, Failure> {
    if let Some(identity) = numeric(user) {
        return Ok(identity);
    }
    let (want_user, want_group) = user.split_once(':').unwrap_or((user, ""));
    let want_user = if want_user.is_empty() { "0" } else { want_user };
    let number = want_user.parse::<i64>().ok();
    let entry = passwd_entries(passwd.unwrap_or_default())
        .find(|e| e.name == want_user || number == Some(i64::from(e.uid)));
    let (uid, mut gid, name) = match (entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.name),
        (None, Some(number)) => (in_range(number, "uids")?, 0, String::new()),
        (None, None) => {
            return Err(Failure::User(format!(
                "unable to find user {want_user}: no matching entries in passwd file"
            )));
        }
    };
    let mut groups = Vec::new();
    if !want_group.is_empty() {
        gid = group_id(want_group, group.unwrap_or_default())?;
    } else if !name.is_empty() {
        groups = group_entries(group.unwrap_or_default())
            .filter(|e| e.members.contains(&name))
            .map(|e| e.gid)
            .collect();
    }
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    Ok(Identity { uid, gid, groups })
}

/// The home of `uid`, `/` if the file does not know.
pub(crate) fn home(uid: u32, passwd: &[u8]) -> String {
    let found = passwd_entries(passwd).find(|e| e.uid == uid).map(|e| e.home);
    found.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into())
}

fn group_id(want: &str, group: &[u8]) -> Result<u32, Failure> {
    let number = want.parse::<i64>().ok();
    let found = group_entries(group).find(|e| e.name == want || number == Some(i64::from(e.gid)));
    match (found, number) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(number)) => in_range(number, "gids"),
        (None, None) => {
            Err(Failure::User(format!("unable to find group {want}: no matching entries in group file")))
        }
    }
}

fn in_range(number: i64, what: &str) -> Result<u32, Failure> {
    u32::try_from(number).ok().filter(|id| *id <= ID_MAX).ok_or_else(|| {
        Failure::User(
            format!("{what} and gids must be in range 0-{ID_MAX}").replace("gids and gids", "uids and gids"),
        )
    })
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<String>> {
    file.split(|b| *b == b'\n')
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::to_owned).collect())
}

fn passwd_entries(file: &[u8]) -> impl Iterator<Item = Passwd> {
    lines(file).filter_map(|fields| {
        Some(Passwd {
            name: fields.first()?.clone(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).cloned().unwrap_or_default(),
        })
    })
}

fn group_entries(file: &[u8]) -> impl Iterator<Item = Group> {
    lines(file).filter_map(|fields| {
        Some(Group {
            name: fields.first()?.clone(),
            gid: fields.get(2)?.parse().ok()?,
            members: fields
                .get(3)
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# no\nbad line\napp:x:1000:100:App:/srv/app:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nusers:x:100:\nwheel:x:10:root,app\naudio:x:29:app\n";

    fn ids(user: &str) -> Result<(u32, u32, Vec<u32>), Failure> {
        lookup(user, Some(PASSWD), Some(GROUP)).map(|id| (id.uid, id.gid, id.groups))
    }

    #[test]
    fn every_form_of_a_user_is_understood() {
        type Row = (&'static str, (u32, u32, &'static [u32]));
        let table: &[Row] = &[
            ("", (0, 0, &[0, 10])),
            ("root", (0, 0, &[0, 10])),
            ("0", (0, 0, &[0, 10])),
            ("app", (1000, 100, &[100, 10, 29])),
            ("1000", (1000, 100, &[100, 10, 29])),
            ("4242", (4242, 0, &[0])),
            ("app:wheel", (1000, 10, &[10])),
            ("app:77", (1000, 77, &[77])),
            ("5:6", (5, 6, &[6])),
            ("root:root", (0, 0, &[0])),
            ("5:users", (5, 100, &[100])),
            (":wheel", (0, 10, &[10])),
        ];
        for (user, (uid, gid, groups)) in table {
            assert_eq!(ids(user).unwrap(), (*uid, *gid, groups.to_vec()), "{user}");
        }
    }

    #[test]
    fn unknown_names_are_errors_in_the_usual_words() {
        let text = |user: &str| match ids(user) {
            Err(Failure::User(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text("nobody"), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(text("app:nogroup"), "unable to find group nogroup: no matching entries in group file");
        assert_eq!(text("-1"), "uids and gids must be in range 0-2147483647");
        assert_eq!(text("4294967296"), "uids and gids must be in range 0-2147483647");
    }

    #[test]
    fn an_image_without_files_has_root_and_numbers() {
        assert_eq!(lookup("", None, None).unwrap().uid, 0);
        assert_eq!(lookup("12", None, None).unwrap().uid, 12);
        assert!(lookup("app", None, None).is_err());
        assert_eq!(home(0, PASSWD), "/root");
        assert_eq!(home(7, PASSWD), "/");
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_fall_over(user in "\\PC{0,12}", passwd: Vec<u8>, group: Vec<u8>) {
            lookup(&user, Some(&passwd), Some(&group)).ok();
            home(0, &passwd);
        }
    }
}
