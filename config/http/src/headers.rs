//! Headers that a request must not repeat: with two, different programs on the way use different ones.

use http::{
    Version,
    header::{AUTHORIZATION, HOST},
    request::Parts,
};
use thiserror::Error;

/// A head that different programs would parse differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AmbiguousHead {
    /// The header is repeated.
    #[error("the request has more than one header {0}: send one")]
    Several(&'static str),
    /// RFC 9112 section 3.2 requires one.
    #[error("the request has no header Host, which HTTP/1.1 requires")]
    NoHost,
}

/// Whether there is one Host (in HTTP/1.0: at most one) and at most one Authorization.
pub fn check(head: &Parts) -> Result<(), AmbiguousHead> {
    let count = |name| head.headers.get_all(name).iter().count();
    if count(AUTHORIZATION) > 1 {
        return Err(AmbiguousHead::Several("Authorization"));
    }
    match count(HOST) {
        0 if head.version > Version::HTTP_10 => Err(AmbiguousHead::NoHost),
        0 | 1 => Ok(()),
        _ => Err(AmbiguousHead::Several("Host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn one_host_and_no_two_credentials() {
        let of = |version, headers: &[(&str, &str)]| {
            let mut request = Request::builder().version(version);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            check(&request.body(()).unwrap().into_parts().0)
        };
        let (host, bearer) = (("host", "x"), ("authorization", "Bearer x"));
        let now = Version::HTTP_11;
        assert_eq!(of(now, &[host, bearer]), Ok(()));
        assert_eq!(of(now, &[host, host]), Err(AmbiguousHead::Several("Host")));
        assert_eq!(of(now, &[host, ("host", "y")]), Err(AmbiguousHead::Several("Host")));
        assert_eq!(of(now, &[bearer]), Err(AmbiguousHead::NoHost));
        assert_eq!(of(Version::HTTP_10, &[]), Ok(()), "health checks of old load balancers");
        assert_eq!(of(Version::HTTP_10, &[host, host]), Err(AmbiguousHead::Several("Host")));
        assert_eq!(of(now, &[host, bearer, bearer]), Err(AmbiguousHead::Several("Authorization")));
    }
}
