//! Around every request: a span with a request id, the forgery check, headers of every answer, counters, and answers for
//! errors that no handler made.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use actix_session::storage::{SaveError, UpdateError};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError, web};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::{Problem, RETRY_AFTER_S};
use super::{AppState, metrics, security};

const X_INSTANCE: HeaderName = HeaderName::from_static("x-instance");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_OP_ID: HeaderName = HeaderName::from_static("x-op-id");
/// The longest request id taken from a proxy.
const MAX_REQUEST_ID: usize = 64;

/// What a handler answered, kept in case the session cannot be saved after it.
#[derive(Clone, Default)]
struct Handled(Rc<RefCell<Option<HandledAnswer>>>);

struct HandledAnswer {
    status: StatusCode,
    location: Option<HeaderValue>,
    op_id: Option<HeaderValue>,
}

/// The outermost layer.
pub(super) async fn edge(
    state: web::Data<AppState>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let span = tracing::info_span!("request", id, %method, path);
    let handled = Handled::default();
    request.extensions_mut().insert(handled.clone());
    if path.starts_with("/static/") {
        // Files need no session; without the cookie none is loaded.
        request.headers_mut().remove(header::COOKIE);
    }
    let finish = |response: &mut HttpResponse, route: &str| {
        let headers = response.headers_mut();
        security::add_headers(headers);
        if let Ok(instance) = HeaderValue::from_str(state.instance()) {
            headers.insert(X_INSTANCE, instance);
        }
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(X_REQUEST_ID, id);
        }
        if state.is_draining() {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        let took = started.elapsed();
        metrics::count(&method, route, response.status(), took);
        let (status, took_ms) = (response.status().as_u16(), took.as_secs_f64() * 1000.0);
        if status >= 500 {
            tracing::warn!(status, took_ms, "answered");
        } else {
            tracing::debug!(status, took_ms, "answered");
        }
    };
    let work = async {
        if let Some(why) = security::refuse_foreign(&method, request.headers()) {
            let text =
                format!("{why}. Nothing was changed; open the page on this site and send it from there.");
            let mut response = error_answer(&path, StatusCode::FORBIDDEN, "Refused", &text);
            finish(&mut response, "refused");
            return Ok(request.into_response(response));
        }
        match next.call(request).await {
            Ok(answer) => {
                let mut answer = answer.map_into_boxed_body();
                let route = answer
                    .request()
                    .match_pattern()
                    .unwrap_or_else(|| "unknown".into());
                explain_bare_error(&path, answer.response_mut());
                finish(answer.response_mut(), &route);
                Ok(answer)
            }
            Err(error) => {
                let mut response = answer_for(&path, &method, &handled, &error);
                finish(&mut response, "session");
                Err(InternalError::from_response(error, response).into())
            }
        }
    };
    work.instrument(span.clone()).await
}

/// Just inside the session layer: remembers what the handler answered.
pub(super) async fn remember_answer(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let answer = next.call(request).await?;
    let handled = answer.request().extensions().get::<Handled>().cloned();
    if let Some(handled) = handled {
        *handled.0.borrow_mut() = Some(HandledAnswer {
            status: answer.status(),
            location: answer.headers().get(header::LOCATION).cloned(),
            op_id: answer.headers().get(X_OP_ID).cloned(),
        });
    }
    Ok(answer)
}

fn request_id(request: &ServiceRequest) -> String {
    let given = request
        .headers()
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let usable = |id: &&str| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    given
        .filter(usable)
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The session could not be loaded or saved. The answer must not say "not applied" of a change that was.
fn answer_for(path: &str, method: &Method, handled: &Handled, error: &Error) -> HttpResponse {
    tracing::warn!(%error, "the session layer failed");
    let saving = error.as_error::<InternalError<SaveError>>().is_some()
        || error.as_error::<InternalError<UpdateError>>().is_some();
    let handled = handled.0.borrow();
    match &*handled {
        Some(HandledAnswer {
            status,
            location: Some(location),
            op_id: Some(op_id),
        }) if status.is_redirection() => {
            // The change is in effect; only the message about it is lost.
            let mut answer = HttpResponse::SeeOther();
            answer.insert_header((header::LOCATION, location.clone()));
            answer.insert_header((X_OP_ID, op_id.clone())).finish()
        }
        Some(_) if saving || !method.is_safe() => error_answer(
            path,
            StatusCode::SERVICE_UNAVAILABLE,
            "Your session could not be saved",
            "The databases did not confirm the change of your session. Load the page again to see what it holds; \
             repeating is safe.",
        ),
        _ => error_answer(
            path,
            StatusCode::SERVICE_UNAVAILABLE,
            "Your session could not be read",
            "The databases do not answer, or your session holds something that cannot be read. Nothing was changed, and the \
             session was kept as it is. Please try again in a moment.",
        ),
    }
}

/// An error that the framework made (no route, wrong method, too large a body) has no text worth reading.
fn explain_bare_error(path: &str, response: &mut HttpResponse) {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let bare = match content_type.and_then(|value| value.to_str().ok()) {
        None => true,
        Some(kind) => is_api(path) && !kind.starts_with("application/problem+json"),
    };
    if bare && !path.starts_with("/health/") {
        let text = match status {
            StatusCode::NOT_FOUND => "There is nothing at this address.",
            StatusCode::METHOD_NOT_ALLOWED => "This address does not take this method. Nothing was changed.",
            StatusCode::PAYLOAD_TOO_LARGE => {
                "The request is larger than is allowed here. Nothing was changed."
            }
            _ => "The request could not be answered.",
        };
        let title = status.canonical_reason().unwrap_or("Error");
        let mut explained = error_answer(path, status, title, text);
        for name in [header::ALLOW, header::RETRY_AFTER] {
            if let Some(value) = response.headers().get(&name) {
                explained.headers_mut().insert(name, value.clone());
            }
        }
        *response = explained;
    }
}

fn is_api(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

/// A problem document below `/api`, else a plain page. `title` and `text` are ours and need no escaping.
fn error_answer(path: &str, status: StatusCode, title: &str, text: &str) -> HttpResponse {
    if is_api(path) {
        return Problem::new(status, text).error_response();
    }
    let mut answer = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((header::RETRY_AFTER, RETRY_AFTER_S));
    }
    answer.content_type("text/html; charset=utf-8").body(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <h1>{title}</h1><p>{text}</p><p><a href=\"/\">Kambana</a></p></html>\n"
    ))
}
