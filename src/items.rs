//! Items: type, validation and SQL.

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::listing::{self, FieldErrors, ListQuery, Listing, Page, Sort};
use crate::multipool::{Applied, Change, Fields, MultiPool, OpId, ReadError, Value, WriteError};

/// Name of the table.
pub const TABLE: &str = "items";
/// The longest name, in characters.
pub const MAX_NAME: usize = 200;
/// The longest content, in characters.
pub const MAX_CONTENT: usize = 100_000;
/// Columns a list can be sorted by.
pub const SORTS: &[&str] = &["id", "name", "updated_at"];

const COLUMNS: &str = "id, name, content, updated_at::text AS updated_at";

const LISTING: Listing = Listing {
    function: "items::list()",
    table: TABLE,
    columns: COLUMNS,
    searched: &["name", "content"],
    sorts: &[
        Sort {
            name: "id",
            expression: "id",
            cast: "integer",
            nullable: false,
        },
        Sort {
            name: "name",
            expression: "name COLLATE \"C\"",
            cast: "text",
            nullable: false,
        },
        Sort {
            name: "updated_at",
            // Qualified: the bare name in ORDER BY would mean the formatted text.
            expression: "items.updated_at",
            cast: "timestamp",
            nullable: true,
        },
    ],
};

/// Characters of a content that [`list_brief`] reads.
pub const BRIEF_CONTENT: usize = 200;

const BRIEF: Listing = Listing {
    function: "items::list_brief()",
    columns: "id, name, left(content, 200) AS content, updated_at::text AS updated_at",
    ..LISTING
};

/// A row of `items`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Primary key.
    pub id: i32,
    /// Any text of 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// Any text.
    pub content: Option<String>,
    /// When it was last changed, UTC, `2026-01-31T12:00:00.000000`.
    pub updated_at: Option<String>,
}

/// What a person or a program may say about an item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemInput {
    /// See [`Item::name`].
    #[serde(default)]
    pub name: String,
    /// See [`Item::content`].
    #[serde(default)]
    pub content: Option<String>,
}

impl From<&Item> for ItemInput {
    fn from(item: &Item) -> ItemInput {
        ItemInput {
            name: item.name.clone(),
            content: item.content.clone(),
        }
    }
}

impl ItemInput {
    /// Trims the name and checks both fields.
    ///
    /// # Errors
    /// The fields that are wrong.
    pub fn validate(mut self) -> Result<ItemInput, FieldErrors> {
        let mut errors = FieldErrors::default();
        self.name = self.name.trim().to_owned();
        errors.check_required("name", &self.name, MAX_NAME);
        errors.check_text("content", self.content.as_deref().unwrap_or(""), MAX_CONTENT);
        errors.or(self)
    }

    /// The columns of this input, for an insert, an update or an expected old row.
    pub fn fields(&self) -> Fields {
        Fields::new()
            .with("name", self.name.as_str())
            .with("content", self.content.as_deref())
    }
}

fn from_row(row: &Row) -> Result<Item, tokio_postgres::Error> {
    Ok(Item {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        content: row.try_get("content")?,
        updated_at: listing::stamp(row, "updated_at")?,
    })
}

fn key(id: i32) -> Fields {
    Fields::new().with("id", id)
}

/// One page of items.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Item>, ReadError> {
    listing::page(pool, &LISTING, query, from_row).await
}

/// One page of items with the beginning of their content ([`BRIEF_CONTENT`]): a whole page of the longest ones is 10 MB.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn list_brief(pool: &MultiPool, query: &ListQuery) -> Result<Page<Item>, ReadError> {
    listing::page(pool, &BRIEF, query, from_row).await
}

/// The next `limit` items with an id above `after`, for an export.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn list_after(pool: &MultiPool, after: i32, limit: i64) -> Result<Vec<Item>, ReadError> {
    let sql =
        format!("-- items::list_after()\nSELECT {COLUMNS} FROM items WHERE id > $1 ORDER BY id LIMIT $2");
    let rows = pool.read(&sql, &[&after, &limit]).await?;
    rows.iter()
        .map(|row| from_row(row).map_err(listing::unreadable))
        .collect()
}

/// The item with this id.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn get(pool: &MultiPool, id: i32) -> Result<Option<Item>, ReadError> {
    let sql = format!("-- items::get()\nSELECT {COLUMNS} FROM items WHERE id = $1");
    let rows = pool.read(&sql, &[&id]).await?;
    rows.first()
        .map(from_row)
        .transpose()
        .map_err(listing::unreadable)
}

/// Inserts a valid item; the leader gives the id and the time.
///
/// # Errors
/// See [`WriteError`].
pub async fn create(pool: &MultiPool, op: OpId, input: &ItemInput) -> Result<Applied, WriteError> {
    pool.change(op, vec![Change::insert(TABLE, input.fields())]).await
}

/// Changes an item; with `seen`, only if it still is as it was seen.
///
/// # Errors
/// See [`WriteError`].
pub async fn update(
    pool: &MultiPool,
    op: OpId,
    id: i32,
    input: &ItemInput,
    seen: Option<&ItemInput>,
) -> Result<Applied, WriteError> {
    let mut change = Change::update(TABLE, key(id), input.fields().with("updated_at", Value::Now));
    if let Some(seen) = seen {
        change = change.expecting(seen.fields());
    }
    pool.change(op, vec![change]).await
}

/// Deletes an item; with `seen`, only if it still is as it was seen.
///
/// # Errors
/// See [`WriteError`].
pub async fn delete(
    pool: &MultiPool,
    op: OpId,
    id: i32,
    seen: Option<&ItemInput>,
) -> Result<Applied, WriteError> {
    let mut change = Change::delete(TABLE, key(id));
    if let Some(seen) = seen {
        change = change.expecting(seen.fields());
    }
    pool.change(op, vec![change]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ErrorCode;

    fn input(name: &str, content: Option<&str>) -> ItemInput {
        ItemInput {
            name: name.into(),
            content: content.map(str::to_owned),
        }
    }

    #[test]
    fn validation() {
        assert_eq!(
            input("  Ny anarana 名前 ", None).validate().unwrap().name,
            "Ny anarana 名前"
        );
        assert!(
            input(&"é".repeat(200), Some(&"x".repeat(100_000)))
                .validate()
                .is_ok()
        );
        let code = |i: ItemInput, field| i.validate().unwrap_err().get(field);
        assert_eq!(code(input(" \t", None), "name"), Some(ErrorCode::Required));
        assert_eq!(
            code(input(&"x".repeat(10_000), None), "name"),
            Some(ErrorCode::TooLong { max: 200 })
        );
        assert_eq!(code(input("a\0b", None), "name"), Some(ErrorCode::NulByte));
        assert_eq!(code(input("a", Some("\0")), "content"), Some(ErrorCode::NulByte));
        assert_eq!(
            code(input("a", Some(&"x".repeat(100_001))), "content"),
            Some(ErrorCode::TooLong { max: 100_000 })
        );
    }

    #[test]
    fn json_refuses_what_it_does_not_know() {
        assert!(serde_json::from_str::<ItemInput>(r#"{"name":"a","name":"b"}"#).is_err());
        assert!(serde_json::from_str::<ItemInput>(r#"{"name":"a","id":1}"#).is_err());
        assert_eq!(
            serde_json::from_str::<ItemInput>("{}").unwrap(),
            ItemInput::default()
        );
    }
}
