//! Errors of the JSON API as `application/problem+json` (RFC 9457). Each says what happened, what it means for the data, and
//! what to do; inner texts of the server stay in the log.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde_json::{Map, Value as Json, json};

use super::params::ParamError;
use crate::listing::FieldErrors;
use crate::multipool::{Fields, OpId, ReadError, WriteError};

/// Seconds after which a refused request may be worth repeating: a side that died is out after one to three.
pub const RETRY_AFTER_S: u64 = 2;

/// One problem document.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// Fragment of `/api/openapi.json` that explains it; without one the type is `about:blank`.
    kind: Option<&'static str>,
    title: String,
    detail: String,
    members: Map<String, Json>,
}

impl Problem {
    /// A problem that its HTTP status explains.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            kind: None,
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            members: Map::new(),
        }
    }

    /// A problem of ours.
    pub fn of_kind(
        status: StatusCode,
        kind: &'static str,
        title: &str,
        detail: impl Into<String>,
    ) -> Problem {
        let problem = Problem::new(status, detail);
        Problem {
            kind: Some(kind),
            title: title.to_owned(),
            ..problem
        }
    }

    /// With one more member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Problem {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// With the name of the operation it is about.
    #[must_use]
    pub fn about(self, op: OpId) -> Problem {
        self.with("op_id", op.to_string())
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// No row has this id.
    pub fn not_found(what: &str) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!("{what} does not exist. Nothing was changed."),
        )
    }

    /// Fields that cannot be accepted.
    pub fn invalid(errors: &FieldErrors) -> Problem {
        let list: Vec<Json> = errors
            .iter()
            .map(|error| {
                let mut entry = json!(error);
                entry["detail"] = json!(format!("{} {}", error.field, error.code));
                entry
            })
            .collect();
        Problem::of_kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "Invalid input",
            format!("{errors}. Nothing was changed; correct the fields and send the request again."),
        )
        .with("errors", list)
    }

    /// The row is not as the caller had seen it; `current` is what it is now.
    pub fn edit_conflict(current: Json) -> Problem {
        Problem::of_kind(
            StatusCode::CONFLICT,
            "edit-conflict",
            "Changed by somebody else",
            "The row is no longer as you had seen it. Nothing was changed. Look at `current`, and repeat your change with its \
             ETag and a new operation id if you still want it.",
        )
        .with("current", current)
    }

    /// What became of a write, and what it means.
    pub fn of_write(op: OpId, error: WriteError) -> Problem {
        let problem = match error {
            WriteError::NotFound { table, key } => Problem::not_found(&format!("Row {key} of {table}")),
            WriteError::EditConflict { current, .. } => Problem::edit_conflict(fields_as_json(&current)),
            WriteError::OpReused(op) => Problem::of_kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "operation-reused",
                "Operation id used before",
                format!(
                    "Operation {op} was used before for a different request. Nothing was changed by this one; \
                     give a new change a new id."
                ),
            ),
            WriteError::NotApplied(why) => Problem::of_kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "not-applied",
                "Not applied",
                format!(
                    "Not applied: {why}. Nothing was changed on any side; repeat the request with the same operation id."
                ),
            ),
            WriteError::Unknown(op) => Problem::of_kind(
                StatusCode::ACCEPTED,
                "outcome-unknown",
                "Outcome not known yet",
                format!(
                    "The databases did not say whether operation {op} is in effect. It becomes final by itself: ask \
                     /api/ops/{op}, or repeat the request with the same operation id, which never applies it twice."
                ),
            ),
            WriteError::Rejected {
                sqlstate,
                message,
                column,
                ..
            } if is_input_error(&sqlstate) => {
                tracing::info!(%sqlstate, message, "a change was refused by the database");
                Problem::of_kind(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid",
                    "Invalid input",
                    format!("The database does not accept this: {message}. Nothing was changed on any side."),
                )
                .with("sqlstate", sqlstate)
                .with("column", column)
            }
            WriteError::Invalid(why) | WriteError::Closure(why) => internal(&why),
            other => internal(&other.to_string()),
        };
        problem.about(op)
    }

    fn respond(&self, builder: &mut HttpResponseBuilder) -> HttpResponse {
        let mut body = Map::new();
        let kind = self
            .kind
            .map_or("about:blank".into(), |kind| format!("/api/openapi.json#{kind}"));
        body.insert("type".into(), kind.into());
        body.insert("title".into(), self.title.as_str().into());
        body.insert("status".into(), self.status.as_u16().into());
        body.insert("detail".into(), self.detail.as_str().into());
        body.extend(self.members.clone());
        if let Some(Json::String(op)) = self.members.get("op_id") {
            builder.insert_header(("X-Op-Id", op.as_str()));
            if self.status == StatusCode::ACCEPTED {
                builder.insert_header((LOCATION, format!("/api/ops/{op}")));
            }
        }
        if matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::ACCEPTED
        ) {
            builder.insert_header((RETRY_AFTER, RETRY_AFTER_S));
        }
        builder
            .content_type("application/problem+json")
            .body(Json::Object(body).to_string())
    }
}

