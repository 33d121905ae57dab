//! The witness: answers questions of votes, and nothing else. It knows no database.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use actix_web::{App, HttpResponse, HttpServer, web};

use super::ServeError;
use super::votes::{Door, Key};
use crate::config::Secret;
use crate::multipool::{ConnectError, Witness};

/// Listens and answers until SIGTERM or SIGINT.
///
/// # Errors
/// The address or the directory cannot be used, or the server failed.
pub async fn run(listen: &str, state: &Path, secret: &Secret) -> Result<(), ServeError> {
    let address = |source| ServeError::Listen {
        address: listen.to_owned(),
        source,
    };
    let listener = TcpListener::bind(listen).map_err(address)?;
    let witness = Arc::new(Witness::open(state).map_err(|why| ServeError::Connect(ConnectError(why)))?);
    let door = Door::new(Key::of(secret), move |question| {
        let witness = Arc::clone(&witness);
        Box::pin(async move { witness.answer(&question).await })
    });
    tracing::info!(listen, "the witness answers");
    HttpServer::new(move || {
        App::new().configure(door.configure()).route(
            "/health/live",
            web::get().to(|| async { HttpResponse::Ok().body("live\n") }),
        )
    })
    .workers(1)
    .listen(listener)?
    .run()
    .await?;
    Ok(())
}
