//! One row of a subject: show it, and the forms that create, change and delete it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web;
use askama::Template;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::conflict::{self, Versions};
use super::fields::{FieldView, Kind, Typed, shown, typed, views};
use super::frame::Frame;
use super::merge;
use super::subject::{Fact, Subject};
use super::trouble::{Again, Attempt, is_input_error};
use super::visit::{Answer, Body, Visit};
use crate::listing::{ErrorCode, FieldErrors};
use crate::multipool::{OpId, WriteError};
use crate::web::lang::fill;
use crate::web::params::Params;

#[derive(Template)]
#[template(path = "show.html")]
struct ShowPage {
    f: Frame,
    title: String,
    here: String,
    base: String,
    facts: Vec<Fact>,
}

#[derive(Template)]
#[template(path = "form.html")]
struct FormPage {
    f: Frame,
    title: String,
    problem: Option<String>,
    action: String,
    op_id: OpId,
    seen: Option<String>,
    fields: Vec<FieldView>,
    cancel: String,
}

#[derive(Template)]
#[template(path = "delete.html")]
struct DeletePage {
    f: Frame,
    title: String,
    lead: &'static str,
    facts: Vec<Fact>,
    action: String,
    op_id: OpId,
    seen: Option<String>,
    button: &'static str,
    cancel: String,
    cancel_label: &'static str,
}

/// A form for a row that is there (`id`) or not yet.
struct Form {
    id: Option<i32>,
    op: OpId,
    seen: Option<String>,
    values: Typed,
    errors: FieldErrors,
    problem: Option<String>,
}

/// What stood in the form when it was opened, for its hidden field.
pub(super) fn seen_text(input: &impl Serialize) -> Option<String> {
    serde_json::to_string(input).ok()
}

fn row_address<S: Subject>(id: i32) -> String {
    format!("/{}/{id}", S::NAME)
}

fn form_page<S: Subject>(visit: &Visit, status: StatusCode, form: Form) -> HttpResponse {
    visit.page(status, &build_form::<S>(visit.frame(S::PLACE), form))
}

fn build_form<S: Subject>(f: Frame, form: Form) -> FormPage {
    let lang = f.lang;
    let s = S::texts(lang);
    let (title, action) = match form.id {
        Some(id) => (fill(s.edit, &[&id]), row_address::<S>(id)),
        None => (s.new.to_owned(), S::base()),
    };
    FormPage {
        f,
        title,
        problem: form
            .problem
            .or_else(|| (!form.errors.is_empty()).then(|| lang.ui().errors_above.to_owned())),
        cancel: action.clone(),
        action,
        op_id: form.op,
        seen: form.seen,
        fields: views(lang, S::FIELDS, &form.values, &form.errors),
    }
}

fn build_show<S: Subject>(f: Frame, row: &S::Row) -> ShowPage {
    let lang = f.lang;
    ShowPage {
        f,
        title: fill(S::texts(lang).singular, &[&S::id(row)]),
        here: row_address::<S>(S::id(row)),
        base: S::base(),
        facts: S::facts(lang, row),
    }
}

fn build_delete<S: Subject>(f: Frame, row: &S::Row) -> DeletePage {
    let lang = f.lang;
    let t = lang.ui();
    let here = row_address::<S>(S::id(row));
    DeletePage {
        f,
        title: fill(S::texts(lang).delete, &[&S::id(row)]),
        lead: t.delete_warning,
        facts: S::facts(lang, row),
        action: format!("{here}/delete"),
        op_id: OpId::new(),
        seen: seen_text(&S::input(row)),
        button: t.delete_yes,
        cancel: here,
        cancel_label: t.cancel,
    }
}

/// The row, or the page that says it is gone or cannot be read.
async fn find<S: Subject>(visit: &Visit, id: i32) -> actix_web::Result<S::Row> {
    let read = match visit.ahead().await {
        Some(read) => read,
        None => S::get(visit.pool(), id).await,
    };
    match read {
        Ok(Some(row)) => Ok(row),
        Ok(None) => Err(visit.stop(gone::<S>(visit, id))),
        Err(error) => Err(visit.stop(visit.unreadable(S::PLACE, &error))),
    }
}

fn gone<S: Subject>(visit: &Visit, id: i32) -> HttpResponse {
    visit.gone(S::PLACE, &fill(S::texts(visit.lang).gone, &[&id]))
}

/// `GET /items/new`
pub async fn new<S: Subject>(visit: Visit) -> Answer {
    let form = Form {
        id: None,
        op: OpId::new(),
        seen: None,
        values: S::blank(),
        errors: FieldErrors::default(),
        problem: None,
    };
    Ok(form_page::<S>(&visit, StatusCode::OK, form))
}