/// Whether PostgreSQL refused the values (class 22: data, class 23: constraint) rather than the statement.
fn is_input_error(sqlstate: &str) -> bool {
    sqlstate.starts_with("22") || sqlstate.starts_with("23")
}

fn internal(why: &str) -> Problem {
    tracing::error!(why, "a request failed for a reason of ours");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The program or the database schema is at fault, not your request. Nothing was changed; the log has the reason.",
    )
}

/// The columns of a row as the database writes them.
fn fields_as_json(fields: &Fields) -> Json {
    fields
        .iter()
        .map(|(name, value)| (name.to_owned(), value.as_text().map_or(Json::Null, Json::from)))
        .collect::<Map<_, _>>()
        .into()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.respond(&mut HttpResponse::build(self.status))
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        match error {
            ReadError::Unavailable(why) => Problem::of_kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "No database can be read",
                format!("{why}. Nothing was changed; repeat the request in a moment."),
            ),
            ReadError::TooLong => Problem::of_kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "too-long",
                "This search takes too long",
                "The database looked through the rows for a few seconds and was stopped. Nothing was changed. A text that \
                 many rows contain is found sooner, and so is a list in the order of its ids."
                    .to_owned(),
            ),
            ReadError::Rejected { sqlstate, message } if is_input_error(&sqlstate) => Problem::new(
                StatusCode::BAD_REQUEST,
                format!("A parameter cannot be used: {message}."),
            ),
            other => internal(&other.to_string()),
        }
    }
}

impl From<ParamError> for Problem {
    fn from(error: ParamError) -> Problem {
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("The parameters cannot be read: {error}. Nothing was changed."),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ErrorCode;
    use crate::multipool::NotApplied;
    use actix_web::body::MessageBody;

    fn body(problem: &Problem) -> (HttpResponse, Json) {
        let response = problem.error_response();
        let (head, body) = response.into_parts();
        let bytes = body.try_into_bytes().unwrap();
        (
            head.set_body(actix_web::body::BoxBody::new(())),
            serde_json::from_slice(&bytes).unwrap(),
        )
    }

    #[test]
    fn field_errors_are_listed() {
        let errors = FieldErrors::one("port", ErrorCode::OutOfRange { min: 1, max: 65535 });
        let (head, json) = body(&Problem::invalid(&errors));
        assert_eq!(head.status(), 422);
        assert_eq!(
            head.headers().get("content-type").unwrap(),
            "application/problem+json"
        );
        assert_eq!(json["errors"][0]["field"], "port");
        assert_eq!(json["errors"][0]["code"], "out_of_range");
        assert_eq!(json["errors"][0]["max"], 65535);
        assert_eq!(json["status"], 422);
    }

    #[test]
    fn write_errors_keep_their_promise() {
        let op = OpId::new();
        let (head, json) = body(&Problem::of_write(op, WriteError::NotApplied(NotApplied::NoSide)));
        assert_eq!(head.status(), 503);
        assert!(head.headers().contains_key("retry-after"));
        assert_eq!(
            head.headers().get("x-op-id").unwrap().to_str().unwrap(),
            op.to_string()
        );
        assert_eq!(json["op_id"], op.to_string());
        let (head, _) = body(&Problem::of_write(op, WriteError::Unknown(op)));
        assert_eq!(head.status(), 202);
        assert_eq!(
            head.headers().get("location").unwrap().to_str().unwrap(),
            format!("/api/ops/{op}")
        );
        let rejected = |sqlstate: &str| WriteError::Rejected {
            sqlstate: sqlstate.into(),
            message: "secret inner text".into(),
            constraint: None,
            column: None,
        };
        assert_eq!(body(&Problem::of_write(op, rejected("23514"))).0.status(), 422);
        let (head, json) = body(&Problem::of_write(op, rejected("42P01")));
        assert_eq!(head.status(), 500);
        assert!(!json.to_string().contains("secret"));
    }
}
