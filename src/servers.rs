//! Servers: type, validation and SQL.

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::listing::{self, ErrorCode, FieldErrors, ListQuery, Listing, Page, Sort};
use crate::multipool::{Applied, Change, Fields, MultiPool, OpId, ReadError, Value, WriteError};

/// Name of the table.
pub const TABLE: &str = "servers";
/// The longest name, in characters.
pub const MAX_NAME: usize = 200;
/// The longest host: a domain name has at most 253 characters, a bracketed address with a zone fits too.
pub const MAX_HOST: usize = 255;
/// Columns a list can be sorted by.
pub const SORTS: &[&str] = &["id", "name", "host", "port", "active", "created_at"];

const COLUMNS: &str = "id, name, host, port, active, created_at::text AS created_at";

const fn sort(name: &'static str, expression: &'static str, cast: &'static str) -> Sort {
    Sort {
        name,
        expression,
        cast,
        nullable: false,
    }
}

const fn nullable(sort: Sort) -> Sort {
    Sort {
        nullable: true,
        ..sort
    }
}

const LISTING: Listing = Listing {
    function: "servers::list()",
    table: TABLE,
    columns: COLUMNS,
    searched: &["name", "host"],
    sorts: &[
        sort("id", "id", "integer"),
        sort("name", "name COLLATE \"C\"", "text"),
        sort("host", "host COLLATE \"C\"", "text"),
        sort("port", "port", "integer"),
        nullable(sort("active", "active", "boolean")),
        // Qualified: the bare name in ORDER BY would mean the formatted text.
        nullable(sort("created_at", "servers.created_at", "timestamp")),
    ],
};

/// A row of `servers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Primary key.
    pub id: i32,
    /// Any text of 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: i32,
    /// Whether it is in use; a foreign program may have left it unknown.
    pub active: Option<bool>,
    /// When it was entered, UTC, `2026-01-31T12:00:00.000000`.
    pub created_at: Option<String>,
}

/// What a person or a program may say about a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerInput {
    /// See [`Server::name`].
    pub name: String,
    /// See [`Server::host`].
    pub host: String,
    /// 1 to 65535.
    pub port: i32,
    /// See [`Server::active`].
    pub active: bool,
}

/// As it comes from a form or a CSV file: every field a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerForm {
    /// See [`Server::name`].
    pub name: String,
    /// See [`Server::host`].
    pub host: String,
    /// Decimal digits.
    pub port: String,
    /// `on`, `true`, `yes`, `1`, `t` are yes; `off`, `false`, `no`, `0`, `f`, empty and not given (an unticked box) are no.
    pub active: Option<String>,
}

impl ServerForm {
    /// Reads and checks all fields.
    ///
    /// # Errors
    /// The fields that are wrong.
    pub fn validate(self) -> Result<ServerInput, FieldErrors> {
        let mut errors = FieldErrors::default();
        let (name, host) = (self.name.trim().to_owned(), self.host.trim().to_owned());
        errors.check_required("name", &name, MAX_NAME);
        errors.check_required("host", &host, MAX_HOST);
        if !host.chars().all(|c| c.is_alphanumeric() || ".-_:%[]".contains(c)) {
            errors.push("host", ErrorCode::InvalidHost);
        }
        let port = read_port(self.port.trim()).unwrap_or_else(|code| {
            errors.push("port", code);
            0
        });
        let active = read_bool(self.active.as_deref().unwrap_or("")).unwrap_or_else(|code| {
            errors.push("active", code);
            false
        });
        errors.or(ServerInput {
            name,
            host,
            port,
            active,
        })
    }
}

fn read_port(text: &str) -> Result<i32, ErrorCode> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if text.is_empty() {
        Err(ErrorCode::Required)
    } else if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        Err(ErrorCode::NotANumber)
    } else {
        match text.parse() {
            Ok(port @ 1..=65535) => Ok(port),
            _ => Err(ErrorCode::OutOfRange { min: 1, max: 65535 }),
        }
    }
}

fn read_bool(text: &str) -> Result<bool, ErrorCode> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" => Ok(true),
        "" | "off" | "false" | "no" | "0" | "f" => Ok(false),
        _ => Err(ErrorCode::InvalidChoice),
    }
}

impl From<&Server> for ServerInput {
    fn from(server: &Server) -> ServerInput {
        ServerInput {
            name: server.name.clone(),
            host: server.host.clone(),
            port: server.port,
            active: server.active.unwrap_or(false),
        }
    }
}

impl ServerInput {
    /// Checks the fields once more, for input that did not come through a [`ServerForm`].
    ///
    /// # Errors
    /// The fields that are wrong.
    pub fn validate(self) -> Result<ServerInput, FieldErrors> {
        let form = ServerForm {
            name: self.name,
            host: self.host,
            port: self.port.to_string(),
            active: Some(self.active.to_string()),
        };
        form.validate()
    }

    /// The columns of this input, for an insert, an update or an expected old row.
    pub fn fields(&self) -> Fields {
        self.fields_with(self.active)
    }

    fn fields_with(&self, active: impl Into<Value>) -> Fields {
        Fields::new()
            .with("name", self.name.as_str())
            .with("host", self.host.as_str())
            .with("port", self.port)
            .with("active", active)
    }
}

fn from_row(row: &Row) -> Result<Server, tokio_postgres::Error> {
    Ok(Server {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        host: row.try_get("host")?,
        port: row.try_get("port")?,
        active: row.try_get("active")?,
        created_at: listing::stamp(row, "created_at")?,
    })
}

