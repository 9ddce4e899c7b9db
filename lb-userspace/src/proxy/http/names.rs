//! Which headers a head has, of those that mean something to vipd.
//!
//! Most heads have few of them. One pass over the names of a head tells, where each question of the
//! map would hash a name.

use std::ops::BitOr;

use hyper::HeaderMap;

/// Some headers; each is a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(u32);

impl Names {
    pub(crate) const AUTHORIZATION: Self = Self(1);
    pub(crate) const CONNECTION: Self = Self(1 << 1);
    pub(crate) const CONTENT_LENGTH: Self = Self(1 << 2);
    pub(crate) const COOKIE: Self = Self(1 << 3);
    pub(crate) const EXPECT: Self = Self(1 << 4);
    /// All that say where a request comes from: `X-Forwarded-*`, `X-Real-IP`, `Forwarded`.
    pub(crate) const FORWARDED: Self = Self(1 << 5);
    pub(crate) const HOST: Self = Self(1 << 6);
    pub(crate) const HTTP2_SETTINGS: Self = Self(1 << 7);
    pub(crate) const KEEP_ALIVE: Self = Self(1 << 8);
    pub(crate) const PROXY_AUTHENTICATE: Self = Self(1 << 9);
    pub(crate) const PROXY_AUTHORIZATION: Self = Self(1 << 10);
    pub(crate) const PROXY_CONNECTION: Self = Self(1 << 11);
    pub(crate) const TE: Self = Self(1 << 12);
    pub(crate) const TRANSFER_ENCODING: Self = Self(1 << 13);
    pub(crate) const UPGRADE: Self = Self(1 << 14);
    pub(crate) const WWW_AUTHENTICATE: Self = Self(1 << 15);
    /// Any name with an underscore, which some servers take for a dash.
    pub(crate) const UNDERSCORE: Self = Self(1 << 16);

    /// Returns those that a head has.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::default(), |all, name| {
            all | Self::named(name.as_str())
        })
    }

    /// Returns whether any of these is there.
    pub(crate) fn have(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    /// Returns these and others, where `|` cannot be used.
    pub(crate) const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Returns the others, once these have been taken out.
    pub(crate) fn without(self, these: Self) -> Self {
        Self(self.0 & !these.0)
    }

    /// Returns the one that a name in lower case is; none if it means nothing to vipd.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "authorization" => Self::AUTHORIZATION,
            "connection" => Self::CONNECTION,
            "content-length" => Self::CONTENT_LENGTH,
            "cookie" => Self::COOKIE,
            "expect" => Self::EXPECT,
            "host" => Self::HOST,
            "http2-settings" => Self::HTTP2_SETTINGS,
            "keep-alive" => Self::KEEP_ALIVE,
            "proxy-authenticate" => Self::PROXY_AUTHENTICATE,
            "proxy-authorization" => Self::PROXY_AUTHORIZATION,
            "proxy-connection" => Self::PROXY_CONNECTION,
            "te" => Self::TE,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "upgrade" => Self::UPGRADE,
            "www-authenticate" => Self::WWW_AUTHENTICATE,
            name if is_forwarded(name) => Self::FORWARDED,
            name if name.contains('_') => Self::UNDERSCORE,
            _ => Self::default(),
        }
    }
}

impl BitOr for Names {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

/// Returns whether a header says where a request comes from.
pub(crate) fn is_forwarded(name: &str) -> bool {
    name.starts_with("x-forwarded-") || name == "x-real-ip" || name == "forwarded"
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn a_head_has_what_it_names() {
        let mut headers = HeaderMap::new();
        for name in ["X-Other", "Connection", "TE", "X-Forwarded-Anything", "a_b"] {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, hyper::header::HeaderValue::from_static("x"));
        }
        let names = Names::of(&headers);
        assert_eq!(
            names,
            Names::CONNECTION | Names::TE | Names::FORWARDED | Names::UNDERSCORE
        );
        assert!(names.have(Names::HOST | Names::TE));
        assert!(!names.have(Names::HOST));
        assert!(!names.without(Names::TE).have(Names::HOST | Names::TE));
    }

    #[test]
    fn each_header_has_its_bit() {
        for (name, bit) in [
            ("authorization", Names::AUTHORIZATION),
            ("connection", Names::CONNECTION),
            ("content-length", Names::CONTENT_LENGTH),
            ("cookie", Names::COOKIE),
            ("expect", Names::EXPECT),
            ("forwarded", Names::FORWARDED),
            ("host", Names::HOST),
            ("http2-settings", Names::HTTP2_SETTINGS),
            ("keep-alive", Names::KEEP_ALIVE),
            ("proxy-authenticate", Names::PROXY_AUTHENTICATE),
            ("proxy-authorization", Names::PROXY_AUTHORIZATION),
            ("proxy-connection", Names::PROXY_CONNECTION),
            ("te", Names::TE),
            ("transfer-encoding", Names::TRANSFER_ENCODING),
            ("upgrade", Names::UPGRADE),
            ("www-authenticate", Names::WWW_AUTHENTICATE),
            ("x-forwarded-for", Names::FORWARDED),
            ("x-real-ip", Names::FORWARDED),
            ("x_forwarded_for", Names::UNDERSCORE),
            ("x-other", Names::default()),
        ] {
            assert_eq!(Names::named(name), bit, "{name}");
        }
    }
}
