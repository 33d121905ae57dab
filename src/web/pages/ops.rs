//! `/ops/{op_id}`: what became of an operation whose outcome was unknown.

use actix_web::http::StatusCode;
use actix_web::web;

use super::frame::Place;
use super::trouble::now_s;
use super::visit::{Answer, Visit};
use crate::multipool::{OpId, OpOutcome};

/// After this many seconds an operation that no side has seen is believed to be on none: every side that could hold it has
/// been asked, or the person is better served with an answer than with a page that turns for ever.
const UNSEEN_PATIENCE_S: u64 = 60;

/// `GET /ops/{op_id}?of=items&since=…`
pub async fn show(visit: Visit, path: web::Path<String>) -> Answer {
    let e = visit.lang.trouble();
    let params = visit.query_params()?;
    let place = match params.get("of") {
        Some("items") => Place::Items,
        Some("servers") => Place::Servers,
        _ => Place::Session,
    };
    let Ok(op) = path.parse::<OpId>() else {
        return Ok(visit.bad_request(place));
    };
    let since = params.get("since").and_then(|s| s.parse().ok()).unwrap_or(0);
    let outcome = match visit.pool().operations(&[op]).await {
        Ok(outcomes) => outcomes.into_iter().next().unwrap_or(OpOutcome::Unseen),
        Err(error) => return Ok(visit.unreadable(place, &error)),
    };
    let settled = |title, line| visit.settled(StatusCode::OK, op, place, title, line);
    Ok(match outcome {
        OpOutcome::Applied => settled(e.op_applied_title, e.op_applied),
        OpOutcome::NotApplied => settled(e.not_applied_title, e.op_not_applied),
        OpOutcome::Unseen if now_s().saturating_sub(since) >= UNSEEN_PATIENCE_S => {
            visit.settled(StatusCode::NOT_FOUND, op, place, e.op_unseen_title, e.op_unseen)
        }
        OpOutcome::Pending | OpOutcome::Unseen => visit.settling(op, place, since),
    })
}
