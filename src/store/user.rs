//! [`User`]: whom a container runs as, from the snapshot's own `/etc/passwd` and `/etc/group`. The host's users and its NSS are never asked.

use std::io::Read as _;

use serde::Serialize;

use super::{OpenRoot, Store};
use crate::error::{Error, ErrorKind, Result};

/// How much of `/etc/passwd` or `/etc/group` is read: a hostile image must not fill the memory.
const FILE_MAX: u64 = 16 << 20;

/// A user of an image, as the kernel knows one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The other groups that the user is in; none where a group was asked for.
    pub groups: Vec<u32>,
    /// The home directory, where `/etc/passwd` knows the user.
    pub home: Option<String>,
}

impl User {
    /// Finds a user as an image's config names one: `user`, `uid`, `user:group`, `uid:gid`, `uid:group` or `user:gid`; empty means root.
    /// Names are looked for in the text of a `passwd` and a `group` file; a number need not be there.
    ///
    /// ```
    /// use plywood::store::User;
    ///
    /// let (passwd, group) = (&b"app:x:1000:100::/srv/app:/bin/sh\n"[..], &b"staff:x:50:\nmail:x:8:root,app\n"[..]);
    /// let user = User::find("app", passwd, group)?;
    /// assert_eq!((user.uid, user.gid, user.groups, user.home.as_deref()), (1000, 100, vec![8], Some("/srv/app")));
    /// assert_eq!(User::find("app:staff", passwd, group)?.gid, 50);
    /// # Ok::<_, plywood::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound` for a name that is not there; `InvalidArgument` for a number that is no id.
    pub fn find(text: &str, passwd: &[u8], group: &[u8]) -> Result<Self> {
        let (wanted, group_wanted) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let wanted = if wanted.is_empty() { "0" } else { wanted };
        let number = number("user", wanted)?;
        let entry = lines(passwd).find(|fields| is(fields, wanted, number));
        let mut user = match (&entry, number) {
            (Some(fields), _) => Self {
                uid: field(fields, 2).ok_or_else(|| malformed("/etc/passwd", wanted))?,
                gid: field(fields, 3).ok_or_else(|| malformed("/etc/passwd", wanted))?,
                groups: Vec::new(),
                home: fields
                    .get(5)
                    .and_then(|home| std::str::from_utf8(home).ok())
                    .filter(|home| !home.is_empty())
                    .map(str::to_owned),
            },
            (None, Some(uid)) => Self { uid, ..Self::default() },
            (None, None) => return Err(unknown("user", wanted, "/etc/passwd")),
        };
        match (group_wanted, entry.as_ref().and_then(|fields| fields.first())) {
            (Some(wanted), _) => {
                let number = self::number("group", wanted)?;
                user.gid = match (lines(group).find(|fields| is(fields, wanted, number)), number) {
                    (Some(fields), _) => field(&fields, 2).ok_or_else(|| malformed("/etc/group", wanted))?,
                    (None, Some(gid)) => gid,
                    (None, None) => return Err(unknown("group", wanted, "/etc/group")),
                };
            }
            (None, Some(name)) => {
                let member =
                    |fields: &[&[u8]]| fields.get(3).is_some_and(|all| all.split(|&byte| byte == b',').any(|one| one == *name));
                user.groups = lines(group).filter(|fields| member(fields)).filter_map(|fields| field(&fields, 2)).collect();
                user.groups.retain(|gid| *gid != user.gid);
                user.groups.sort_unstable();
                user.groups.dedup();
            }
            (None, None) => {}
        }
        Ok(user)
    }
}

impl Store {
    /// Whom `text`, an image's `User`, means in a snapshot: see [`User::find`]. A file that is not there is empty.
    ///
    /// # Errors
    /// As [`open_root`](Self::open_root) and [`User::find`]; `LimitExceeded` for a `passwd` or `group` of more than 16 MiB.
    pub fn user(&self, name: &str, text: &str) -> Result<User> {
        let root = self.open_root(name)?;
        User::find(text, &whole(&root, "/etc/passwd")?, &whole(&root, "/etc/group")?)
    }
}

fn whole(root: &OpenRoot, path: &str) -> Result<Vec<u8>> {
    let file = match root.open_file(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(Vec::new()),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(FILE_MAX.saturating_add(1)).read_to_end(&mut text).map_err(|error| Error::io("read", error).at(path))?;
    if text.len() as u64 > FILE_MAX {
        let reason = format!("it has more than {FILE_MAX} bytes");
        return Err(Error::new(ErrorKind::LimitExceeded, "find user").at(path).because(reason));
    }
    Ok(text)
}

/// The fields of each line.
fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|&byte| byte == b'\n').map(|line| line.split(|&byte| byte == b':').collect())
}

/// By its name, or by its number.
fn is(fields: &[&[u8]], wanted: &str, number: Option<u32>) -> bool {
    fields.len() > 2 && (fields.first() == Some(&wanted.as_bytes()) || number.is_some() && field(fields, 2) == number)
}

fn field(fields: &[&[u8]], position: usize) -> Option<u32> {
    std::str::from_utf8(fields.get(position)?).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn number(what: &str, text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(Error::new(ErrorKind::InvalidArgument, "find user").because(format!("{text} is no {what} id"))),
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::new(ErrorKind::NotFound, "find user").at(file).because(format!("there is no {what} {}", name.escape_debug()))
}

fn malformed(file: &str, name: &str) -> Error {
    Error::new(ErrorKind::InvalidLayer, "find user").at(file).because(format!("the line of {} has no ids", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\xff:x:1\nbroken:x:a:b::/:\napp:x:1000:100::/srv/app:\n7:x:77:77::/:\nhigh:x:4294967295:1::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:root\nmail:x:8:root,app\nalso:x:8:app\nown:x:100:app\nbad:x:y:app\n";

    #[test]
    fn users_are_those_of_the_image() {
        let find = |text| User::find(text, PASSWD, GROUP).unwrap();
        let ids = |text| (find(text).uid, find(text).gid, find(text).groups);
        assert_eq!(ids(""), (0, 0, vec![8, 50]));
        assert_eq!(ids("root"), (0, 0, vec![8, 50]));
        assert_eq!(ids("app"), (1000, 100, vec![8]));
        assert_eq!(ids("1000"), (1000, 100, vec![8]));
        assert_eq!(ids("app:staff"), (1000, 50, vec![]));
        assert_eq!(ids("app:7"), (1000, 7, vec![]));
        assert_eq!(ids("app:"), (1000, 100, vec![8]));
        assert_eq!(ids("12345"), (12345, 0, vec![]));
        assert_eq!(ids("12345:mail"), (12345, 8, vec![]));
        // A name of digits is a name first, as elsewhere.
        assert_eq!(ids("7"), (77, 77, vec![]));
        assert_eq!(find("app").home.as_deref(), Some("/srv/app"));
        for (text, kind) in [
            ("nobody", ErrorKind::NotFound),
            ("app:nobody", ErrorKind::NotFound),
            ("broken", ErrorKind::InvalidLayer),
            ("high", ErrorKind::InvalidLayer),
            ("4294967295", ErrorKind::InvalidArgument),
            ("99999999999", ErrorKind::InvalidArgument),
        ] {
            assert_eq!(User::find(text, PASSWD, GROUP).unwrap_err().kind(), kind, "{text}");
        }
        assert_eq!(User::find("", b"", b"").unwrap(), User::default());
    }
}
