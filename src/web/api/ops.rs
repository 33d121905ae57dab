//! `/api/status` and `/api/ops/{op_id}`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::{Data, Path};
use serde_json::json;

use super::request::op_of_key;
use crate::multipool::OpOutcome;
use crate::web::AppState;
use crate::web::problem::{Problem, RETRY_AFTER_S};

/// `GET /api/status`: the pool as this instance sees it.
pub(in crate::web) async fn status(state: Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(state.pool.status())
}

/// `GET /api/ops/{op_id}`: what became of an operation, by its UUID or by the key it was sent with.
pub(in crate::web) async fn show(state: Data<AppState>, key: Path<String>) -> Result<HttpResponse, Problem> {
    let op = op_of_key(&key)?;
    let outcomes = state.pool.operations(&[op]).await?;
    let outcome = outcomes.first().unwrap_or(&OpOutcome::Unseen);
    if *outcome == OpOutcome::Unseen {
        let text = format!(
            "No database has seen operation {op}, or its retention time has passed. If its request is not on its way any more, \
             nothing was changed by it; repeating it with the same id is safe."
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, text)
            .about(op)
            .with("outcome", "unseen"));
    }
    let mut body = json!(outcome);
    body["op_id"] = json!(op);
    let mut answer = HttpResponse::Ok();
    if *outcome == OpOutcome::Pending {
        answer.insert_header((RETRY_AFTER, RETRY_AFTER_S));
    }
    Ok(answer.json(body))
}
