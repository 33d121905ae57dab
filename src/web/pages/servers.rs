//! Pages of the servers, and the switch in their list.

use actix_web::web;
use askama::Template;

use super::fields::{Field, Kind, Typed, no_hint, typed};
use super::frame::{Frame, Place};
use super::list::{List, ListView, beginning};
use super::subject::{ColumnSpec, Fact, Subject};
use super::trouble::{Again, Attempt};
use super::visit::{Answer, Body, Visit};
use super::when;
use crate::listing::{FieldErrors, ListQuery, Page};
use crate::multipool::{Applied, Fields, MultiPool, OpId, ReadError, Value, WriteError};
use crate::servers::{self, Server, ServerForm, ServerInput};
use crate::web::lang::{Lang, SubjectTexts, fill};

/// Characters of a name or host that a list shows.
const SHOWN: usize = 100;

/// The servers.
pub struct Servers;

/// One row of the list.
pub struct ServerLine {
    id: i32,
    name: String,
    host: String,
    port: i32,
    active: bool,
    switch_label: String,
    created_at: String,
}

/// The list.
#[derive(Template)]
#[template(path = "servers.html")]
pub struct ServerList {
    f: Frame,
    s: &'static SubjectTexts,
    base: String,
    l: List,
    rows: Vec<ServerLine>,
    op_id: OpId,
}

const fn column(
    sort: &'static str,
    label: fn(&crate::web::lang::UiTexts) -> &'static str,
    class: &'static str,
) -> ColumnSpec {
    ColumnSpec { sort, label, class }
}

impl Subject for Servers {
    type Row = Server;
    type Input = ServerInput;
    type ListPage = ServerList;

    const PLACE: Place = Place::Servers;
    const NAME: &'static str = "servers";
    const SORTS: &'static [&'static str] = servers::SORTS;
    const COLUMNS: &'static [ColumnSpec] = &[
        column("id", |t| t.field_id, "num"),
        column("name", |t| t.field_name, ""),
        column("host", |t| t.field_host, ""),
        column("active", |t| t.field_active, ""),
        column("created_at", |t| t.field_created_at, ""),
    ];
    const FIELDS: &'static [Field] = &[
        Field {
            name: "name",
            label: |t| t.field_name,
            hint: |t| t.hint_name,
            kind: Kind::Line,
            max: servers::MAX_NAME,
            required: true,
        },
        Field {
            name: "host",
            label: |t| t.field_host,
            hint: |t| t.hint_host,
            kind: Kind::Plain,
            max: servers::MAX_HOST,
            required: true,
        },
        Field {
            name: "port",
            label: |t| t.field_port,
            hint: |t| t.hint_port,
            kind: Kind::Port,
            max: 5,
            required: true,
        },
        Field {
            name: "active",
            label: |t| t.field_active,
            hint: no_hint,
            kind: Kind::Check,
            max: 5,
            required: false,
        },
    ];

    fn texts(lang: Lang) -> &'static SubjectTexts {
        SubjectTexts::servers(lang)
    }

    fn blank() -> Typed {
        vec![("active", "true".to_owned())]
    }

    fn id(row: &Server) -> i32 {
        row.id
    }

    fn input(row: &Server) -> ServerInput {
        ServerInput::from(row)
    }

    fn current(fields: &Fields) -> ServerInput {
        let text = |column| fields.get(column).and_then(Value::as_text).unwrap_or_default();
        ServerInput {
            name: text("name").to_owned(),
            host: text("host").to_owned(),
            port: text("port").parse().unwrap_or_default(),
            active: matches!(text("active"), "t" | "true"),
        }
    }

    fn typed(input: &ServerInput) -> Typed {
        vec![
            ("name", input.name.clone()),
            ("host", input.host.clone()),
            ("port", input.port.to_string()),
            ("active", if input.active { "true" } else { "" }.to_owned()),
        ]
    }

    fn read(values: &Typed, _: Option<&ServerInput>) -> Result<ServerInput, FieldErrors> {
        ServerForm {
            name: typed(values, "name").to_owned(),
            host: typed(values, "host").to_owned(),
            port: typed(values, "port").to_owned(),
            active: Some(typed(values, "active").to_owned()),
        }
        .validate()
    }

    fn facts(lang: Lang, row: &Server) -> Vec<Fact> {
        let t = lang.ui();
        let fact = |label, value| Fact { label, value };
        let active = row
            .active
            .map(|active| if active { t.active_yes } else { t.active_no }.to_owned());
        vec![
            fact(t.field_name, Some(row.name.clone())),
            fact(t.field_host, Some(row.host.clone())),
            fact(t.field_port, Some(row.port.to_string())),
            fact(t.field_active, active),
            fact(
                t.field_created_at,
                row.created_at.as_deref().map(|at| when::stored(lang, at)),
            ),
        ]
    }

    fn list_page(view: ListView, rows: Vec<Server>) -> ServerList {
        let lang = view.f.lang;
        let line = |row: Server| {
            let name = beginning(&row.name, SHOWN);
            ServerLine {
                id: row.id,
                switch_label: fill(lang.ui().switch_of, &[&name]),
                name,
                host: beginning(&row.host, SHOWN),
                port: row.port,
                active: row.active.unwrap_or(false),
                created_at: row
                    .created_at
                    .map_or_else(String::new, |at| when::stored(lang, &at)),
            }
        };
        ServerList {
            rows: rows.into_iter().map(line).collect(),
            f: view.f,
            s: view.s,
            base: view.base,
            l: view.l,
            op_id: OpId::new(),
        }
    }

    async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Server>, ReadError> {
        servers::list(pool, query).await
    }

    async fn get(pool: &MultiPool, id: i32) -> Result<Option<Server>, ReadError> {
        servers::get(pool, id).await
    }

    async fn create(pool: &MultiPool, op: OpId, input: &ServerInput) -> Result<Applied, WriteError> {
        servers::create(pool, op, input).await
    }

    async fn update(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        input: &ServerInput,
        seen: Option<&ServerInput>,
    ) -> Result<Applied, WriteError> {
        servers::update(pool, op, id, input, seen).await
    }

    async fn delete(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        seen: Option<&ServerInput>,
    ) -> Result<Applied, WriteError> {
        servers::delete(pool, op, id, seen).await
    }
}

