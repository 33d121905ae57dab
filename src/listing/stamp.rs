//! Times as rows of a list and answers of the API show them.

use tokio_postgres::Row;

/// The `timestamp` that the statement reads as `column::text`, which costs the server a tenth of what `to_char()` does, as
/// `2026-01-31T12:00:00.000000`. `None` is `NULL`, and what no calendar has (`infinity`).
pub(crate) fn stamp(row: &Row, column: &str) -> Result<Option<String>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<&str>>(column)?.and_then(iso))
}

/// PostgreSQL's text (`DateStyle` is ISO on every connection), with all six digits of the second.
fn iso(text: &str) -> Option<String> {
    // Years before Christ keep their number, as `to_char()` shows them.
    let (date, time) = text.trim_end_matches(" BC").split_once(' ')?;
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    Some(format!("{date}T{seconds}.{fraction:0<6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_to_char_would_show_them() {
        for (text, shown) in [
            ("2026-01-31 12:00:00", Some("2026-01-31T12:00:00.000000")),
            ("2026-01-31 12:00:00.5", Some("2026-01-31T12:00:00.500000")),
            ("2026-01-31 12:00:00.000001", Some("2026-01-31T12:00:00.000001")),
            ("12026-01-31 00:00:00", Some("12026-01-31T00:00:00.000000")),
            ("0044-03-15 12:00:00.25 BC", Some("0044-03-15T12:00:00.250000")),
            ("infinity", None),
            ("-infinity", None),
        ] {
            assert_eq!(iso(text).as_deref(), shown, "{text}");
        }
    }
}
