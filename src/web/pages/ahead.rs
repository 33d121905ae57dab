//! A page's own read, sent together with the read of the session: the session layer reads before any handler runs, and the
//! handler would ask only after its answer. So what the address alone tells (a list, one row) is asked for here, just
//! outside the session layer, and both statements go out in one packet on one connection.
//!
//! Crash rule: this only saves time. What was not asked for here is asked for by the handler.

use std::future::Future;
use std::pin::Pin;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};
use tokio::sync::oneshot;

use super::items::Items;
use super::servers::Servers;
use super::subject::Subject;
use super::visit::Visit;
use crate::listing::ListQuery;
use crate::multipool::{ReadError, together};
use crate::session::COOKIE;
use crate::web::AppState;
use crate::web::params::parse_form;

type Read<T> = Result<T, ReadError>;
type Work = Pin<Box<dyn Future<Output = ()>>>;

/// The answer of a read that was begun before the handler.
struct Ahead<T>(oneshot::Receiver<Read<T>>);

/// Which read of a subject an address asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    List,
    Row(i32),
}

/// The pages that show one list or one row: `/items`, `/items/7`, `/items/7/edit`, `/items/7/delete`.
fn wanted(base: &str, path: &str) -> Option<Wanted> {
    let rest = path.strip_prefix(base)?;
    if rest.is_empty() {
        return Some(Wanted::List);
    }
    let row = rest.strip_prefix('/')?;
    let row = ["/edit", "/delete"]
        .into_iter()
        .find_map(|page| row.strip_suffix(page))
        .unwrap_or(row);
    row.parse().ok().map(Wanted::Row)
}

/// Just outside the session layer.
pub async fn read_ahead(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    // Without a session the handler comes first anyway.
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    let work = match looks && request.cookie(COOKIE).is_some() {
        true => begin::<Items>(&state, &request).or_else(|| begin::<Servers>(&state, &request)),
        false => None,
    };
    together(async move {
        let answer = next.call(request);
        match work {
            None => answer.await,
            Some(work) => tokio::select! {
                // The session first: it is what everything waits for.
                biased;
                answer = answer => answer,
                never = async { work.await; std::future::pending().await } => never,
            },
        }
    })
    .await
}

fn begin<S: Subject>(state: &web::Data<AppState>, request: &ServiceRequest) -> Option<Work> {
    let pool = state.pool.clone();
    match wanted(&S::base(), request.path())? {
        Wanted::List => {
            let params = parse_form(request.query_string().as_bytes()).ok()?;
            let query = ListQuery::parse(|name| params.get(name), S::SORTS).ok()?;
            Some(promise(request, async move { S::list(&pool, &query).await }))
        }
        Wanted::Row(id) => Some(promise(request, async move { S::get(&pool, id).await })),
    }
}

/// Leaves the answer to be for the handler.
fn promise<T: 'static>(request: &ServiceRequest, read: impl Future<Output = Read<T>> + 'static) -> Work {
    let (tell, told) = oneshot::channel();
    request.extensions_mut().insert(Ahead(told));
    Box::pin(async move {
        // Nobody waits if the request had another answer.
        let _ = tell.send(read.await);
    })
}

impl Visit {
    /// What was read ahead for this page, once; `None` if it was not.
    pub async fn ahead<T: 'static>(&self) -> Option<Read<T>> {
        let Ahead(told) = self.taken_out::<Ahead<T>>()?;
        told.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (path, read) in [
            ("/items", Some(Wanted::List)),
            ("/items/7", Some(Wanted::Row(7))),
            ("/items/-7/edit", Some(Wanted::Row(-7))),
            ("/items/7/delete", Some(Wanted::Row(7))),
            ("/items/new", None),
            ("/items/7/other", None),
            ("/items/99999999999", None),
            ("/items/export.csv", None),
            ("/itemsets", None),
            ("/", None),
        ] {
            assert_eq!(wanted("/items", path), read, "{path}");
        }
    }
}
