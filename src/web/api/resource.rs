//! The five requests every subject answers, once for all subjects.

use actix_web::http::header::{ETAG, LOCATION};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use serde_json::json;

use super::request::{body, given_op, id, list_query};
use super::tags::{IfMatch, etag};
use crate::listing::{ListQuery, Page};
use crate::multipool::{Applied, MultiPool, OpId, OpOutcome, ReadError, WriteError};
use crate::web::AppState;
use crate::web::problem::Problem;

/// What the API must know of a subject; `items` and `servers` hold the rest.
pub(in crate::web) trait Resource: 'static {
    type Row: Serialize;
    type Input: PartialEq;
    /// Below `/api`.
    const PATH: &'static str;
    /// One of them, in a sentence.
    const NAME: &'static str;
    const SORTS: &'static [&'static str];

    /// Reads and checks a JSON body.
    fn parse(body: &[u8]) -> Result<Self::Input, Problem>;
    /// What a caller who read this row has seen.
    fn seen(row: &Self::Row) -> Self::Input;
    async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Self::Row>, ReadError>;
    async fn get(pool: &MultiPool, id: i32) -> Result<Option<Self::Row>, ReadError>;
    async fn create(pool: &MultiPool, op: OpId, input: &Self::Input) -> Result<Applied, WriteError>;
    async fn update(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        input: &Self::Input,
        seen: Option<&Self::Input>,
    ) -> Result<Applied, WriteError>;
    async fn delete(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        seen: Option<&Self::Input>,
    ) -> Result<Applied, WriteError>;
}

type State = Data<AppState>;

#[derive(Serialize)]
struct ListAnswer<Row> {
    items: Vec<Row>,
    next: Option<String>,
    previous: Option<String>,
    total: i64,
    total_is_exact: bool,
}

/// `GET /api/…`.
pub(in crate::web) async fn list<R: Resource>(
    state: State,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = list_query(request.query_string(), R::SORTS)?;
    let page = R::list(&state.pool, &query).await?;
    Ok(HttpResponse::Ok().json(ListAnswer {
        items: page.rows,
        next: page.next,
        previous: page.previous,
        total: page.total.number(),
        total_is_exact: page.total.is_exact(),
    }))
}

/// `GET /api/…/{id}`.
pub(in crate::web) async fn get<R: Resource>(
    state: State,
    path: Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path, R::NAME)?;
    match R::get(&state.pool, id).await? {
        Some(row) => Ok(HttpResponse::Ok().insert_header((ETAG, etag(&row))).json(row)),
        None => Err(missing::<R>(id)),
    }
}

/// `POST /api/…`.
pub(in crate::web) async fn create<R: Resource>(
    state: State,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let op = given_op(request.headers())?.unwrap_or_else(OpId::new);
    let create = async {
        let input = R::parse(&body(&request, payload).await?)?;
        let applied = R::create(&state.pool, op, &input)
            .await
            .map_err(|error| Problem::of_write(op, error))?;
        let id = applied.rows.first().and_then(|row| row.id());
        let mut answer = HttpResponse::Created();
        if let Some(id) = id {
            answer.insert_header((LOCATION, format!("/api/{}/{id}", R::PATH)));
        }
        let id = id.and_then(|id| i32::try_from(id).ok());
        Ok(answer_with_row::<R>(&state.pool, answer, &applied, id).await)
    };
    create.await.map_err(|problem: Problem| problem.about(op))
}

/// `PUT /api/…/{id}`.
pub(in crate::web) async fn update<R: Resource>(
    state: State,
    request: HttpRequest,
    path: Path<String>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let given = given_op(request.headers())?;
    let op = given.unwrap_or_else(OpId::new);
    let update = async {
        let id = id(&path, R::NAME)?;
        let if_match = IfMatch::read(request.headers())?;
        let input = R::parse(&body(&request, payload).await?)?;
        let applied = match seen_by_caller::<R>(&state.pool, given, id, &if_match).await? {
            Seen::Replay => match R::update(&state.pool, op, id, &input, None).await {
                Err(WriteError::OpReused(_)) if is_now::<R>(&state.pool, id, Some(&input)).await? => {
                    replay(op)
                }
                result => written::<R>(&state.pool, op, id, result).await?,
            },
            Seen::Row(seen) => {
                let result = R::update(&state.pool, op, id, &input, seen.as_ref()).await;
                written::<R>(&state.pool, op, id, result).await?
            }
        };
        Ok(answer_with_row::<R>(&state.pool, HttpResponse::Ok(), &applied, Some(id)).await)
    };
    update.await.map_err(|problem: Problem| problem.about(op))
}

