//! Affinity by a cookie, for clients behind one address.

use hyper::{
    HeaderMap,
    header::{COOKIE, HeaderValue, SET_COOKIE},
};

use super::Conversation;
use crate::config::model::{PersistenceKey, Service};

/// Name of the cookie unless the configuration gives another.
const NAME: &str = "vipd";

/// Takes the cookie out of a request, and returns the number of the backend that it names.
pub(crate) fn named(
    conversation: &Conversation,
    place: usize,
    headers: &mut HeaderMap,
) -> Option<u16> {
    let name = name(&conversation.front.service)?;
    let token = take(headers, name)?;
    let pool = &conversation.front.pools.get(place)?.name;
    let numbered = conversation.front.numbered.load();
    numbered
        .upstreams
        .iter()
        .find(|(_, upstream)| upstream.token.as_bytes() == token && upstream.backend.pool == *pool)
        .map(|(number, _)| *number)
}

/// Gives the client of a backend its cookie. It lasts as long as the browser's session.
pub(crate) fn set(conversation: &Conversation, number: u16, headers: &mut HeaderMap) {
    let numbered = conversation.front.numbered.load();
    if let Some(name) = name(&conversation.front.service)
        && let Some(upstream) = numbered.upstreams.get(&number)
        && let Ok(value) = HeaderValue::from_str(&format!(
            "{name}={}; Path=/; Secure; HttpOnly; SameSite=Lax",
            upstream.token
        ))
    {
        headers.append(SET_COOKIE, value);
    }
}

fn name(service: &Service) -> Option<&str> {
    let persistence = &service.persistence;
    (persistence.key == PersistenceKey::Cookie)
        .then(|| persistence.cookie.as_deref().unwrap_or(NAME))
}

/// Takes the cookie of this name out of the headers; the others stay as they are, whatever bytes a
/// browser keeps in them (RFC 6265 section 5.4).
pub(super) fn take(headers: &mut HeaderMap, name: &str) -> Option<Vec<u8>> {
    let is_ours = |pair: &[u8]| {
        let rest = pair
            .strip_prefix(name.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="));
        rest.map(<[u8]>::to_vec)
    };
    let lists = headers.get_all(COOKIE).iter();
    let pairs: Vec<&[u8]> = lists
        .flat_map(|list| list.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
        .collect();
    let found = pairs.iter().copied().find_map(is_ours)?;
    let others = pairs.iter().copied().filter(|pair| is_ours(pair).is_none());
    let kept = others.collect::<Vec<_>>().join(&b"; "[..]);
    headers.remove(COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&kept)
    {
        headers.insert(COOKIE, value);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lists: &[&'static str]) -> (Option<String>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(
                COOKIE,
                HeaderValue::from_bytes(list.as_bytes()).expect("a value"),
            );
        }
        let found = take(&mut headers, "vipd");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let left = headers.get_all(COOKIE).iter();
        let left = left.map(|value| text(value.as_bytes()));
        (found.map(|found| text(&found)), left.collect())
    }

    #[test]
    fn only_our_cookie_is_taken_out() {
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(taken(&[]), (None, vec![]));
        assert_eq!(taken(&["a=1; b=2"]), (None, vec!["a=1; b=2".to_owned()]));
        assert_eq!(taken(&["vipd=x"]), (found("x"), vec![]));
        assert_eq!(
            taken(&["a=1; vipd=x;b=2", "c=3"]),
            (found("x"), vec!["a=1; b=2; c=3".to_owned()])
        );
        assert_eq!(taken(&["xvipd=1; vipdx=2"]).0, None);
        assert_eq!(taken(&["vipd=x; vipd=y"]), (found("x"), vec![]));
        assert_eq!(
            taken(&["name=J\u{fc}rgen; vipd=x", "b=\u{e9}"]),
            (found("x"), vec!["name=J\u{fc}rgen; b=\u{e9}".to_owned()])
        );
    }
}