/// `GET /items/{id}`
pub async fn show<S: Subject>(visit: Visit, id: web::Path<i32>) -> Answer {
    let row = find::<S>(&visit, *id).await?;
    let page = build_show::<S>(visit.frame(S::PLACE), &row);
    Ok(visit.page(StatusCode::OK, &page))
}

/// `GET /items/{id}/edit`
pub async fn edit<S: Subject>(visit: Visit, id: web::Path<i32>) -> Answer {
    let row = find::<S>(&visit, *id).await?;
    let input = S::input(&row);
    let form = Form {
        id: Some(S::id(&row)),
        op: OpId::new(),
        seen: seen_text(&input),
        values: S::typed(&input),
        errors: FieldErrors::default(),
        problem: None,
    };
    Ok(form_page::<S>(&visit, StatusCode::OK, form))
}

/// `GET /items/{id}/delete`
pub async fn confirm_delete<S: Subject>(visit: Visit, id: web::Path<i32>) -> Answer {
    let row = find::<S>(&visit, *id).await?;
    let page = build_delete::<S>(visit.frame(S::PLACE), &row);
    Ok(visit.page(StatusCode::OK, &page))
}

/// What stood in the form when it was opened; none if the client does not care.
fn seen<T: DeserializeOwned>(params: &Params) -> Result<Option<T>, serde_json::Error> {
    params.get("seen").map(serde_json::from_str).transpose()
}

/// The text of all fields, without what browsers do to it.
fn sent<S: Subject>(params: &Params, seen: Option<&S::Input>) -> Typed {
    let before = seen.map(S::typed).unwrap_or_default();
    S::FIELDS
        .iter()
        .map(|field| {
            let sent = params.get(field.name).unwrap_or_default();
            let text = match field.kind {
                Kind::Check => sent.to_owned(),
                _ => merge::without_browser_changes(typed(&before, field.name), sent),
            };
            (field.name, text)
        })
        .collect()
}

fn attempt<S: Subject>(visit: &Visit, op: OpId, params: &Params, values: &Typed, back: String) -> Attempt {
    let fields = params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Attempt {
        op,
        place: S::PLACE,
        again: Again {
            action: visit.path().to_owned(),
            fields: fields.collect(),
            shown: shown(visit.lang, S::FIELDS, values),
        },
        back,
    }
}

/// Refused values belong beside their field if the database named one of ours.
fn refused<S: Subject>(visit: &Visit, error: &WriteError, mut form: Form) -> HttpResponse {
    let e = visit.lang.trouble();
    let (message, column) = match error {
        WriteError::Rejected { message, column, .. } => (message.clone(), column.as_deref()),
        other => (other.to_string(), None),
    };
    if let Some(column) = column
        && let Some(field) = S::FIELDS.iter().find(|field| field.name == column)
    {
        form.errors.push(field.name, ErrorCode::InvalidChoice);
    }
    form.problem = Some(format!(
        "{} — {}",
        fill(e.rejected_why, &[&message]),
        e.rejected_means
    ));
    form_page::<S>(visit, StatusCode::UNPROCESSABLE_ENTITY, form)
}

/// `POST /items`
pub async fn create<S: Subject>(visit: Visit, body: Body) -> Answer {
    let params = visit.form(body, S::PLACE)?;
    let op = visit.op_id(&params, S::PLACE)?;
    let values = sent::<S>(&params, None);
    let mut form = Form {
        id: None,
        op,
        seen: None,
        values,
        errors: FieldErrors::default(),
        problem: None,
    };
    let input = match S::read(&form.values, None) {
        Ok(input) => input,
        Err(errors) => {
            form.errors = errors;
            return Ok(form_page::<S>(&visit, StatusCode::UNPROCESSABLE_ENTITY, form));
        }
    };
    match S::create(visit.pool(), op, &input).await {
        Ok(applied) => {
            let id = applied.rows.first().and_then(|row| row.id());
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            visit
                .session
                .flash(&format!("{}.created", S::NAME), &[("id", &id)]);
            Ok(visit.done(op, &format!("/{}/{id}", S::NAME)))
        }
        Err(error) if is_input_error(&error) => Ok(refused::<S>(&visit, &error, form)),
        Err(error) => {
            let attempt = attempt::<S>(&visit, op, &params, &form.values, S::base());
            Ok(visit.not_written(&error, attempt))
        }
    }
}

