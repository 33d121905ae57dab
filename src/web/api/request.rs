//! What a request of the API says: the name of its operation, its JSON body, its query.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::{Bytes, Payload};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::listing::ListQuery;
use crate::multipool::OpId;
use crate::web::params::parse_query;
use crate::web::problem::Problem;

/// 100,000 characters, each written as the longest JSON escape (`\ud83d\ude00`), and some room.
const MAX_BODY: usize = 1_300_000;
/// The longest name of an operation.
const MAX_KEY: usize = 255;
/// Space of names for keys that are no UUIDs.
const KEYS: Uuid = Uuid::from_u128(0x6f1c_9c2e_50d7_4a8b_9a41_2f0b_7d3e_5c11);

/// The name of an operation: a UUID as it is, any other text through a UUIDv5, so that the same text is the same operation.
pub(super) fn op_of_key(key: &str) -> Result<OpId, Problem> {
    // The draft standard of Idempotency-Key writes the key as a quoted string.
    let key = key
        .strip_prefix('"')
        .and_then(|key| key.strip_suffix('"'))
        .unwrap_or(key);
    if key.is_empty()
        || key.len() > MAX_KEY
        || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        let text = format!(
            "The name of an operation takes 1 to {MAX_KEY} printable ASCII characters, best a UUID. Nothing was changed."
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    let uuid = Uuid::try_parse(key).unwrap_or_else(|_| Uuid::new_v5(&KEYS, key.as_bytes()));
    Ok(OpId::from(uuid))
}

/// The name the caller gave the operation, if any.
pub(super) fn given_op(headers: &HeaderMap) -> Result<Option<OpId>, Problem> {
    let mut op = None;
    for name in ["idempotency-key", "x-op-id"] {
        for value in headers.get_all(name) {
            let given = op_of_key(value.to_str().unwrap_or(""))?;
            if op.is_some_and(|other| other != given) {
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    "The operation has two different names (Idempotency-Key, X-Op-Id). Nothing was changed; give one.",
                ));
            }
            op = Some(given);
        }
    }
    Ok(op)
}

/// Reads a JSON body of at most [`MAX_BODY`] bytes.
pub(super) async fn body(request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap_or("?"))
    };
    let kind = header(header::CONTENT_TYPE).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send a body of `Content-Type: application/json`. Nothing was changed.",
        ));
    }
    if header(header::CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send the body without a Content-Encoding. Nothing was changed.",
        ));
    }
    match payload.to_bytes_limited(MAX_BODY).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "The body ended before it was complete. Nothing was changed.",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The body is larger than {MAX_BODY} bytes. Nothing was changed."),
        )),
    }
}

/// Reads JSON: 400 for what is no JSON, 422 for JSON of another shape (a name twice, an unknown or missing name, a wrong type).
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        // serde would read a list as the fields in their order.
        return Err(Problem::of_kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "Invalid input",
            "The JSON must be an object. Nothing was changed.",
        ));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Problem::of_kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "Invalid input",
            format!("The JSON has not the expected shape: {error}. Nothing was changed."),
        ),
        _ => Problem::new(
            StatusCode::BAD_REQUEST,
            format!("The body is not JSON: {error}. Nothing was changed."),
        ),
    })
}

/// Reads the query of a list.
pub(super) fn list_query(query: &str, sorts: &[&str]) -> Result<ListQuery, Problem> {
    let params = parse_query(query)?.only(ListQuery::PARAMS)?;
    ListQuery::parse(|name| params.get(name), sorts).map_err(|errors| Problem::invalid(&errors))
}

/// An id in an address; what cannot be an id names no row.
pub(super) fn id(text: &str, name: &str) -> Result<i32, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|_| digits);
    id.ok_or_else(|| Problem::not_found(&format!("This {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn op(pairs: &[(&'static str, &'static str)]) -> Result<Option<OpId>, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        given_op(&headers).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn names_of_operations() {
        const UUID: &str = "0198f3a0-0000-7000-8000-000000000001";
        let uuid: OpId = UUID.parse().unwrap();
        assert_eq!(op(&[]), Ok(None));
        assert_eq!(op(&[("x-op-id", UUID)]), Ok(Some(uuid)));
        assert_eq!(
            op(&[
                ("idempotency-key", "\"0198f3a0-0000-7000-8000-000000000001\""),
                ("x-op-id", UUID)
            ]),
            Ok(Some(uuid))
        );
        let order = op(&[("idempotency-key", "order 7")]).unwrap();
        assert_eq!(order, op(&[("idempotency-key", "\"order 7\"")]).unwrap());
        assert_eq!(order.unwrap().uuid().get_version_num(), 5);
        assert_eq!(op(&[("idempotency-key", "order 7"), ("x-op-id", UUID)]), Err(400));
        assert_eq!(
            op(&[("idempotency-key", "a"), ("idempotency-key", "b")]),
            Err(400)
        );
        assert_eq!(op(&[("idempotency-key", "")]), Err(400));
    }

    #[test]
    fn wrong_json() {
        let status = |body: &[u8]| {
            json::<crate::items::ItemInput>(body)
                .unwrap_err()
                .status()
                .as_u16()
        };
        assert_eq!(status(b"{"), 400);
        assert_eq!(status(b""), 400);
        assert_eq!(status(b"{\"name\":\"\xff\"}"), 400);
        assert_eq!(status(b"{\"name\":\"a\"} x"), 400);
        assert_eq!(status(b"{\"name\":\"a\",\"name\":\"b\"}"), 422);
        assert_eq!(status(b"{\"name\":5}"), 422);
        assert_eq!(status(b"{\"nam\":\"a\"}"), 422);
        assert_eq!(status(b"[]"), 422);
        let nul: crate::items::ItemInput = json(b"{\"name\":\"a\\u0000\"}").unwrap();
        assert!(nul.validate().is_err());
    }

    #[test]
    fn ids() {
        assert_eq!(id("7", "item").unwrap(), 7);
        for bad in ["", "-1", "+1", "abc", "2147483648", "1.0", "٧"] {
            assert_eq!(id(bad, "item").unwrap_err().status(), 404, "{bad}");
        }
        assert_eq!(
            list_query("sort=name&serach=x", &["id", "name"])
                .unwrap_err()
                .status(),
            400
        );
        assert_eq!(list_query("sort=nam", &["id", "name"]).unwrap_err().status(), 422);
    }
}
