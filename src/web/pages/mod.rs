//! HTML pages: plain forms, POST, redirect, GET; everything works without JavaScript.
//!
//! `visit` is one request, `ahead` its read that goes out together with that of the session, `frame` what stands around every page, `subject` what items and servers have in common, `list` and
//! `rows` their pages, `trouble` the pages for what goes wrong. Knows no SQL.

mod ahead;
mod assets;
mod cluster;
mod conflict;
mod conflicts;
mod csv;
mod fields;
mod frame;
mod happened;
mod items;
mod links;
mod list;
mod merge;
mod ops;
mod rows;
mod servers;
mod session;
mod subject;
mod trouble;
mod visit;
mod votes;
mod when;
mod words;

use actix_web::http::header;
use actix_web::web::{self, ServiceConfig, post};
use actix_web::{FromRequest, HttpRequest, HttpResponse, Resource, Route, guard};

pub(super) use ahead::read_ahead;
use frame::Place;
use items::Items;
use servers::Servers;
use subject::Subject;
use visit::{MAX_FORM_BYTES, Visit};

/// Adds the pages.
pub fn configure(config: &mut ServiceConfig) {
    config
        .app_data(web::PayloadConfig::new(MAX_FORM_BYTES))
        .app_data(web::PathConfig::default().error_handler(|_, request| no_such_number(request)))
        .configure(configure_open)
        .service(page("/").route(get().to(session::show)))
        .service(form("/session/set", Place::Session).route(post().to(session::set)))
        .service(form("/session/remove", Place::Session).route(post().to(session::remove)))
        .service(form("/session/destroy", Place::Session).route(post().to(session::destroy)))
        .service(page("/ops/{op_id}").route(get().to(ops::show)))
        .service(page("/conflicts").route(get().to(conflicts::list)))
        .service(
            page("/conflicts/{id}")
                .route(get().to(conflicts::show))
                .route(post().to(conflicts::choose)),
        )
        .configure(subject_pages::<Items>)
        .service(form("/servers/{id:-?\\d{1,10}}/active", Place::Servers).route(post().to(servers::switch)))
        .configure(subject_pages::<Servers>)
        .default_service(web::route().to(no_page));
}

/// The pages that need no session. Put in front of the session layer they can be read while no database answers, which is when
/// they are needed most.
pub fn configure_open(config: &mut ServiceConfig) {
    config
        .service(page("/static/{digest}/{name}").route(get().to(assets::serve)))
        .service(page("/favicon.ico").route(get().to(assets::favicon)))
        .service(page("/cluster").route(get().to(cluster::show)))
        .service(page("/journal").route(get().to(cluster::journal)))
        .service(page("/compare").route(get().to(cluster::compare)));
}

fn subject_pages<S: Subject>(config: &mut ServiceConfig) {
    let base = S::base();
    let row = format!("{base}/{{id:-?\\d{{1,10}}}}");
    config
        .service(
            page(&base)
                .route(get().to(list::show::<S>))
                .route(post().to(rows::create::<S>)),
        )
        .service(page(&format!("{base}/new")).route(get().to(rows::new::<S>)))
        .service(page(&format!("{row}/edit")).route(get().to(rows::edit::<S>)))
        .service(page(&format!("{base}/export.csv")).route(get().to(csv::export::<S>)))
        .service(
            page(&format!("{base}/import"))
                .route(get().to(csv::ask::<S>))
                .route(post().to(csv::receive::<S>)),
        )
        .service(page(&format!("{base}/import/{{op_id}}")).route(get().to(csv::progress::<S>)))
        .service(
            page(&format!("{row}/delete"))
                .route(get().to(rows::confirm_delete::<S>))
                .route(post().to(rows::delete::<S>)),
        )
        .service(
            page(&row)
                .route(get().to(rows::show::<S>))
                .route(post().to(rows::update::<S>)),
        );
}

/// Every page answers `HEAD` as well.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A page.
fn page(path: &str) -> Resource {
    web::resource(path)
}

/// An address that only takes forms: opened as a page (somebody loads it again after an error) it says so.
fn form(path: &str, place: Place) -> Resource {
    page(path).default_service(web::route().to(move |visit: Visit| async move { visit.form_only(place) }))
}

/// Whatever has no page.
async fn no_page(request: HttpRequest, visit: Visit) -> HttpResponse {
    if request.path().starts_with("/api") || request.path().starts_with("/health") {
        return HttpResponse::NotFound().finish();
    }
    // A list under its name with a slash at the end is what was meant.
    if let Some(path) = request.path().strip_suffix('/').filter(|path| is_local(path)) {
        return HttpResponse::PermanentRedirect()
            .insert_header((header::LOCATION, path))
            .finish();
    }
    visit.no_page()
}

/// Ten digits may be more than an id can be; such a row does not exist.
fn no_such_number(request: &HttpRequest) -> actix_web::Error {
    match Visit::extract(request).into_inner() {
        Ok(visit) => visit.stop(visit.no_page()),
        Err(error) => error,
    }
}

/// `//host` would lead to another site.
fn is_local(path: &str) -> bool {
    path.starts_with('/') && !path.starts_with("//") && !path.contains('\\')
}

#[cfg(test)]
mod tests;
