//! What HAProxy asks.

use actix_web::{HttpResponse, web};

use super::AppState;
use crate::multipool::SideId;

/// `GET /health/live`: the process answers.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().body("live\n")
}

/// `GET /health/ready`: 200; 404 while draining, which HAProxy's `disable-on-404` reads as "finish what you have, get nothing
/// new"; 503 when no side can be read, so that nothing could be served at all. One missing side is no reason: the others serve.
pub(super) async fn ready(state: web::Data<AppState>) -> HttpResponse {
    if state.is_draining() {
        HttpResponse::NotFound().body("draining\n")
    } else if state.pool.reader().is_none() {
        HttpResponse::ServiceUnavailable().body("no database can be read\n")
    } else {
        HttpResponse::Ok().body("ready\n")
    }
}

/// `GET /health/side/{side}`: 200 if this side is the leader, the one that foreign programs should be sent to.
pub(super) async fn side(state: web::Data<AppState>, name: web::Path<String>) -> HttpResponse {
    let status = state.pool.status();
    let known = name
        .parse::<SideId>()
        .ok()
        .filter(|side| status.sides.get(*side).is_some());
    match known {
        None => HttpResponse::NotFound().body("no side has this name\n"),
        Some(side) if status.leader == Some(side) => HttpResponse::Ok().body("leader\n"),
        Some(_) => HttpResponse::ServiceUnavailable().body("not the leader\n"),
    }
}
