//! Pages for what goes wrong: what happened, what it means for the person's data, what to do.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use askama::Template;

use super::frame::{Frame, Place};
use super::links::Link;
use super::visit::Visit;
use super::words;
use crate::multipool::{NotApplied, OpId, ReadError, WriteError};
use crate::web::lang::fill;

/// Seconds a browser or a program should wait before it sends the same again.
const RETRY_AFTER: &str = "2";

const X_OP_ID: header::HeaderName = header::HeaderName::from_static("x-op-id");

/// A form that can be sent once more.
#[derive(Debug)]
pub struct Again {
    /// Where to.
    pub action: String,
    /// All of it, the operation's name included.
    pub fields: Vec<(String, String)>,
    /// What the person typed, readable.
    pub shown: Vec<(&'static str, String)>,
}

#[derive(Template)]
#[template(path = "trouble.html")]
struct TroublePage {
    f: Frame,
    title: String,
    lines: Vec<String>,
    again: Option<Again>,
    back: (String, &'static str),
    op_id: Option<OpId>,
}

/// A write and where it came from.
#[derive(Debug)]
pub struct Attempt {
    /// Its operation.
    pub op: OpId,
    /// Part of the application.
    pub place: Place,
    /// The form as it was sent.
    pub again: Again,
    /// Where the person goes from here.
    pub back: String,
}

/// The start of a part of the application.
pub fn start_of(place: Place) -> &'static str {
    match place {
        Place::Items => "/items",
        Place::Servers => "/servers",
        Place::Cluster => "/cluster",
        Place::Session | Place::Nowhere => "/",
    }
}

impl Visit {
    fn trouble(&self, place: Place, title: &str, lines: Vec<String>) -> TroublePage {
        TroublePage {
            f: self.frame(place),
            title: title.to_owned(),
            lines,
            again: None,
            back: (start_of(place).to_owned(), self.lang.ui().back_to_list),
            op_id: None,
        }
    }

    /// A page about operation `op` says which one in a header too.
    fn about(&self, status: StatusCode, page: &TroublePage, op: OpId) -> HttpResponse {
        let mut answer = self.page(status, page);
        if let Ok(op) = header::HeaderValue::from_str(&op.to_string()) {
            answer.headers_mut().insert(X_OP_ID, op);
        }
        answer
    }

    fn plain_trouble(&self, status: StatusCode, place: Place, title: &str, lines: &[&str]) -> HttpResponse {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let mut page = self.trouble(place, title, lines);
        if start_of(place) == "/" {
            page.back.1 = self.lang.trouble().to_start;
        }
        self.page(status, &page)
    }

    /// 400: the request is not one of our forms.
    pub fn bad_request(&self, place: Place) -> HttpResponse {
        let e = self.lang.trouble();
        self.plain_trouble(
            StatusCode::BAD_REQUEST,
            place,
            e.bad_request_title,
            &[e.bad_request],
        )
    }

    /// 413.
    pub fn too_large(&self, place: Place, max_bytes: usize) -> HttpResponse {
        let e = self.lang.trouble();
        let line = fill(e.too_large, &[&(max_bytes / (1024 * 1024))]);
        self.plain_trouble(StatusCode::PAYLOAD_TOO_LARGE, place, e.too_large_title, &[&line])
    }

    /// 404: no such page.
    pub fn no_page(&self) -> HttpResponse {
        let e = self.lang.trouble();
        let lines = &[e.not_found];
        self.plain_trouble(StatusCode::NOT_FOUND, Place::Nowhere, e.not_found_title, lines)
    }

    /// 405: an address for forms was opened as a page.
    pub fn form_only(&self, place: Place) -> HttpResponse {
        let e = self.lang.trouble();
        self.plain_trouble(StatusCode::METHOD_NOT_ALLOWED, place, e.method_title, &[e.method])
    }

    /// 404: no such row.
    pub fn gone(&self, place: Place, title: &str) -> HttpResponse {
        self.plain_trouble(StatusCode::NOT_FOUND, place, title, &[self.lang.trouble().gone])
    }

    /// A list or a row that cannot be read now.
    pub fn unreadable(&self, place: Place, error: &ReadError) -> HttpResponse {
        let e = self.lang.trouble();
        let why = match error {
            ReadError::Unavailable(why) => words::not_applied(self.lang, why),
            // The text of a page mark is the only value of an address that the database reads.
            ReadError::Rejected { sqlstate, .. } if is_input_state(sqlstate) => {
                return self.bad_request(place);
            }
            ReadError::TooLong => {
                let lines = &[e.too_long, e.too_long_do];
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return self.plain_trouble(status, place, e.too_long_title, lines);
            }
            ReadError::Rejected { .. } => {
                tracing::error!(%error, path = self.path(), "a read was refused");
                return self.plain_trouble(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    place,
                    e.read_title,
                    &[e.read_rejected],
                );
            }
        };
        let lines = [
            fill(e.not_applied_why, &[&why]),
            e.read_means.into(),
            e.read_do.into(),
        ];
        let mut page = self.trouble(place, e.read_title, lines.to_vec());
        // The address of a form cannot be loaded again; its part of the application can.
        let here = if page.f.switch.is_empty() {
            start_of(place).to_owned()
        } else {
            self.here()
        };
        page.f = page.f.refresh_after(3, Some(here.clone()));
        page.back = (here, e.try_again);
        let mut answer = self.page(StatusCode::SERVICE_UNAVAILABLE, &page);
        retry_later(&mut answer);
        answer
    }

