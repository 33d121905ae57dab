//! The page of an edit conflict: yours, theirs, what it was, and both put together.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use askama::Template;

use super::fields::{Field, FieldView, Kind, Typed, shown, typed, views};
use super::frame::Frame;
use super::merge::{Piece, compare, merge};
use super::subject::Subject;
use super::visit::Visit;
use crate::listing::FieldErrors;
use crate::multipool::OpId;
use crate::web::lang::{Lang, fill};

/// The versions of one row, as the text of its fields.
#[derive(Debug)]
pub struct Versions {
    /// Which row.
    pub id: i32,
    /// What this person sent.
    pub mine: Typed,
    /// What stood in the form when it was opened.
    pub was: Option<Typed>,
    /// What the row is now.
    pub theirs: Typed,
    /// What the row is now, for the hidden field of the next try.
    pub now: String,
}

/// One field that is not the same in both versions.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    label: &'static str,
    mine: Vec<Piece>,
    theirs: Vec<Piece>,
    was: Option<String>,
}

/// `conflict.html`
#[derive(Template)]
#[template(path = "conflict.html")]
pub struct ConflictPage {
    f: Frame,
    title: String,
    parts: Vec<Part>,
    action: String,
    here: String,
    op_id: OpId,
    merged_op_id: OpId,
    seen: String,
    mine: Vec<(&'static str, String)>,
    fields: Vec<FieldView>,
    overlapping: bool,
}

/// The fields that are not the same, each with both versions compared to what it was.
pub fn parts(lang: Lang, fields: &[Field], versions: &Versions) -> Vec<Part> {
    let mine = shown(lang, fields, &versions.mine);
    let theirs = shown(lang, fields, &versions.theirs);
    let was = versions.was.as_ref().map(|was| shown(lang, fields, was));
    fields
        .iter()
        .enumerate()
        .filter(|(at, _)| mine[*at].1 != theirs[*at].1)
        .map(|(at, field)| {
            let was = was.as_ref().map(|was| was[at].1.clone());
            let against = was.as_deref().unwrap_or(&theirs[at].1);
            Part {
                name: field.name,
                label: mine[at].0,
                mine: compare(against, &mine[at].1),
                theirs: compare(against, &theirs[at].1),
                was,
            }
        })
        .collect()
}

/// Both people's changes put together, and whether a person must look at it closely.
pub fn merged(lang: Lang, fields: &[Field], versions: &Versions) -> (Typed, bool) {
    let e = lang.trouble();
    let mut overlapping = false;
    let together = fields
        .iter()
        .map(|field| {
            let [mine, theirs] = [&versions.mine, &versions.theirs].map(|of| typed(of, field.name));
            let was = versions.was.as_ref().map_or(theirs, |was| typed(was, field.name));
            let labels = (e.conflict_mark_yours, e.conflict_mark_theirs);
            let merged = merge(was, mine, theirs, field.kind == Kind::Area, labels);
            overlapping |= merged.overlapping && field.kind == Kind::Area;
            (field.name, merged.text)
        })
        .collect();
    (together, overlapping)
}

/// The page in `frame`.
pub fn build<S: Subject>(frame: Frame, versions: Versions) -> ConflictPage {
    let lang = frame.lang;
    let here = format!("/{}/{}", S::NAME, versions.id);
    let (together, overlapping) = merged(lang, S::FIELDS, &versions);
    ConflictPage {
        title: fill(S::texts(lang).conflict, &[&versions.id]),
        parts: parts(lang, S::FIELDS, &versions),
        action: here.clone(),
        here,
        op_id: OpId::new(),
        merged_op_id: OpId::new(),
        seen: versions.now,
        mine: versions.mine,
        fields: views(lang, S::FIELDS, &together, &FieldErrors::default()),
        overlapping,
        f: frame,
    }
}

/// The answer.
pub fn page<S: Subject>(visit: &Visit, versions: Versions) -> HttpResponse {
    let page = build::<S>(visit.frame(S::PLACE), versions);
    visit.page(StatusCode::CONFLICT, &page)
}
