//! All routes on one screen.

use actix_session::SessionMiddleware;
use actix_session::config::{BrowserSession, CookieContentSecurity, TtlExtensionPolicy};
use actix_web::cookie::{Key, SameSite, time};
use actix_web::middleware::{Compress, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{Route, guard};

use super::{AppState, edge, health, metrics, pages};
use crate::session::{COOKIE, PhpSessionStore};

/// Every route of an instance.
pub(super) fn configure(state: &web::Data<AppState>) -> impl FnOnce(&mut ServiceConfig) + use<> {
    let session = session_layer(state);
    move |config| {
        config
            .route("/health/live", get().to(health::live))
            .route("/health/ready", get().to(health::ready))
            .route("/health/side/{side}", get().to(health::side))
            .route("/metrics", get().to(metrics::show))
            // Only pages have sessions: the API and the probes cost no session read.
            .service(
                web::scope("")
                    .wrap(from_fn(edge::remember_answer))
                    .wrap(session)
                    .wrap(Compress::default())
                    .configure(pages::configure),
            );
    }
}

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
