//! Security headers of every answer, and the check that a change was asked for by our own pages.

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// No script but our own files, no frame, no form that leads elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Adds the headers every answer carries; one that a handler has set stays.
pub(super) fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// Why a request to change something is refused: another site's page sent it (cross-site request forgery).
///
/// A browser says where a request comes from in `Sec-Fetch-Site` (where the connection counts as trustworthy) or `Origin`. A
/// client that sends neither is no browser, and an old browser's cookie is held back by `SameSite=Lax`.
pub(super) fn refuse_foreign(method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text(SEC_FETCH_SITE) {
        return (!matches!(site, "same-origin" | "none"))
            .then_some("the browser says that a page of another site sent this request");
    }
    let origin = text("origin")?;
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let same = authority
        .is_some_and(|authority| text("host").is_some_and(|host| host.eq_ignore_ascii_case(authority)));
    (!same).then_some("this request came from a page of another address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(method: Method, pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        refuse_foreign(&method, &headers).is_some()
    }

    #[test]
    fn only_our_own_pages_change_something() {
        let host = ("host", "app.test:8080");
        assert!(!refused(Method::POST, &[host]));
        assert!(!refused(
            Method::POST,
            &[host, ("origin", "http://APP.test:8080")]
        ));
        assert!(!refused(Method::POST, &[host, ("sec-fetch-site", "same-origin")]));
        assert!(!refused(Method::GET, &[host, ("sec-fetch-site", "cross-site")]));
        assert!(refused(Method::POST, &[host, ("sec-fetch-site", "cross-site")]));
        assert!(refused(Method::DELETE, &[host, ("sec-fetch-site", "same-site")]));
        assert!(refused(Method::PUT, &[host, ("origin", "http://app.test:8081")]));
        assert!(refused(Method::POST, &[host, ("origin", "null")]));
        assert!(refused(Method::POST, &[("origin", "http://app.test:8080")]));
    }
}
