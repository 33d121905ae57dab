//! `/conflicts`: rows that were changed in two databases at once; a person may choose the other version.

use actix_web::http::StatusCode;
use actix_web::web::Path;
use askama::Template;

use super::frame::{Frame, Message, Place};
use super::trouble::{Again, Attempt};
use super::visit::{Answer, Body, Visit};
use super::when;
use crate::multipool::{ChooseError, Chosen, Conflict, ConflictState, HeldChange, OpId};
use crate::web::api::conflicts::choice;
use crate::web::lang::{ClusterTexts, Lang, fill};

/// One conflict, in words.
pub(super) struct ConflictView {
    href: String,
    id: String,
    row: String,
    kept: String,
    lost: String,
    tag: &'static str,
    state: &'static str,
    at: String,
}

#[derive(Template)]
#[template(path = "conflicts.html")]
pub(super) struct ConflictsPage {
    f: Frame,
    t: &'static ClusterTexts,
    conflicts: Vec<ConflictView>,
    held: Vec<(String, String)>,
}

/// One column of both images.
struct ColumnView {
    name: String,
    kept: Option<String>,
    lost: Option<String>,
    differs: bool,
}

#[derive(Template)]
#[template(path = "conflict_rows.html")]
pub(super) struct ConflictPage {
    f: Frame,
    t: &'static ClusterTexts,
    c: ConflictView,
    kept_title: String,
    lost_title: String,
    kept_exists: bool,
    lost_exists: bool,
    columns: Vec<ColumnView>,
    action: String,
    op_id: OpId,
    can_choose: bool,
}

fn view(lang: Lang, conflict: &Conflict) -> ConflictView {
    let t = lang.cluster();
    ConflictView {
        href: format!("/conflicts/{}", conflict.id),
        id: conflict.id.clone(),
        row: match conflict.key.as_str() {
            "" => fill(t.conflict_whole_table, &[&conflict.table]),
            key => format!("{} {key}", conflict.table),
        },
        kept: conflict.kept_side.clone(),
        lost: conflict.lost_side.clone(),
        tag: match conflict.state {
            ConflictState::Open => "bad",
            _ => "good",
        },
        state: match conflict.state {
            ConflictState::Open => t.conflict_open,
            ConflictState::Rule => t.conflict_rule,
            ConflictState::Kept => t.conflict_kept,
            ConflictState::Lost => t.conflict_lost,
            ConflictState::Dismissed => t.conflict_dismissed,
        },
        at: when::moment(lang, conflict.at),
    }
}

/// The list for these conflicts.
pub(super) fn conflicts_page(f: Frame, conflicts: &[Conflict], held: &[HeldChange]) -> ConflictsPage {
    let lang = f.lang;
    let t = lang.cluster();
    ConflictsPage {
        conflicts: conflicts.iter().map(|c| view(lang, c)).collect(),
        held: held
            .iter()
            .map(|h| {
                let row = match h.key.as_str() {
                    "" => fill(t.conflict_whole_table, &[&h.table]),
                    key => format!("{} {key}", h.table),
                };
                (fill(t.held_row, &[&row, &h.from, &h.to]), h.reason.clone())
            })
            .collect(),
        t,
        f,
    }
}

/// One conflict with both images.
pub(super) fn conflict_page(f: Frame, conflict: &Conflict) -> ConflictPage {
    let lang = f.lang;
    let t = lang.cluster();
    ConflictPage {
        c: view(lang, conflict),
        kept_title: fill(t.conflict_in_effect, &[&conflict.kept_side]),
        lost_title: fill(t.conflict_gave_way, &[&conflict.lost_side]),
        kept_exists: conflict.kept_exists,
        lost_exists: conflict.lost_exists,
        columns: conflict
            .columns
            .iter()
            .map(|column| ColumnView {
                name: column.name.clone(),
                kept: column.kept.clone(),
                lost: column.lost.clone(),
                differs: column.differs,
            })
            .collect(),
        action: format!("/conflicts/{}", conflict.id),
        op_id: OpId::new(),
        can_choose: !conflict.key.is_empty()
            && matches!(conflict.state, ConflictState::Open | ConflictState::Rule),
        t,
        f,
    }
}

/// `GET /conflicts`
pub async fn list(visit: Visit) -> Answer {
    let found = async {
        Ok((
            visit.pool().conflicts().await?,
            visit.pool().held_changes().await?,
        ))
    };
    match found.await {
        Ok((conflicts, held)) => {
            let page = conflicts_page(visit.frame(Place::Cluster), &conflicts, &held);
            Ok(visit.page(StatusCode::OK, &page))
        }
        Err(error) => Ok(visit.unreadable(Place::Cluster, &error)),
    }
}

/// `GET /conflicts/{id}?done=written`
pub async fn show(visit: Visit, id: Path<String>) -> Answer {
    let params = visit.query_params()?;
    let t = visit.lang.cluster();
    let said = match params.get("done") {
        Some("written") => Some(("good", t.conflict_done_written)),
        Some("already") => Some(("good", t.conflict_done_already)),
        Some("noted") => Some(("good", t.conflict_done_noted)),
        Some("changed") => Some(("bad", t.conflict_changed)),
        _ => None,
    };
    match visit.pool().conflict(&id).await {
        Ok(Some(conflict)) => {
            let mut page = conflict_page(visit.frame(Place::Cluster), &conflict);
            page.f.flashes.extend(said.map(|(class, text)| Message {
                class,
                text: text.to_owned(),
            }));
            let status = match params.get("done") {
                Some("changed") => StatusCode::CONFLICT,
                _ => StatusCode::OK,
            };
            Ok(visit.page(status, &page))
        }
        Ok(None) => Ok(visit.no_page()),
        Err(error) => Ok(visit.unreadable(Place::Cluster, &error)),
    }
}

/// `POST /conflicts/{id}`
pub async fn choose(visit: Visit, id: Path<String>, body: Body) -> Answer {
    let params = visit.form(body, Place::Cluster)?;
    let op = visit.op_id(&params, Place::Cluster)?;
    let Some(choice) = params.get("choose").and_then(choice) else {
        return Ok(visit.bad_request(Place::Cluster));
    };
    let back = format!("/conflicts/{id}");
    match visit.pool().choose(op, &id, choice).await {
        Ok(chosen) => {
            let done = match chosen {
                Chosen::Written => "written",
                Chosen::AlreadyInEffect => "already",
                Chosen::Noted => "noted",
            };
            Ok(visit.done(op, &format!("{back}?done={done}")))
        }
        Err(ChooseError::Changed) => Ok(visit.see_other(&format!("{back}?done=changed"))),
        Err(ChooseError::Write(error)) => {
            let again = Again {
                action: back.clone(),
                fields: params.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                shown: Vec::new(),
            };
            let attempt = Attempt {
                op,
                place: Place::Cluster,
                again,
                back,
            };
            Ok(visit.not_written(&error, attempt))
        }
        Err(ChooseError::Read(error)) => Ok(visit.unreadable(Place::Cluster, &error)),
        Err(_) => Ok(visit.no_page()),
    }
}
