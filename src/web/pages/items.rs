//! Pages of the items.

use askama::Template;

use super::fields::{Field, Kind, Typed, no_hint, typed};
use super::frame::{Frame, Place};
use super::list::{List, ListView, beginning};
use super::subject::{ColumnSpec, Fact, Subject};
use super::when;
use crate::items::{self, Item, ItemInput};
use crate::listing::{FieldErrors, ListQuery, Page};
use crate::multipool::{Applied, Fields, MultiPool, OpId, ReadError, Value, WriteError};
use crate::web::lang::{Lang, SubjectTexts};

/// Characters of a content that a list shows; two lines of a wide screen.
const SHOWN_CONTENT: usize = 160;
const _: () = assert!(
    SHOWN_CONTENT < items::BRIEF_CONTENT,
    "one more must be read, to know that it goes on"
);
/// Characters of a name that a list shows.
const SHOWN_NAME: usize = 100;

/// The items.
pub struct Items;

/// One row of the list.
pub struct ItemLine {
    id: i32,
    name: String,
    content: String,
    updated_at: String,
}

/// The list.
#[derive(Template)]
#[template(path = "items.html")]
pub struct ItemList {
    f: Frame,
    s: &'static SubjectTexts,
    base: String,
    l: List,
    rows: Vec<ItemLine>,
}

impl Subject for Items {
    type Row = Item;
    type Input = ItemInput;
    type ListPage = ItemList;

    const PLACE: Place = Place::Items;
    const NAME: &'static str = "items";
    const SORTS: &'static [&'static str] = items::SORTS;
    const COLUMNS: &'static [ColumnSpec] = &[
        ColumnSpec {
            sort: "id",
            label: |t| t.field_id,
            class: "num",
        },
        ColumnSpec {
            sort: "name",
            label: |t| t.field_name,
            class: "",
        },
        ColumnSpec {
            sort: "",
            label: |t| t.field_content,
            class: "far",
        },
        ColumnSpec {
            sort: "updated_at",
            label: |t| t.field_updated_at,
            class: "",
        },
    ];
    const FIELDS: &'static [Field] = &[
        Field {
            name: "name",
            label: |t| t.field_name,
            hint: |t| t.hint_name,
            kind: Kind::Line,
            max: items::MAX_NAME,
            required: true,
        },
        Field {
            name: "content",
            label: |t| t.field_content,
            hint: no_hint,
            kind: Kind::Area,
            max: items::MAX_CONTENT,
            required: false,
        },
    ];

    fn texts(lang: Lang) -> &'static SubjectTexts {
        SubjectTexts::items(lang)
    }

    fn blank() -> Typed {
        Typed::new()
    }

    fn id(row: &Item) -> i32 {
        row.id
    }

    fn input(row: &Item) -> ItemInput {
        ItemInput::from(row)
    }

    fn current(fields: &Fields) -> ItemInput {
        let text = |column| fields.get(column).and_then(Value::as_text).map(str::to_owned);
        ItemInput {
            name: text("name").unwrap_or_default(),
            content: text("content"),
        }
    }

    fn typed(input: &ItemInput) -> Typed {
        vec![
            ("name", input.name.clone()),
            ("content", input.content.clone().unwrap_or_default()),
        ]
    }

    fn read(values: &Typed, seen: Option<&ItemInput>) -> Result<ItemInput, FieldErrors> {
        let content = typed(values, "content");
        let was_empty = seen.is_some_and(|seen| seen.content.as_deref() == Some(""));
        ItemInput {
            name: typed(values, "name").to_owned(),
            // An empty field means no content, but a content that is there and empty is left so.
            content: (!content.is_empty() || was_empty).then(|| content.to_owned()),
        }
        .validate()
    }

    fn facts(lang: Lang, row: &Item) -> Vec<Fact> {
        let t = lang.ui();
        let fact = |label, value| Fact { label, value };
        vec![
            fact(t.field_name, Some(row.name.clone())),
            fact(t.field_content, row.content.clone()),
            fact(
                t.field_updated_at,
                row.updated_at.as_deref().map(|at| when::stored(lang, at)),
            ),
        ]
    }

    fn list_page(view: ListView, rows: Vec<Item>) -> ItemList {
        let lang = view.f.lang;
        let line = |row: Item| ItemLine {
            id: row.id,
            name: beginning(&row.name, SHOWN_NAME),
            content: beginning(row.content.as_deref().unwrap_or(""), SHOWN_CONTENT),
            updated_at: row
                .updated_at
                .map_or_else(String::new, |at| when::stored(lang, &at)),
        };
        ItemList {
            rows: rows.into_iter().map(line).collect(),
            f: view.f,
            s: view.s,
            base: view.base,
            l: view.l,
        }
    }

    async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Item>, ReadError> {
        items::list_brief(pool, query).await
    }

    async fn get(pool: &MultiPool, id: i32) -> Result<Option<Item>, ReadError> {
        items::get(pool, id).await
    }

    async fn create(pool: &MultiPool, op: OpId, input: &ItemInput) -> Result<Applied, WriteError> {
        items::create(pool, op, input).await
    }

    async fn update(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        input: &ItemInput,
        seen: Option<&ItemInput>,
    ) -> Result<Applied, WriteError> {
        items::update(pool, op, id, input, seen).await
    }

    async fn delete(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        seen: Option<&ItemInput>,
    ) -> Result<Applied, WriteError> {
        items::delete(pool, op, id, seen).await
    }
}