/// `POST /servers/{id}/active`: the switch in the list. All switches of a page share one form and its operation; each takes
/// its own part of it, so that two of them are two operations and one pressed twice is one.
pub async fn switch(visit: Visit, path: web::Path<i32>, body: Body) -> Answer {
    let id = path.into_inner();
    let params = visit.form(body, Place::Servers)?;
    let whole = visit.op_id(&params, Place::Servers)?;
    let active = match params.get("active") {
        Some("true") => true,
        Some("false") => false,
        _ => return Ok(visit.bad_request(Place::Servers)),
    };
    // The list where the switch stands, with its search and order; a query only, so that it leads nowhere else.
    let query = params.get("back").filter(|back| back.starts_with('?'));
    let back = format!("/servers{}", query.unwrap_or_default());
    let op = whole.part(u64::from(id.unsigned_abs()) * 2 + u64::from(active));
    match servers::set_active(visit.pool(), op, id, active).await {
        Ok(_) => {
            let code = if active {
                "servers.activated"
            } else {
                "servers.deactivated"
            };
            visit.session.flash(code, &[("id", &id.to_string())]);
            Ok(visit.done(op, &back))
        }
        Err(WriteError::NotFound { .. }) => {
            let title = fill(SubjectTexts::servers(visit.lang).gone, &[&id]);
            Ok(visit.gone(Place::Servers, &title))
        }
        Err(error) => {
            let again = Again {
                action: format!("/servers/{id}/active"),
                fields: params
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                shown: vec![(
                    SubjectTexts::servers(visit.lang).plural,
                    format!("{id}: {}", if active { "+" } else { "−" }),
                )],
            };
            let attempt = Attempt {
                op,
                place: Place::Servers,
                again,
                back,
            };
            Ok(visit.not_written(&error, attempt))
        }
    }
}
