//! CSV import with progress, and export.

use std::time::Duration;

use actix_multipart::Multipart;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, web};
use askama::Template;
use futures::StreamExt;
use tokio::time::timeout;

use super::frame::Frame;
use super::links::Link;
use super::subject::Subject;
use super::trouble::now_s;
use super::visit::{Answer, Visit};
use super::words;
use crate::multipool::OpId;
use crate::web::import::{self, CHUNK, Here, ImportErrors, Kind, RowProblem};
use crate::web::lang::{SubjectTexts, fill, number};

/// Problems shown of a refused file.
const SHOWN_PROBLEMS: usize = 50;
/// The longest pause inside an upload before it is given up.
const UPLOAD_PAUSE: Duration = Duration::from_secs(30);
/// A file that is too large is read to its end, up to this many times the limit: a browser that is cut off while it sends shows
/// no answer at all.
const READ_ON: usize = 4;
/// The most operations of one import: more than the largest file can hold of the shortest rows.
const MAX_CHUNKS: usize = 100_000;
/// Seconds without progress after which the page says what to do. An instance that fails is replaced, and a side that fails is
/// left out, in much less.
const STALLED_S: u64 = 20;

/// One problem of a refused file.
#[derive(Debug)]
pub struct Problem {
    line: String,
    column: &'static str,
    reason: String,
}

/// Why a file was refused.
#[derive(Debug)]
pub struct Refused {
    summary: String,
    rows: Vec<Problem>,
    more: Option<String>,
}

#[derive(Template)]
#[template(path = "import.html")]
struct ImportPage {
    f: Frame,
    s: &'static SubjectTexts,
    base: String,
    op_id: OpId,
    refused: Option<Refused>,
    file_hint: String,
    upload_label: &'static str,
}

#[derive(Template)]
#[template(path = "progress.html")]
struct ProgressPage {
    f: Frame,
    base: String,
    op_id: OpId,
    title: String,
    done: usize,
    total: usize,
    percent: usize,
    status: String,
    finished: bool,
    failure: Option<String>,
    stalled: bool,
    reload: String,
    file_hint: String,
    upload_label: &'static str,
}

fn kind<S: Subject>() -> Kind {
    S::NAME.parse().unwrap_or(Kind::Items)
}

fn max_mb(visit: &Visit) -> usize {
    visit.state.config.import_max_bytes / (1024 * 1024)
}

fn file_hint<S: Subject>(visit: &Visit) -> String {
    let columns: Vec<&str> = S::FIELDS.iter().map(|field| field.name).collect();
    fill(
        visit.lang.ui().import_hint,
        &[&columns.join(", "), &max_mb(visit)],
    )
}

fn form<S: Subject>(visit: &Visit, status: StatusCode, op: OpId, refused: Option<Refused>) -> HttpResponse {
    let page = ImportPage {
        f: visit.frame(S::PLACE),
        s: S::texts(visit.lang),
        base: S::base(),
        op_id: op,
        refused,
        file_hint: file_hint::<S>(visit),
        upload_label: visit.lang.ui().import_start,
    };
    visit.page(status, &page)
}

/// `GET /items/import`
pub async fn ask<S: Subject>(visit: Visit) -> Answer {
    Ok(form::<S>(&visit, StatusCode::OK, OpId::new(), None))
}

/// Why an upload holds no file that can be read.
enum NoFile {
    Missing,
    TooLarge,
    Broken,
}

async fn next<T>(stream: &mut (impl futures::Stream<Item = T> + Unpin)) -> Result<Option<T>, NoFile> {
    timeout(UPLOAD_PAUSE, stream.next())
        .await
        .map_err(|_| NoFile::Broken)
}

/// The content of field `file`.
async fn upload(mut form: Multipart, max_bytes: usize) -> Result<Vec<u8>, NoFile> {
    let mut file: Option<Vec<u8>> = None;
    let mut read = 0;
    while let Some(field) = next(&mut form).await? {
        let mut field = field.map_err(|_| NoFile::Broken)?;
        let wanted = field.name() == Some("file");
        let mut content = Vec::new();
        while let Some(piece) = next(&mut field).await? {
            let piece = piece.map_err(|_| NoFile::Broken)?;
            read += piece.len();
            if read > max_bytes.saturating_mul(READ_ON) {
                return Err(NoFile::TooLarge);
            }
            if wanted && read <= max_bytes {
                content.extend_from_slice(&piece);
            }
        }
        if wanted && file.replace(content).is_some() {
            return Err(NoFile::Broken);
        }
    }
    if read > max_bytes {
        return Err(NoFile::TooLarge);
    }
    file.filter(|content| !content.is_empty()).ok_or(NoFile::Missing)
}

