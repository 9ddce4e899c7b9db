//! Who asks: the user behind a connection, by the kernel's word.

use std::fs;

/// Returns the name of a user, or `uid N` where the system knows none.
pub(super) fn user(uid: u32) -> String {
    fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|text| name_of(&text, uid))
        .unwrap_or_else(|| format!("uid {uid}"))
}

/// Returns the number of a group in `/etc/group`.
pub(super) fn group(name: &str) -> Option<u32> {
    number_of(&fs::read_to_string("/etc/group").ok()?, name)
}

/// Looks a name up in text of the form of group(5).
pub(super) fn number_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Looks a number up in text of the form of passwd(5).
pub(super) fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1001:1001::/home/ann:\n";

    #[test]
    fn a_user_is_found_by_number() {
        assert_eq!(name_of(PASSWD, 1001), Some("ann".to_owned()));
        assert_eq!(name_of(PASSWD, 0), Some("root".to_owned()));
        assert_eq!(name_of(PASSWD, 7), None);
    }

    #[test]
    fn the_group_root_has_number_zero() {
        assert_eq!(group("root"), Some(0));
        assert_eq!(group("no such group"), None);
    }
}
