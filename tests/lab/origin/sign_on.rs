//! Sign-on that belongs to the connection, as with Apache's mod_auth_gssapi and
//! `GssapiConnectionBound On`, or NTLM on IIS; the tokens are made up.
//!
//! A request on a connection that nobody has signed on to is answered with 401. A [`token`] binds
//! its user at once. A [`first_leg`] is answered with 401 and a challenge, and the [`answer`] to that
//! challenge binds, on the same connection only. From then on each request without `Authorization`
//! is that user's. A token on a bound connection is looked at as if it were the first: a right one
//! binds its own user instead, a wrong one leaves nobody bound. Another scheme is answered with 401
//! and changes nothing. Answers to a user carry `X-User`, those of public pages as well; all carry
//! `X-Connection` with the number of the connection and of the request on it.
//!
//! All this was seen of mod_auth_gssapi 1.6.4. Unlike there, a token may be sent again.

use super::Response;
use crate::lab::base64;

/// Returns the value of an `Authorization` that signs `user` on at once; with `padding` letters
/// more it is as long as tickets can be.
#[must_use]
pub fn token(scheme: &str, user: &str, padding: usize) -> String {
    written(scheme, &format!("user:{user}:1:{}", "x".repeat(padding)))
}

/// Returns the value of an `Authorization` that begins a sign-on of two tokens.
#[must_use]
pub fn first_leg(scheme: &str, user: &str, padding: usize) -> String {
    written(scheme, &format!("user:{user}:3:{}", "x".repeat(padding)))
}

/// Returns the value of an `Authorization` that answers `challenge`, a `WWW-Authenticate`; `None`
/// if that is no challenge.
#[must_use]
pub fn answer(challenge: &str, user: &str, padding: usize) -> Option<String> {
    let (scheme, text) = challenge.split_once(' ')?;
    let text = String::from_utf8(base64::decode(text)?).ok()?;
    let connection = text.strip_prefix("challenge:")?;
    let padding = "x".repeat(padding);
    Some(written(
        scheme,
        &format!("answer:{user}:{connection}:{padding}"),
    ))
}

fn written(scheme: &str, text: &str) -> String {
    format!("{scheme} {}", base64::encode(text.as_bytes()))
}

/// How far the sign-on of one connection has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Nobody,
    Challenged(String),
    Bound(String),
}

impl State {
    pub(super) fn user(&self) -> Option<String> {
        match self {
            Self::Bound(user) => Some(user.clone()),
            Self::Nobody | Self::Challenged(_) => None,
        }
    }

    /// Looks at the `Authorization` of the next request; returns the refusal if no user is known
    /// by then.
    pub(super) fn next(
        &mut self,
        scheme: &str,
        connection: u64,
        authorization: Option<&str>,
    ) -> Option<Response> {
        match authorization {
            Some(value) if is_bound_to_connections(value) => {
                let text = read(scheme, value).unwrap_or_default();
                *self = self.after(&text, connection);
            }
            Some(_) => return Some(refusal(scheme)),
            None => {}
        }
        match (&*self, authorization) {
            (Self::Bound(_), _) => None,
            (Self::Challenged(_), Some(_)) => {
                let challenge = written(scheme, &format!("challenge:{connection}"));
                Some(refusal(&challenge))
            }
            (Self::Challenged(_) | Self::Nobody, _) => Some(refusal(scheme)),
        }
    }

    fn after(&self, token: &str, connection: u64) -> Self {
        let words: Vec<&str> = token.split(':').collect();
        match (words.as_slice(), self) {
            (["user", user, "1", _], _) => Self::Bound((*user).to_owned()),
            (["user", user, _, _], _) => Self::Challenged((*user).to_owned()),
            (["answer", user, met, _], Self::Challenged(begun))
                if user == begun && *met == connection.to_string() =>
            {
                Self::Bound((*user).to_owned())
            }
            _ => Self::Nobody,
        }
    }
}

fn is_bound_to_connections(authorization: &str) -> bool {
    let scheme = authorization.split(' ').next().unwrap_or_default();
    ["Negotiate", "NTLM"]
        .iter()
        .any(|bound| scheme.eq_ignore_ascii_case(bound))
}

fn read(scheme: &str, authorization: &str) -> Option<String> {
    let (found, text) = authorization.split_once(' ')?;
    if !found.eq_ignore_ascii_case(scheme) {
        return None;
    }
    String::from_utf8(base64::decode(text.trim())?).ok()
}

fn refusal(challenge: &str) -> Response {
    Response::status(401)
        .header("WWW-Authenticate", challenge)
        .body("sign on first\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEME: &str = "Negotiate";

    #[test]
    fn a_token_binds_its_user_to_the_connection() {
        let mut state = State::default();

        assert!(state.next(SCHEME, 1, None).is_some());
        assert!(state.next(SCHEME, 1, Some("Negotiate !")).is_some());
        assert!(
            state
                .next(SCHEME, 1, Some(&token(SCHEME, "ann", 9)))
                .is_none()
        );
        assert!(state.next(SCHEME, 1, None).is_none());
        assert_eq!(state.user().as_deref(), Some("ann"));
    }

    #[test]
    fn a_token_on_a_bound_connection_is_looked_at_anew() {
        let mut state = State::Bound("ann".to_owned());

        assert!(state.next(SCHEME, 1, Some("Basic YTpi")).is_some());
        assert!(state.next(SCHEME, 1, None).is_none());
        assert!(
            state
                .next(SCHEME, 1, Some(&token(SCHEME, "bob", 9)))
                .is_none()
        );
        assert_eq!(state.user().as_deref(), Some("bob"));
        assert!(state.next(SCHEME, 1, Some("Negotiate AAAA")).is_some());
        assert!(state.next(SCHEME, 1, None).is_some());
    }

    #[test]
    fn a_challenge_is_answered_on_its_own_connection_only() {
        let (mut first, mut second) = (State::default(), State::default());
        let leg = first_leg(SCHEME, "ann", 0);
        let challenge = written(SCHEME, "challenge:1");
        let right = answer(&challenge, "ann", 0).expect("a challenge");

        assert!(first.next(SCHEME, 1, Some(&leg)).is_some());
        assert!(second.next(SCHEME, 2, Some(&leg)).is_some());
        assert!(second.next(SCHEME, 2, Some(&right)).is_some());
        assert_eq!(second, State::Nobody);
        assert!(first.next(SCHEME, 1, Some(&right)).is_none());
        assert_eq!(first.user().as_deref(), Some("ann"));
    }
}