fn refused<S: Subject>(visit: &Visit, errors: &ImportErrors) -> Refused {
    let (lang, t) = (visit.lang, visit.lang.ui());
    if let Some(problem) = &errors.file {
        return Refused {
            summary: words::file_problem(lang, problem),
            rows: Vec::new(),
            more: None,
        };
    }
    let mut rows = Vec::new();
    for error in &errors.errors {
        let line = number(lang, i64::try_from(error.line).unwrap_or(i64::MAX));
        match &error.problem {
            RowProblem::Fields(fields) => rows.extend(fields.iter().map(|error| Problem {
                line: line.clone(),
                column: error.field,
                reason: words::field_error(lang, error.field, error.code),
            })),
            other => rows.push(Problem {
                line,
                column: "",
                reason: words::row_problem(lang, other),
            }),
        }
    }
    let count = |rows: usize| number(lang, i64::try_from(rows).unwrap_or(i64::MAX));
    Refused {
        summary: match errors.total {
            1 => t.import_refused_one.to_owned(),
            total => fill(t.import_refused_many, &[&count(total), &count(errors.rows)]),
        },
        rows,
        more: (errors.total > errors.errors.len())
            .then(|| fill(t.import_more, &[&count(errors.errors.len())])),
    }
}

/// `POST /items/import?op_id=…`. The operation stands in the address because the file may come before any other field.
pub async fn receive<S: Subject>(visit: Visit, body: Result<Multipart, actix_web::Error>) -> Answer {
    let params = visit.query_params()?;
    let op = visit.op_id(&params, S::PLACE)?;
    let Ok(body) = body else {
        return Ok(visit.bad_request(S::PLACE));
    };
    let again = |status, summary: String| {
        let refused = Refused {
            summary,
            rows: Vec::new(),
            more: None,
        };
        Ok(form::<S>(&visit, status, op, Some(refused)))
    };
    let e = visit.lang.trouble();
    let file = match upload(body, visit.state.config.import_max_bytes).await {
        Ok(file) => file,
        Err(NoFile::Missing) => return again(StatusCode::UNPROCESSABLE_ENTITY, e.import_no_file.into()),
        Err(NoFile::TooLarge) => {
            let summary = fill(e.import_too_large, &[&max_mb(&visit)]);
            return again(StatusCode::PAYLOAD_TOO_LARGE, summary);
        }
        Err(NoFile::Broken) => return Ok(visit.bad_request(S::PLACE)),
    };
    let parsed = web::block(move || import::parse(file, kind::<S>(), SHOWN_PROBLEMS)).await?;
    match parsed {
        Ok(parsed) => {
            let (rows, chunks) = (parsed.rows.len(), parsed.rows.chunks());
            import::start(&visit.state, op, parsed.rows);
            let progress = Link::to(&format!("{}/import/{op}", S::base()))
                .with("rows", &rows.to_string())
                .with("chunks", &chunks.to_string());
            Ok(visit.done(op, &progress.build()))
        }
        Err(errors) => {
            let refused = refused::<S>(&visit, &errors);
            Ok(form::<S>(
                &visit,
                StatusCode::UNPROCESSABLE_ENTITY,
                op,
                Some(refused),
            ))
        }
    }
}

