//! Which SQL a client's message runs: a simple query says it, an `Execute` only names what was parsed and bound before.

use std::collections::HashMap;
use std::sync::Arc;

/// What one connection has parsed and bound.
#[derive(Default)]
pub(super) struct Statements {
    parsed: HashMap<Vec<u8>, Arc<str>>,
    bound: HashMap<Vec<u8>, Arc<str>>,
}

impl Statements {
    /// Remembers, and returns the SQL that this message runs now.
    pub fn runs(&mut self, kind: u8, body: &[u8]) -> Option<Arc<str>> {
        let (first, rest) = text(body);
        match kind {
            b'Q' => return Some(String::from_utf8_lossy(first).into()),
            b'P' => {
                let sql = String::from_utf8_lossy(text(rest).0).into();
                self.parsed.insert(first.to_vec(), sql);
            }
            b'B' => {
                if let Some(sql) = self.parsed.get(text(rest).0) {
                    self.bound.insert(first.to_vec(), Arc::clone(sql));
                }
            }
            b'E' => return self.bound.get(first).cloned(),
            b'C' => {
                if let Some((of, name)) = body.split_first() {
                    let from = if *of == b'S' {
                        &mut self.parsed
                    } else {
                        &mut self.bound
                    };
                    from.remove(text(name).0);
                }
            }
            _ => {}
        }
        None
    }
}

/// Up to the first zero byte, and what is behind it.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// Whether one of the statements is COMMIT or END. Statements are told apart by semicolons alone: enough for who tests
/// with it.
pub(super) fn commits(sql: &str) -> bool {
    sql.split(';').any(|statement| {
        let word = words(statement).next().unwrap_or("");
        word.eq_ignore_ascii_case("COMMIT") || word.eq_ignore_ascii_case("END")
    })
}

/// Words outside of comments to the end of a line.
fn words(statement: &str) -> impl Iterator<Item = &str> {
    statement
        .lines()
        .map(|line| line.split("--").next().unwrap_or(""))
        .flat_map(str::split_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_found_wherever_it_is() {
        for sql in [
            "COMMIT",
            "commit work",
            "-- room::done()\nCOMMIT",
            "SET CONSTRAINTS ALL IMMEDIATE; COMMIT",
            "\nEND",
        ] {
            assert!(commits(sql), "{sql}");
        }
        for sql in [
            "",
            "BEGIN",
            "SELECT 'COMMIT'",
            "-- COMMIT\nROLLBACK",
            "SELECT CASE WHEN true THEN 1 END",
            "ROLLBACK",
        ] {
            assert!(!commits(sql), "{sql}");
        }
    }

    #[test]
    fn an_execute_is_traced_to_its_text() {
        let mut seen = Statements::default();
        assert_eq!(seen.runs(b'P', b"s1\0-- write::guard()\nSELECT 1\0\0\0"), None);
        assert_eq!(seen.runs(b'B', b"\0s1\0\0\0\0\0\0\0"), None);
        let sql = seen.runs(b'E', b"\0\0\0\0\0").unwrap();
        assert!(sql.contains("write::guard()"));
        assert_eq!(seen.runs(b'B', b"p\0unknown\0"), None);
        assert_eq!(seen.runs(b'E', b"p\0\0\0\0\0"), None);
        // The portal outlives its statement's name, and not its own.
        seen.runs(b'C', b"Ss1\0");
        assert!(seen.runs(b'E', b"\0\0\0\0\0").is_some());
        seen.runs(b'C', b"P\0");
        assert_eq!(seen.runs(b'E', b"\0\0\0\0\0"), None);
        assert_eq!(seen.runs(b'Q', b"COMMIT\0").as_deref(), Some("COMMIT"));
    }
}
