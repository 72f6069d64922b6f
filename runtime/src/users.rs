//! Who a container's process is: the image's `USER` string and the request, looked up in the container's own /etc/passwd
//! and /etc/group.

use crate::sandbox::{Error, Result, User};

/// Resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups: those asked for, and those of /etc/group that list the user.
    pub groups: Vec<u32>,
    /// Home directory, `/` when not known.
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|l| {
        let mut f = l.split(':');
        let (name, _, uid, gid, _, home) =
            (f.next()?, f.next()?, f.next()?, f.next()?, f.next(), f.next());
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some(Account { name, uid, gid, home: home.unwrap_or("/") })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|l| {
        let mut f = l.split(':');
        let (name, _, gid) = (f.next()?, f.next()?, f.next()?.parse().ok()?);
        Some((name, gid, f.next().unwrap_or("")))
    })
}

/// Resolves. `image` is the image's `USER`: empty, `uid`, `uid:gid`, `name`, `name:group`.
pub fn resolve(wanted: &User, image: &str, passwd: &str, group: &str) -> Result<Identity> {
    let (user, image_group) = match image.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (image, None),
    };
    let by_name = |n: &str| accounts(passwd).find(|a| a.name == n);
    let by_uid = |u: u32| accounts(passwd).find(|a| a.uid == u);
    let account = match (wanted.uid, user) {
        (Some(uid), _) => Ok((uid, by_uid(uid))),
        (None, "") => Ok((0, by_uid(0))),
        (None, u) => match (u.parse::<u32>(), by_name(u)) {
            (_, Some(a)) => Ok((a.uid, Some(a))),
            (Ok(uid), None) => Ok((uid, by_uid(uid))),
            (Err(_), None) => {
                Err(Error::Invalid(format!("user {u:?} is not in the image's /etc/passwd")))
            }
        },
    };
    let (uid, account) = account?;
    if wanted.must_not_be_root && uid == 0 {
        return Err(Error::Invalid(
            "the container must not run as root (runAsNonRoot), and its image's user is root"
                .into(),
        ));
    }
    let gid = match (wanted.gid, wanted.uid, image_group) {
        (Some(gid), _, _) => gid,
        // The image's group belongs to the image's user.
        (None, None, Some(g)) => g
            .parse()
            .ok()
            .or_else(|| groups(group).find(|(n, _, _)| *n == g).map(|(_, gid, _)| gid))
            .ok_or_else(|| {
                Error::Invalid(format!("group {g:?} is not in the image's /etc/group"))
            })?,
        _ => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut all = wanted.supplemental.clone();
    if let Some(a) = &account {
        all.extend(
            groups(group)
                .filter(|(_, _, members)| members.split(',').any(|m| m == a.name))
                .map(|(_, gid, _)| gid),
        );
    }
    all.sort_unstable();
    all.dedup();
    let home = account.map_or("/", |a| if a.home.is_empty() { "/" } else { a.home }).to_owned();
    Ok(Identity { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/var/www:/bin/sh\nbad\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,other\nx:x:nan:\n";

    fn check(user: User, image: &str, expected: (u32, u32, &[u32], &str)) {
        let i = resolve(&user, image, PASSWD, GROUP).expect("resolves");
        assert_eq!((i.uid, i.gid, i.groups.as_slice(), i.home.as_str()), expected, "{image}");
    }

    #[test]
    fn names_and_numbers() {
        let d = User::default;
        check(d(), "", (0, 0, &[], "/root"));
        check(d(), "web", (33, 34, &[50], "/var/www"));
        check(d(), "33", (33, 34, &[50], "/var/www"));
        check(d(), "web:logs", (33, 50, &[50], "/var/www"));
        check(d(), "1000", (1000, 0, &[], "/"));
        check(d(), "1000:7", (1000, 7, &[], "/"));
        let u = User { uid: Some(33), supplemental: vec![9, 50], ..d() };
        check(u, "root:root", (33, 34, &[9, 50], "/var/www"));
        check(User { gid: Some(5), ..d() }, "web", (33, 5, &[50], "/var/www"));
        assert!(resolve(&d(), "nobody", PASSWD, GROUP).is_err());
        assert!(resolve(&d(), "web:nogroup", PASSWD, GROUP).is_err());
        let strict = User { must_not_be_root: true, ..d() };
        assert!(resolve(&strict, "", PASSWD, GROUP).is_err());
        assert!(resolve(&strict, "0", PASSWD, GROUP).is_err());
        assert!(resolve(&strict, "web", PASSWD, GROUP).is_ok());
    }
}