/// `GET /items/import/{op_id}?rows=N&chunks=M`, through any instance. `done` and `since` in the address are what the page saw
/// last and when, so that it can tell that nothing moves.
pub async fn progress<S: Subject>(visit: Visit, op: web::Path<String>) -> Answer {
    let params = visit.query_params()?;
    let count = |name| params.get(name).and_then(|text| text.parse::<usize>().ok());
    let (Ok(op), Some(rows), Some(chunks)) = (op.parse::<OpId>(), count("rows"), count("chunks")) else {
        return Ok(visit.bad_request(S::PLACE));
    };
    if chunks == 0 || chunks > MAX_CHUNKS || chunks > rows || chunks < rows.div_ceil(CHUNK) {
        return Ok(visit.bad_request(S::PLACE));
    }
    let here = visit.state.imports.here(op);
    let progress = match import::progress(visit.pool(), op, chunks).await {
        Ok(progress) => progress,
        Err(error) => return Ok(visit.unreadable(S::PLACE, &error)),
    };
    let since = match count("done") {
        Some(before) if before == progress.done => params.get("since").and_then(|s| s.parse().ok()),
        _ => None,
    }
    .unwrap_or_else(now_s);
    let finished = progress.is_complete();
    let failure = match &here {
        Here::Failed(why) if !finished => Some(why.clone()),
        _ => None,
    };
    let stalled = !finished && here != Here::Running && now_s().saturating_sub(since) >= STALLED_S;
    let (lang, t) = (visit.lang, visit.lang.ui());
    let total = number(lang, i64::try_from(rows).unwrap_or(i64::MAX));
    let done = match chunks == rows.div_ceil(CHUNK) {
        // Only the last chunk is not full.
        true => (progress.done * CHUNK).min(rows),
        // Long rows come in shorter chunks.
        false => rows * progress.done / chunks,
    };
    let mut f = visit.frame(S::PLACE);
    let reload = Link::to(visit.path())
        .with("rows", &rows.to_string())
        .with("chunks", &chunks.to_string());
    // A page with a form to send must not change under the person's hands.
    if !finished && failure.is_none() && !stalled {
        let next = reload
            .clone()
            .with("done", &progress.done.to_string())
            .with("since", &since.to_string());
        f = f.refresh_after(1, Some(next.build()));
    }
    let done_words = number(lang, i64::try_from(done).unwrap_or(i64::MAX));
    let page = ProgressPage {
        base: S::base(),
        op_id: op,
        title: match (&failure, finished) {
            (Some(_), _) => t.import_failed.to_owned(),
            (None, true) => t.import_done.to_owned(),
            (None, false) => fill(t.import_running, &[&total]),
        },
        done,
        total: rows,
        percent: progress.done * 100 / progress.total.max(1),
        status: if finished {
            fill(t.import_done_rows, &[&total])
        } else {
            fill(t.import_progress, &[&done_words, &total])
        },
        finished,
        stalled: stalled || failure.is_some(),
        failure,
        reload: reload.build(),
        file_hint: file_hint::<S>(&visit),
        upload_label: t.import_continue,
        f,
    };
    Ok(visit.page(StatusCode::OK, &page))
}

/// `GET /items/export.csv`
pub async fn export<S: Subject>(visit: Visit) -> Answer {
    let mut pieces = Box::pin(import::export(visit.pool().clone(), kind::<S>()));
    // The first piece before the status: a database that does not answer must not look like an empty file.
    let first = match pieces.next().await {
        Some(Ok(first)) => first,
        Some(Err(error)) => return Ok(visit.unreadable(S::PLACE, &error)),
        None => web::Bytes::new(),
    };
    let name = format!("attachment; filename=\"{}.csv\"", S::NAME);
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/csv; charset=utf-8"))
        .insert_header((header::CONTENT_DISPOSITION, name))
        .streaming(futures::stream::once(async { Ok(first) }).chain(pieces)))
}

#[cfg(test)]
pub(super) fn sample_form(f: Frame) -> impl Template {
    let problem = |line: &str, column, reason: &str| Problem {
        line: line.to_owned(),
        column,
        reason: reason.to_owned(),
    };
    let lang = f.lang;
    ImportPage {
        s: SubjectTexts::items(lang),
        base: "/items".to_owned(),
        op_id: OpId::new(),
        refused: Some(Refused {
            summary: fill(f.t.import_refused_many, &[&"2", &"61 000"]),
            rows: vec![
                problem("40 001", "name", f.e.error_required),
                problem("40 002", "", f.e.row_not_utf8),
            ],
            more: Some(fill(f.t.import_more, &[&2])),
        }),
        file_hint: fill(f.t.import_hint, &[&"name, content", &64]),
        upload_label: f.t.import_start,
        f,
    }
}

#[cfg(test)]
pub(super) fn sample_progress(f: Frame, stalled: bool) -> impl Template {
    ProgressPage {
        base: "/items".to_owned(),
        op_id: OpId::new(),
        title: fill(f.t.import_running, &[&"61,000"]),
        done: 20_500,
        total: 61_000,
        percent: 33,
        status: fill(f.t.import_progress, &[&"20,500", &"61,000"]),
        finished: false,
        failure: None,
        stalled,
        reload: "/items/import/x".to_owned(),
        file_hint: fill(f.t.import_hint, &[&"name, content", &64]),
        upload_label: f.t.import_continue,
        f,
    }
}