/// `DELETE /api/…/{id}`.
pub(in crate::web) async fn delete<R: Resource>(
    state: State,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, Problem> {
    let given = given_op(request.headers())?;
    let op = given.unwrap_or_else(OpId::new);
    let delete = async {
        let id = id(&path, R::NAME)?;
        let if_match = IfMatch::read(request.headers())?;
        let applied = match seen_by_caller::<R>(&state.pool, given, id, &if_match).await? {
            Seen::Replay => match R::delete(&state.pool, op, id, None).await {
                Err(WriteError::OpReused(_)) if is_now::<R>(&state.pool, id, None).await? => replay(op),
                result => written::<R>(&state.pool, op, id, result).await?,
            },
            Seen::Row(seen) => {
                let result = R::delete(&state.pool, op, id, seen.as_ref()).await;
                written::<R>(&state.pool, op, id, result).await?
            }
        };
        let mut answer = HttpResponse::NoContent();
        name_operation(&mut answer, &applied);
        Ok(answer.finish())
    };
    delete.await.map_err(|problem: Problem| problem.about(op))
}

/// What the row must be for the change to be made.
enum Seen<T> {
    /// This, if anything.
    Row(Option<T>),
    /// The operation is in effect already: the row has changed since because *it* changed it.
    Replay,
}

/// Turns `If-Match` into the row the caller has seen. The pool compares it again under the row's lock.
async fn seen_by_caller<R: Resource>(
    pool: &MultiPool,
    given: Option<OpId>,
    id: i32,
    if_match: &IfMatch,
) -> Result<Seen<R::Input>, Problem> {
    if *if_match == IfMatch::Any {
        return Ok(Seen::Row(None));
    }
    let row = R::get(pool, id).await?;
    // Asked after the row was read: if the row is what a first try of this operation made of it, and that try was only
    // just completed for a dead instance, this is where it shows.
    if let Some(op) = given
        && pool.operations(&[op]).await?.first() == Some(&OpOutcome::Applied)
    {
        return Ok(Seen::Replay);
    }
    let row = row.ok_or_else(|| missing::<R>(id))?;
    if if_match.allows(&etag(&row)) {
        Ok(Seen::Row(Some(R::seen(&row))))
    } else {
        Err(conflict(&row))
    }
}

/// The outcome of a change of one row; a conflict shows the row in the form a GET shows it.
async fn written<R: Resource>(
    pool: &MultiPool,
    op: OpId,
    id: i32,
    result: Result<Applied, WriteError>,
) -> Result<Applied, Problem> {
    match result {
        Err(WriteError::NotFound { .. }) => Err(missing::<R>(id)),
        Err(WriteError::EditConflict { .. }) => match R::get(pool, id).await? {
            Some(row) => Err(conflict(&row)),
            None => Err(missing::<R>(id)),
        },
        other => other.map_err(|error| Problem::of_write(op, error)),
    }
}

/// Whether the row is what the operation made of it (`None`: gone).
async fn is_now<R: Resource>(pool: &MultiPool, id: i32, input: Option<&R::Input>) -> Result<bool, Problem> {
    let row = R::get(pool, id).await?;
    Ok(row.as_ref().map(R::seen).as_ref() == input)
}

fn replay(op: OpId) -> Applied {
    Applied {
        op_id: op,
        rows: vec![],
        replayed: true,
    }
}

fn missing<R: Resource>(id: i32) -> Problem {
    Problem::not_found(&format!("{} {id}", R::NAME))
}

fn conflict(row: &impl Serialize) -> Problem {
    Problem::edit_conflict(json!(row)).with("etag", etag(row))
}

fn name_operation(answer: &mut HttpResponseBuilder, applied: &Applied) {
    answer.insert_header(("X-Op-Id", applied.op_id.to_string()));
    if applied.replayed {
        answer.insert_header(("Idempotency-Replayed", "true"));
    }
}

/// The row as it is now. The change is in effect: if the row cannot be read, or is gone again, the answer still says so.
async fn answer_with_row<R: Resource>(
    pool: &MultiPool,
    mut answer: HttpResponseBuilder,
    applied: &Applied,
    id: Option<i32>,
) -> HttpResponse {
    name_operation(&mut answer, applied);
    let row = match id {
        Some(id) => R::get(pool, id).await.ok().flatten(),
        None => None,
    };
    match row {
        Some(row) => answer.insert_header((ETAG, etag(&row))).json(row),
        None => answer.json(json!({ "id": id })),
    }
}
