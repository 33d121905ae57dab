//! Lists: search, sort, pages by key.

use actix_web::http::StatusCode;

use super::frame::Frame;
use super::links::Link;
use super::subject::{ColumnSpec, Subject};
use super::visit::{Answer, Visit};
use crate::listing::{ListQuery, Page, Total};
use crate::web::lang::{Lang, SubjectTexts, fill, number};

/// Direction of the column a list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Value of `aria-sort`.
    pub aria: &'static str,
    /// Shown beside the title.
    pub arrow: &'static str,
}

/// Title of one column.
#[derive(Debug)]
pub struct Column {
    /// Its text.
    pub label: &'static str,
    /// Its CSS class.
    pub class: &'static str,
    /// Where a click on it leads.
    pub href: Option<String>,
    /// Its direction, if the list is sorted by it.
    pub order: Option<Order>,
}

/// Everything around the rows.
#[derive(Debug)]
pub struct List {
    /// What is searched for.
    pub search: String,
    /// Parameters a new search keeps.
    pub kept: Vec<(&'static str, String)>,
    /// How many rows there are, in words.
    pub count: String,
    /// What to say if there is none.
    pub empty: Option<String>,
    /// Titles.
    pub columns: Vec<Column>,
    /// The page before.
    pub previous: Option<String>,
    /// The page after.
    pub next: Option<String>,
    /// All rows as CSV.
    pub export: String,
    /// The parameters of this page, to come back to it.
    pub here: String,
}

/// A list ready to be shown, but for its rows.
#[derive(Debug)]
pub struct ListView {
    /// The frame.
    pub f: Frame,
    /// The subject's texts.
    pub s: &'static SubjectTexts,
    /// Address of the list.
    pub base: String,
    /// What stands around the rows.
    pub l: List,
}

fn link(base: &str, query: &ListQuery, sort: &str, descending: bool, cursor: Option<&str>) -> String {
    let default = ListQuery::default();
    Link::to(base)
        .with("search", &query.search)
        .with("sort", if sort == default.sort { "" } else { sort })
        .with("order", if descending { "desc" } else { "" })
        .with("cursor", cursor.unwrap_or_default())
        .with("limit", &limit(query))
        .build()
}

fn limit(query: &ListQuery) -> String {
    match query.limit {
        limit if limit == ListQuery::default().limit => String::new(),
        limit => limit.to_string(),
    }
}

fn column(lang: Lang, base: &str, query: &ListQuery, spec: &ColumnSpec) -> Column {
    let sorted = query.sort == spec.sort;
    let order = match (sorted, query.descending) {
        (false, _) => None,
        (true, false) => Some(Order {
            aria: "ascending",
            arrow: "▲",
        }),
        (true, true) => Some(Order {
            aria: "descending",
            arrow: "▼",
        }),
    };
    Column {
        label: (spec.label)(lang.ui()),
        class: spec.class,
        href: (!spec.sort.is_empty())
            .then(|| link(base, query, spec.sort, sorted && !query.descending, None)),
        order,
    }
}

/// What stands around the rows of `page`.
pub fn around<R>(
    lang: Lang,
    base: &str,
    columns: &[ColumnSpec],
    nothing_yet: &str,
    query: &ListQuery,
    page: &Page<R>,
) -> List {
    let t = lang.ui();
    let count = match page.total {
        Total::Exactly(1) => t.rows_one.to_owned(),
        Total::Exactly(total) => fill(t.rows_many, &[&number(lang, total)]),
        Total::About(total) => fill(t.rows_about, &[&number(lang, total)]),
        Total::MoreThan(total) => fill(t.rows_more, &[&number(lang, total)]),
    };
    let empty = page.rows.is_empty().then(|| match query.search.as_str() {
        "" => nothing_yet.to_owned(),
        search => fill(t.empty_search, &[&search]),
    });
    let turn = |mark: &Option<String>| {
        let mark = mark.as_deref()?;
        Some(link(base, query, &query.sort, query.descending, Some(mark)))
    };
    let mut kept = Vec::new();
    if query.sort != ListQuery::default().sort {
        kept.push(("sort", query.sort.clone()));
    }
    if query.descending {
        kept.push(("order", "desc".to_owned()));
    }
    let first = link("", query, &query.sort, query.descending, None);
    List {
        search: query.search.clone(),
        kept,
        count,
        empty,
        columns: columns
            .iter()
            .map(|spec| column(lang, base, query, spec))
            .collect(),
        previous: turn(&page.previous),
        next: turn(&page.next),
        export: format!("{base}/export.csv"),
        here: first,
    }
}

/// `text` cut to `max` characters: a list shows the beginning.
pub fn beginning(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `GET /items`, `GET /servers`
pub async fn show<S: Subject>(visit: Visit) -> Answer {
    let params = visit.query_params()?;
    let base = S::base();
    let Ok(query) = ListQuery::parse(|name| params.get(name), S::SORTS) else {
        return Ok(visit.bad_request(S::PLACE));
    };
    let page = match visit.ahead().await {
        Some(read) => read,
        None => S::list(visit.pool(), &query).await,
    };
    let page = match page {
        Ok(page) => page,
        Err(error) => return Ok(visit.unreadable(S::PLACE, &error)),
    };
    if page.rows.is_empty() && query.cursor.is_some() {
        // Everything after that row was deleted; the list itself may have rows.
        return Ok(visit.see_other(&link(&base, &query, &query.sort, query.descending, None)));
    }
    let s = S::texts(visit.lang);
    let mut l = around(visit.lang, &base, S::COLUMNS, s.empty, &query, &page);
    let here = visit.query();
    if !here.is_empty() {
        l.here = format!("?{here}");
    }
    let view = ListView {
        f: visit.frame(S::PLACE),
        s,
        base,
        l,
    };
    let template = S::list_page(view, page.rows);
    Ok(visit.page(StatusCode::OK, &template))
}
