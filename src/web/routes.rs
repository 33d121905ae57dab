//! All routes on one screen.

use actix_session::SessionMiddleware;
use actix_session::config::{BrowserSession, CookieContentSecurity, TtlExtensionPolicy};
use actix_web::cookie::{Key, SameSite, time};
use actix_web::middleware::{Compress, from_fn};
use actix_web::web::{self, ServiceConfig, delete, post, put, resource};
use actix_web::{Route, guard};

use super::api::items::Items;
use super::api::servers::Servers;
use super::api::{conflicts, openapi, ops, resource as api};
use super::votes::{self, Door};
use super::{AppState, edge, health, metrics, pages};
use crate::session::{COOKIE, PhpSessionStore};

/// Every route of an instance.
pub(super) fn configure(state: &web::Data<AppState>) -> impl FnOnce(&mut ServiceConfig) + use<> {
    let session = session_layer(state);
    let pool = state.pool.clone();
    let door = Door::new(votes::Key::of(&state.config.session_secret), move |question| {
        let pool = pool.clone();
        Box::pin(async move { pool.answer_vote(&question).await })
    });
    move |config| {
        config
            .service(resource("/health/live").route(get().to(health::live)))
            .service(resource("/health/ready").route(get().to(health::ready)))
            .service(resource("/health/side/{side}").route(get().to(health::side)))
            .service(resource("/metrics").route(get().to(metrics::show)))
            .service(
                resource("/api/items")
                    .route(get().to(api::list::<Items>))
                    .route(post().to(api::create::<Items>)),
            )
            .service(
                resource("/api/items/{id}")
                    .route(get().to(api::get::<Items>))
                    .route(put().to(api::update::<Items>))
                    .route(delete().to(api::delete::<Items>)),
            )
            .service(
                resource("/api/servers")
                    .route(get().to(api::list::<Servers>))
                    .route(post().to(api::create::<Servers>)),
            )
            .service(
                resource("/api/servers/{id}")
                    .route(get().to(api::get::<Servers>))
                    .route(put().to(api::update::<Servers>))
                    .route(delete().to(api::delete::<Servers>)),
            )
            .service(resource("/api/conflicts").route(get().to(conflicts::list)))
            .service(
                resource("/api/conflicts/{id}")
                    .route(get().to(conflicts::show))
                    .route(post().to(conflicts::choose)),
            )
            .service(resource("/api/status").route(get().to(ops::status)))
            .service(resource("/api/ops/{op_id}").route(get().to(ops::show)))
            .service(resource("/api/openapi.json").route(get().to(openapi::show)))
            // What nobody knows below /api must not reach the pages: the answer is JSON.
            .service(web::scope("/api"))
            // Between instances only: POST /internal/vote.
            .configure(door.configure())
            // These must answer while no database does.
            .configure(pages::configure_open)
            // Only pages have sessions: the API and the probes cost no session read.
            .service(
                web::scope("")
                    .wrap(from_fn(edge::remember_answer))
                    .wrap(session)
                    .wrap(from_fn(pages::read_ahead))
                    .wrap(Compress::default())
                    .configure(pages::configure),
            );
    }
}

/// Every page and document answers HEAD as well.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

fn session_layer(state: &AppState) -> SessionMiddleware<PhpSessionStore> {
    let lifetime = state.config.session_lifetime;
    let key = Key::from(state.config.session_secret.expose().as_bytes());
    let ttl = time::Duration::seconds(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
    SessionMiddleware::builder(PhpSessionStore::new(state.pool.clone(), lifetime), key)
        .cookie_name(COOKIE.to_owned())
        .cookie_content_security(CookieContentSecurity::Signed)
        .cookie_same_site(SameSite::Lax)
        .cookie_http_only(true)
        // Plain HTTP behind HAProxy.
        .cookie_secure(false)
        .cookie_path("/".to_owned())
        .session_lifecycle(
            BrowserSession::default()
                .state_ttl(ttl)
                .state_ttl_extension_policy(TtlExtensionPolicy::OnEveryRequest),
        )
        .build()
}
