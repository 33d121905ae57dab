//! `/api/conflicts`: rows that were changed on two sides at once, and what a person decides.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use super::request::{body, given_op, json as read_json};
use crate::multipool::{Choice, ChooseError, OpId};
use crate::web::AppState;
use crate::web::problem::Problem;

/// `GET /api/conflicts`: undecided ones first; and the changes that a side refuses.
pub(in crate::web) async fn list(state: Data<AppState>) -> Result<HttpResponse, Problem> {
    let conflicts = state.pool.conflicts().await?;
    let held = state.pool.held_changes().await?;
    Ok(HttpResponse::Ok().json(json!({ "conflicts": conflicts, "held": held })))
}

/// `GET /api/conflicts/{id}`.
pub(in crate::web) async fn show(state: Data<AppState>, id: Path<String>) -> Result<HttpResponse, Problem> {
    match state.pool.conflict(&id).await? {
        Some(conflict) => Ok(HttpResponse::Ok().json(conflict)),
        None => Err(not_found(&id)),
    }
}

fn not_found(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("There is no conflict {id}."))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    choose: String,
}

/// `POST /api/conflicts/{id}` with `{"choose": "kept" | "lost" | "dismiss"}`.
pub(in crate::web) async fn choose(
    state: Data<AppState>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let op = given_op(request.headers())?.unwrap_or_else(OpId::new);
    let decision: Decision = read_json(&body(&request, payload).await?).map_err(|p| p.about(op))?;
    let Some(choice) = choice(&decision.choose) else {
        let text = "`choose` takes kept, lost or dismiss. Nothing was changed.";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text).about(op));
    };
    match state.pool.choose(op, &id, choice).await {
        Ok(chosen) => Ok(HttpResponse::Ok()
            .insert_header(("X-Op-Id", op.to_string()))
            .json(json!({ "id": *id, "chosen": chosen, "op_id": op }))),
        Err(error) => Err(problem(op, &id, error)),
    }
}

/// What `choose` means.
pub(in crate::web) fn choice(text: &str) -> Option<Choice> {
    match text {
        "kept" => Some(Choice::Kept),
        "lost" => Some(Choice::Lost),
        "dismiss" => Some(Choice::Dismiss),
        _ => None,
    }
}

fn problem(op: OpId, id: &str, error: ChooseError) -> Problem {
    let of_kind = |status, text: String| Problem::new(status, text).about(op);
    match error {
        ChooseError::NotFound(_) => not_found(id).about(op),
        ChooseError::Write(error) => Problem::of_write(op, error),
        ChooseError::Read(error) => Problem::from(error).about(op),
        error @ ChooseError::Changed => of_kind(StatusCode::CONFLICT, error.to_string()),
        error => of_kind(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}