    /// This page with its parameters.
    pub fn here(&self) -> String {
        match self.query().as_str() {
            "" => self.path().to_owned(),
            query => format!("{}?{query}", self.path()),
        }
    }

    /// The page for a write without an ordinary outcome. Edit conflicts and refused values are better shown by the form
    /// itself; what comes here of them is said plainly.
    pub fn not_written(&self, error: &WriteError, attempt: Attempt) -> HttpResponse {
        let e = self.lang.trouble();
        let Attempt { op, place, .. } = attempt;
        match error {
            WriteError::NotApplied(why) => {
                let lines = vec![
                    fill(e.not_applied_why, &[&words::not_applied(self.lang, why)]),
                    e.not_applied_means.to_owned(),
                    e.not_applied_do.to_owned(),
                ];
                let mut page = self.trouble(place, e.not_applied_title, lines);
                let mut again = attempt.again;
                if *why == NotApplied::Abandoned {
                    // That name is spent: it is promised that nothing will ever happen under it.
                    let spent = again.fields.iter_mut().find(|(name, _)| name == "op_id");
                    if let Some((_, op_id)) = spent {
                        *op_id = OpId::new().to_string();
                    }
                }
                page.again = Some(again);
                page.back = (attempt.back, self.lang.ui().cancel);
                page.op_id = Some(op);
                let mut answer = self.about(StatusCode::SERVICE_UNAVAILABLE, &page, op);
                retry_later(&mut answer);
                answer
            }
            WriteError::Unknown(op) => self.settling(*op, place, now_s()),
            WriteError::OpReused(_) => {
                let lines = vec![e.reused_why.to_owned(), e.reused_do.to_owned()];
                let mut page = self.trouble(place, e.reused_title, lines);
                page.back.0 = attempt.back;
                page.back.1 = e.reused_link;
                page.op_id = Some(op);
                self.about(StatusCode::CONFLICT, &page, op)
            }
            WriteError::NotFound { .. } => {
                let lines = &[e.gone];
                self.plain_trouble(StatusCode::NOT_FOUND, place, e.not_found_title, lines)
            }
            WriteError::EditConflict { .. } => {
                self.plain_trouble(StatusCode::CONFLICT, place, e.rejected_title, &[e.reused_do])
            }
            WriteError::Rejected { message, .. } if is_input_error(error) => {
                let lines = &[&*fill(e.rejected_why, &[message]), e.rejected_means];
                self.plain_trouble(StatusCode::UNPROCESSABLE_ENTITY, place, e.rejected_title, lines)
            }
            WriteError::Rejected { .. } | WriteError::Invalid(_) | WriteError::Closure(_) => {
                tracing::error!(%error, %op, path = self.path(), "a change was refused for a reason of ours");
                let lines = vec![e.fault.to_owned(), e.rejected_means.to_owned()];
                let mut page = self.trouble(place, e.not_applied_title, lines);
                page.back.0 = attempt.back;
                page.op_id = Some(op);
                self.about(StatusCode::INTERNAL_SERVER_ERROR, &page, op)
            }
        }
    }

    /// 202: the outcome is not known yet; the browser asks again. `since` is when it became unknown.
    pub fn settling(&self, op: OpId, place: Place, since: u64) -> HttpResponse {
        let e = self.lang.trouble();
        let lines = vec![e.unknown_why.to_owned(), e.unknown_means.to_owned()];
        let mut page = self.trouble(place, e.unknown_title, lines);
        let next = Link::to(&format!("/ops/{op}"))
            .with("of", start_of(place).trim_start_matches('/'))
            .with("since", &since.to_string())
            .build();
        page.f = page.f.refresh_after(2, Some(next.clone()));
        page.back = (next, e.look_again);
        page.op_id = Some(op);
        self.about(StatusCode::ACCEPTED, &page, op)
    }

    /// The outcome of an operation that was unknown.
    pub fn settled(
        &self,
        status: StatusCode,
        op: OpId,
        place: Place,
        title: &str,
        line: &str,
    ) -> HttpResponse {
        let mut page = self.trouble(place, title, vec![line.to_owned()]);
        page.op_id = Some(op);
        self.about(status, &page, op)
    }
}

/// Whether PostgreSQL refused the values (class 22: data, class 23: constraint) rather than the statement.
pub fn is_input_error(error: &WriteError) -> bool {
    matches!(error, WriteError::Rejected { sqlstate, .. } if is_input_state(sqlstate))
}

fn is_input_state(sqlstate: &str) -> bool {
    sqlstate.starts_with("22") || sqlstate.starts_with("23")
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn retry_later(answer: &mut HttpResponse) {
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
}

#[cfg(test)]
pub(super) fn sample(f: Frame, again: Again) -> impl Template {
    let e = f.e;
    TroublePage {
        title: e.not_applied_title.to_owned(),
        lines: vec![
            fill(e.not_applied_why, &[&e.no_side]),
            e.not_applied_means.to_owned(),
            e.not_applied_do.to_owned(),
        ],
        again: Some(again),
        back: ("/items".to_owned(), f.t.cancel),
        op_id: Some(OpId::new()),
        f,
    }
}