fn key(id: i32) -> Fields {
    Fields::new().with("id", id)
}

/// One page of servers.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Server>, ReadError> {
    listing::page(pool, &LISTING, query, from_row).await
}

/// The next `limit` servers with an id above `after`, for an export.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn list_after(pool: &MultiPool, after: i32, limit: i64) -> Result<Vec<Server>, ReadError> {
    let sql =
        format!("-- servers::list_after()\nSELECT {COLUMNS} FROM servers WHERE id > $1 ORDER BY id LIMIT $2");
    let rows = pool.read(&sql, &[&after, &limit]).await?;
    rows.iter()
        .map(|row| from_row(row).map_err(listing::unreadable))
        .collect()
}

/// The server with this id.
///
/// # Errors
/// No side could answer, or one refused.
pub async fn get(pool: &MultiPool, id: i32) -> Result<Option<Server>, ReadError> {
    let sql = format!("-- servers::get()\nSELECT {COLUMNS} FROM servers WHERE id = $1");
    let rows = pool.read(&sql, &[&id]).await?;
    rows.first()
        .map(from_row)
        .transpose()
        .map_err(listing::unreadable)
}

/// Inserts a valid server; the leader gives the id and the time.
///
/// # Errors
/// See [`WriteError`].
pub async fn create(pool: &MultiPool, op: OpId, input: &ServerInput) -> Result<Applied, WriteError> {
    pool.change(op, vec![Change::insert(TABLE, input.fields())]).await
}

/// Changes a server; with `seen`, only if it still is as it was seen.
///
/// # Errors
/// See [`WriteError`].
pub async fn update(
    pool: &MultiPool,
    op: OpId,
    id: i32,
    input: &ServerInput,
    seen: Option<&ServerInput>,
) -> Result<Applied, WriteError> {
    change_if_seen(pool, op, seen, || Change::update(TABLE, key(id), input.fields())).await
}

/// Switches a server on or off, whatever else it is.
///
/// # Errors
/// See [`WriteError`].
pub async fn set_active(pool: &MultiPool, op: OpId, id: i32, active: bool) -> Result<Applied, WriteError> {
    let set = Fields::new().with("active", active);
    pool.change(op, vec![Change::update(TABLE, key(id), set)]).await
}

/// Deletes a server; with `seen`, only if it still is as it was seen.
///
/// # Errors
/// See [`WriteError`].
pub async fn delete(
    pool: &MultiPool,
    op: OpId,
    id: i32,
    seen: Option<&ServerInput>,
) -> Result<Applied, WriteError> {
    change_if_seen(pool, op, seen, || Change::delete(TABLE, key(id))).await
}

/// Runs a change that expects the row as `seen`. A person sees an unknown (`NULL`) `active` as "no": when the row turns out to
/// hold exactly that, the same operation is tried again expecting it.
async fn change_if_seen(
    pool: &MultiPool,
    op: OpId,
    seen: Option<&ServerInput>,
    change: impl Fn() -> Change,
) -> Result<Applied, WriteError> {
    let Some(seen) = seen else {
        return pool.change(op, vec![change()]).await;
    };
    let first = pool.change(op, vec![change().expecting(seen.fields())]).await;
    let try_null = !seen.active
        && match &first {
            Err(WriteError::EditConflict { current, .. }) => current.get("active") == Some(&Value::Null),
            // A repetition of a request that was applied by its second try.
            Err(WriteError::OpReused(_)) => true,
            _ => false,
        };
    if try_null {
        let expected = seen.fields_with(Value::Null);
        return pool.change(op, vec![change().expecting(expected)]).await;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(name: &str, host: &str, port: &str, active: Option<&str>) -> ServerForm {
        ServerForm {
            name: name.into(),
            host: host.into(),
            port: port.into(),
            active: active.map(str::to_owned),
        }
    }

    #[test]
    fn validation() {
        let ok = form(" мой сервер ", "[fe80::1%eth0]", "65535", Some("on"))
            .validate()
            .unwrap();
        assert_eq!(
            (ok.name.as_str(), ok.port, ok.active),
            ("мой сервер", 65535, true)
        );
        assert_eq!(ok.clone().validate(), Ok(ok));
        assert!(!form("a", "bücher.example", "1", None).validate().unwrap().active);
        let range = ErrorCode::OutOfRange { min: 1, max: 65535 };
        for (port, code) in [
            ("0", range),
            ("65536", range),
            ("-1", range),
            ("99999999999999999999", range),
            ("abc", ErrorCode::NotANumber),
            ("8 0", ErrorCode::NotANumber),
            ("0x50", ErrorCode::NotANumber),
            ("٨٠", ErrorCode::NotANumber),
            ("", ErrorCode::Required),
        ] {
            assert_eq!(
                form("a", "h", port, None).validate().unwrap_err().get("port"),
                Some(code),
                "{port}"
            );
        }
        let errors = form("", "a b", "x", Some("perhaps")).validate().unwrap_err();
        assert_eq!(errors.get("name"), Some(ErrorCode::Required));
        assert_eq!(errors.get("host"), Some(ErrorCode::InvalidHost));
        assert_eq!(errors.get("active"), Some(ErrorCode::InvalidChoice));
        assert_eq!(
            form("a", "a\0", "1", None).validate().unwrap_err().get("host"),
            Some(ErrorCode::NulByte)
        );
    }
}
