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
        .find(|(_, upstream)| *upstream.token == *token && upstream.backend.pool == *pool)
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

/// Takes the cookie of this name out of the headers; the others stay as they are.
fn take(headers: &mut HeaderMap, name: &str) -> Option<String> {
    let is_ours = |pair: &str| {
        let pair = pair.trim_ascii();
        let rest = pair
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='));
        rest.map(str::to_owned)
    };
    let lists: Vec<&str> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let found = lists
        .iter()
        .flat_map(|list| list.split(';'))
        .find_map(is_ours)?;
    let kept: Vec<String> = lists
        .iter()
        .flat_map(|list| list.split(';'))
        .filter(|pair| is_ours(pair).is_none())
        .map(|pair| pair.trim_ascii().to_owned())
        .filter(|pair| !pair.is_empty())
        .collect();
    headers.remove(COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_str(&kept.join("; "))
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
            headers.append(COOKIE, HeaderValue::from_static(list));
        }
        let found = take(&mut headers, "vipd");
        let left = headers.get_all(COOKIE).iter();
        let left = left.map(|value| value.to_str().expect("text").to_owned());
        (found, left.collect())
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
    }
}