/// `POST /items/{id}`
pub async fn update<S: Subject>(visit: Visit, id: web::Path<i32>, body: Body) -> Answer {
    let id = id.into_inner();
    let params = visit.form(body, S::PLACE)?;
    let op = visit.op_id(&params, S::PLACE)?;
    let Ok(seen) = seen::<S::Input>(&params) else {
        return Ok(visit.bad_request(S::PLACE));
    };
    let values = sent::<S>(&params, seen.as_ref());
    let mut form = Form {
        id: Some(id),
        op,
        seen: seen.as_ref().and_then(seen_text),
        values,
        errors: FieldErrors::default(),
        problem: None,
    };
    let input = match S::read(&form.values, seen.as_ref()) {
        Ok(input) => input,
        Err(errors) => {
            form.errors = errors;
            return Ok(form_page::<S>(&visit, StatusCode::UNPROCESSABLE_ENTITY, form));
        }
    };
    let updated = || {
        let code = format!("{}.updated", S::NAME);
        visit.session.flash(&code, &[("id", &id.to_string())]);
        visit.done(op, &row_address::<S>(id))
    };
    match S::update(visit.pool(), op, id, &input, seen.as_ref()).await {
        Ok(_) => Ok(updated()),
        Err(WriteError::EditConflict { current, .. }) => {
            let theirs = S::current(&current);
            if S::typed(&theirs) == S::typed(&input) {
                // Both wanted the same, and it is so.
                return Ok(updated());
            }
            let versions = Versions {
                id,
                mine: S::typed(&input),
                was: seen.as_ref().map(S::typed),
                theirs: S::typed(&theirs),
                now: seen_text(&theirs).unwrap_or_default(),
            };
            Ok(conflict::page::<S>(&visit, versions))
        }
        Err(WriteError::NotFound { .. }) => Ok(gone::<S>(&visit, id)),
        Err(error) if is_input_error(&error) => Ok(refused::<S>(&visit, &error, form)),
        Err(error) => {
            let attempt = attempt::<S>(&visit, op, &params, &form.values, row_address::<S>(id));
            Ok(visit.not_written(&error, attempt))
        }
    }
}

/// `POST /items/{id}/delete`
pub async fn delete<S: Subject>(visit: Visit, id: web::Path<i32>, body: Body) -> Answer {
    let id = id.into_inner();
    let params = visit.form(body, S::PLACE)?;
    let op = visit.op_id(&params, S::PLACE)?;
    let Ok(seen) = seen::<S::Input>(&params) else {
        return Ok(visit.bad_request(S::PLACE));
    };
    match S::delete(visit.pool(), op, id, seen.as_ref()).await {
        Ok(_) => {
            let code = format!("{}.deleted", S::NAME);
            visit.session.flash(&code, &[("id", &id.to_string())]);
            Ok(visit.done(op, &S::base()))
        }
        Err(WriteError::EditConflict { current, .. }) => {
            let e = visit.lang.trouble();
            let theirs = S::current(&current);
            let facts = shown(visit.lang, S::FIELDS, &S::typed(&theirs));
            let page = DeletePage {
                f: visit.frame(S::PLACE),
                title: fill(S::texts(visit.lang).conflict, &[&id]),
                lead: e.conflict_delete,
                facts: facts
                    .into_iter()
                    .map(|(label, value)| Fact {
                        label,
                        value: Some(value),
                    })
                    .collect(),
                action: visit.path().to_owned(),
                op_id: OpId::new(),
                seen: seen_text(&theirs),
                button: e.conflict_delete_anyway,
                cancel: row_address::<S>(id),
                cancel_label: e.conflict_keep,
            };
            Ok(visit.page(StatusCode::CONFLICT, &page))
        }
        Err(WriteError::NotFound { .. }) => Ok(gone::<S>(&visit, id)),
        Err(error) => {
            let back = row_address::<S>(id);
            let values = seen.as_ref().map(S::typed).unwrap_or_default();
            let attempt = attempt::<S>(&visit, op, &params, &values, back);
            Ok(visit.not_written(&error, attempt))
        }
    }
}

#[cfg(test)]
pub(super) fn sample_form<S: Subject>(f: Frame, values: Typed, errors: FieldErrors) -> impl Template {
    let form = Form {
        id: Some(25),
        op: OpId::new(),
        seen: Some("{}".into()),
        values,
        errors,
        problem: None,
    };
    build_form::<S>(f, form)
}

#[cfg(test)]
pub(super) fn sample_show<S: Subject>(f: Frame, row: &S::Row) -> impl Template + use<S> {
    build_show::<S>(f, row)
}

#[cfg(test)]
pub(super) fn sample_delete<S: Subject>(f: Frame, row: &S::Row) -> impl Template + use<S> {
    build_delete::<S>(f, row)
}
