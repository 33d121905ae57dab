//! Entity tags: the strong `ETag` of a row, and `If-Match`.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, IF_MATCH};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::web::problem::Problem;

/// The tag of a row: any change of any column changes it.
pub(super) fn etag(row: &impl Serialize) -> String {
    let hash = Sha256::digest(serde_json::to_vec(row).unwrap_or_default());
    format!("\"{}\"", hex::encode(&hash[..16]))
}

/// What the caller requires of the row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// Nothing, or only that it exists (`*`), which every update and delete requires.
    Any,
    /// One of these tags.
    OneOf(Vec<String>),
}

impl IfMatch {
    /// Reads the header.
    pub(super) fn read(headers: &HeaderMap) -> Result<IfMatch, Problem> {
        let mut tags = Vec::new();
        for value in headers.get_all(IF_MATCH) {
            let list = value.to_str().ok().ok_or_else(unreadable)?;
            if list.trim() == "*" {
                return Ok(IfMatch::Any);
            }
            for tag in list.split(',') {
                let tag = tag.trim();
                // A weak tag is well formed and never matches here (RFC 9110, 13.1.1).
                let opaque = tag.strip_prefix("W/").unwrap_or(tag);
                if opaque.len() < 2 || !opaque.starts_with('"') || !opaque.ends_with('"') {
                    return Err(unreadable());
                }
                tags.push(tag.to_owned());
            }
        }
        Ok(if tags.is_empty() {
            IfMatch::Any
        } else {
            IfMatch::OneOf(tags)
        })
    }

    /// Whether a row with this tag is what the caller requires.
    pub(super) fn allows(&self, etag: &str) -> bool {
        match self {
            IfMatch::Any => true,
            IfMatch::OneOf(tags) => tags.iter().any(|tag| tag == etag),
        }
    }
}

fn unreadable() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "If-Match takes `*` or ETags in double quotes, as a GET answers them. Nothing was changed.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn read(value: &'static str) -> Result<IfMatch, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, HeaderValue::from_static(value));
        IfMatch::read(&headers).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn tags() {
        assert_eq!(IfMatch::read(&HeaderMap::new()).unwrap(), IfMatch::Any);
        assert_eq!(read("*"), Ok(IfMatch::Any));
        let two = read("\"a\", W/\"b\"").unwrap();
        assert!(two.allows("\"a\"") && !two.allows("\"b\"") && !two.allows("\"c\""));
        for bad in ["a", "\"a", "\"a\",", "\""] {
            assert_eq!(read(bad), Err(400), "{bad}");
        }
        assert_eq!(etag(&(1, "x")).len(), 34);
        assert_ne!(etag(&(1, "x")), etag(&(1, "y")));
    }
}
