//! One request for a page: who asks, in which language, and how the answer is put together.

use std::future::{Ready, ready};

use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::dev::Payload;
use actix_web::error::InternalError;
use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, web};
use askama::Template;

use super::frame::{Asked, Frame, Place};
use super::links;
use crate::multipool::{MultiPool, OpId};
use crate::session::TypedSession;
use crate::web::AppState;
use crate::web::lang::Lang;
use crate::web::params::{Params, parse_form};

/// What a page's handler returns: an answer, or one that ended the work early.
pub type Answer = actix_web::Result<HttpResponse>;
/// The body of a form, or why it could not be read.
pub type Body = Result<web::Bytes, actix_web::Error>;

/// Cookie with the chosen language: a choice must not cost a write on every database.
const LANG_COOKIE: &str = "lang";
/// Largest form: two texts of the longest content, every byte of them percent-encoded.
pub const MAX_FORM_BYTES: usize = 4 * 1024 * 1024;

/// One request for a page.
pub struct Visit {
    /// Language of the answer.
    pub lang: Lang,
    /// The person's session.
    pub session: TypedSession,
    /// What the instance shares.
    pub state: web::Data<AppState>,
    request: HttpRequest,
    chosen: Option<Lang>,
}

impl FromRequest for Visit {
    type Error = actix_web::Error;
    type Future = Ready<Result<Visit, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready((|| {
            let session = TypedSession::from_request(request, payload).into_inner()?;
            let state = web::Data::<AppState>::from_request(request, payload).into_inner()?;
            let chosen = request
                .query_string()
                .split('&')
                .find_map(|pair| pair.strip_prefix("lang="))
                .and_then(Lang::from_code);
            let lang = chosen
                .or_else(|| Lang::from_code(request.cookie(LANG_COOKIE)?.value()))
                .or_else(|| Lang::from_code(&session.lang()?))
                .or_else(|| {
                    let accept = request.headers().get(header::ACCEPT_LANGUAGE)?;
                    Lang::from_accept(accept.to_str().ok()?)
                })
                .unwrap_or_default();
            Ok(Visit {
                lang,
                session,
                state,
                request: request.clone(),
                chosen,
            })
        })())
    }
}

impl Visit {
    /// The databases.
    pub fn pool(&self) -> &MultiPool {
        &self.state.pool
    }

    /// The beginning of the session's id: enough to see that it is the same one, too little to take it over.
    pub fn session_id(&self) -> Option<String> {
        let cookie = self.request.cookie(crate::session::COOKIE)?;
        let value = cookie.value();
        // A signed cookie begins with its signature, 44 characters of base64.
        let key = value.get(44..).filter(|key| !key.is_empty()).unwrap_or(value);
        Some(format!("{}…", key.chars().take(8).collect::<String>()))
    }

    /// What an outer layer left for the handler, once.
    pub(super) fn taken_out<T: 'static>(&self) -> Option<T> {
        self.request.extensions_mut().remove()
    }

    /// Path of this request.
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// Query string without the choice of a language, for links back to here.
    pub fn query(&self) -> String {
        links::without(self.request.query_string(), "lang").join("&")
    }

    /// Parameters of the address.
    pub fn query_params(&self) -> actix_web::Result<Params> {
        parse_form(self.request.query_string().as_bytes())
            .map_err(|_| self.stop(self.bad_request(Place::Nowhere)))
    }

    /// Fields of the form that was sent.
    pub fn form(&self, body: Body, place: Place) -> actix_web::Result<Params> {
        let bytes = body.map_err(|error| {
            let status = error.as_response_error().status_code();
            self.stop(match status {
                StatusCode::PAYLOAD_TOO_LARGE => self.too_large(place, MAX_FORM_BYTES),
                _ => self.bad_request(place),
            })
        })?;
        parse_form(&bytes).map_err(|_| self.stop(self.bad_request(place)))
    }

    /// The operation a form names.
    pub fn op_id(&self, params: &Params, place: Place) -> actix_web::Result<OpId> {
        params
            .get("op_id")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.stop(self.bad_request(place)))
    }

    /// The frame of a page, with the messages left for this person.
    pub fn frame(&self, place: Place) -> Frame {
        let get = self.request.method() == Method::GET;
        let glance = self.pool().glance();
        // Taking a message out is a write; while writes are refused it waits, and the page can still be read.
        let take = get && glance.refusal.is_none();
        let flashes = if take {
            self.session.take_flashes()
        } else {
            Vec::new()
        };
        let asked = Asked {
            lang: self.lang,
            address: get.then(|| (self.request.path(), self.request.query_string())),
            flashes,
        };
        Frame::new(place, &glance, self.pool().reader(), asked)
    }

    /// A page.
    pub fn page(&self, status: StatusCode, template: &impl Template) -> HttpResponse {
        let html = match template.render() {
            Ok(html) => html,
            Err(error) => {
                tracing::error!(%error, path = self.path(), "a page could not be rendered");
                return HttpResponse::InternalServerError().finish();
            }
        };
        let mut answer = HttpResponse::build(status);
        answer
            .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((header::CONTENT_LANGUAGE, self.lang.code()))
            .insert_header((header::VARY, "Accept-Language, Cookie"))
            .insert_header((header::CACHE_CONTROL, "private, no-cache"));
        if let Some(lang) = self.chosen {
            answer.cookie(
                Cookie::build(LANG_COOKIE, lang.code())
                    .path("/")
                    .max_age(Duration::days(365))
                    .same_site(SameSite::Lax)
                    .http_only(true)
                    .finish(),
            );
        }
        answer.body(html)
    }

    /// Sends the browser on to `address` after operation `op` was applied. The header says that it was, even if the session
    /// with its message cannot be saved.
    pub fn done(&self, op: OpId, address: &str) -> HttpResponse {
        HttpResponse::SeeOther()
            .insert_header((header::LOCATION, address))
            .insert_header(("X-Op-Id", op.to_string()))
            .finish()
    }

    /// Sends the browser on to `address`.
    pub fn see_other(&self, address: &str) -> HttpResponse {
        HttpResponse::SeeOther()
            .insert_header((header::LOCATION, address))
            .finish()
    }

    /// Ends the work with an answer that is ready.
    pub fn stop(&self, answer: HttpResponse) -> actix_web::Error {
        InternalError::from_response("answered with a page", answer).into()
    }
}
