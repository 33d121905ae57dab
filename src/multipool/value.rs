//! Values and named fields of the declarative door, in PostgreSQL's own text form, so that any column type works.

use std::error::Error;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

/// One SQL value. It is sent in text format and read by the server as the type the statement needs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// The text form of a value of any type, as PostgreSQL would read it between quotes.
    Text(String),
    /// The leader's `CURRENT_TIMESTAMP`; only in the fields of a [`Change`](super::Change).
    Now,
}

impl Value {
    /// The value of a `bytea` column.
    pub fn bytes(bytes: &[u8]) -> Value {
        let mut text = String::with_capacity(2 + bytes.len() * 2);
        text.push_str("\\x");
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Value::Text(text)
    }

    /// The text form, or `None` for `NULL` (and for [`Value::Now`], which has none before the leader runs it).
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Null | Value::Now => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

macro_rules! value_from_display {
    ($($type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::Text(value.to_string())
            }
        }
    )*};
}
value_from_display!(bool, i16, i32, i64, u16, u32, uuid::Uuid);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl ToSql for Value {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            Value::Now => Err("Value::Now has a meaning only in the fields of a change".into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(ty, out)
    }
}

/// Named values of one row, in the order they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields(Vec<(String, Value)>);

impl Fields {
    /// No field yet.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// These fields and one more. A column named twice is refused when the change is made.
    #[must_use]
    pub fn with(mut self, column: &str, value: impl Into<Value>) -> Fields {
        self.0.push((column.to_owned(), value.into()));
        self
    }

    /// The value of `column`.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, value)| value)
    }

    /// Columns with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Length of all values as text.
    pub(super) fn bytes(&self) -> usize {
        self.0
            .iter()
            .filter_map(|(_, value)| value.as_text())
            .map(str::len)
            .sum()
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        assert_eq!(Value::bytes(b"\x00\xffA").as_text(), Some("\\x00ff41"));
        assert_eq!(Value::from(None::<i32>), Value::Null);
        assert_eq!(Value::from(Some(5)), Value::Text("5".into()));
        let fields = Fields::new().with("name", "x").with("port", 80);
        assert_eq!(fields.get("port").and_then(Value::as_text), Some("80"));
    }
}
