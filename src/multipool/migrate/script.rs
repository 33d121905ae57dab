//! What a script of SQL says before a server sees it: its statements by their first words. Pure.

/// A statement that cannot be part of one transaction on every side.
const NEVER: [(&str, &str); 14] = [
    ("begin", "it would end the one transaction that a migration is"),
    ("start", "it would end the one transaction that a migration is"),
    ("commit", "it would end the one transaction that a migration is"),
    ("end", "it would end the one transaction that a migration is"),
    ("rollback", "it would end the one transaction that a migration is"),
    ("abort", "it would end the one transaction that a migration is"),
    (
        "prepare transaction",
        "it would end the one transaction that a migration is",
    ),
    (
        "vacuum",
        "PostgreSQL runs it outside transactions only; run it on each side",
    ),
    ("create database", "PostgreSQL runs it outside transactions only"),
    ("drop database", "PostgreSQL runs it outside transactions only"),
    (
        "create tablespace",
        "PostgreSQL runs it outside transactions only",
    ),
    ("alter system", "PostgreSQL runs it outside transactions only"),
    (
        "copy",
        "rows cannot be sent along with a script; use INSERT or an import",
    ),
    ("\\", "it is a command of psql, not SQL"),
];

/// First words of statements that change structure and no row.
const STRUCTURE: [&str; 8] = [
    "create", "alter", "drop", "comment", "grant", "revoke", "set", "reset",
];

/// The statements of a script, each as its first words in small letters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    statements: Vec<Vec<String>>,
}

impl Script {
    /// Splits a script at its semicolons.
    pub fn read(sql: &str) -> Script {
        let plain = without_quotes(sql);
        let words = |text: &str| -> Vec<String> {
            let text = text.replace('\\', " \\ ");
            text.split_whitespace().take(5).map(str::to_lowercase).collect()
        };
        let statements = plain.split(';').map(words).filter(|words| !words.is_empty());
        Script {
            statements: statements.collect(),
        }
    }

    /// Why this script cannot be run on all sides or on none.
    pub fn refusal(&self) -> Option<String> {
        if self.statements.is_empty() {
            return Some("there is no statement in it".into());
        }
        self.statements.iter().find_map(|words| {
            let text = words.join(" ");
            if words.iter().any(|word| word == "concurrently") {
                return Some(format!(
                    "`{text}` cannot run in a transaction; leave CONCURRENTLY out, or run it on each side by itself"
                ));
            }
            let begins = |with: &&(&str, &str)| text == with.0 || text.starts_with(&format!("{} ", with.0));
            let (_, why) = NEVER.iter().find(begins)?;
            // CREATE FUNCTION … BEGIN ATOMIC has its END behind a semicolon of its own.
            Some(format!("`{text}`: {why}"))
        })
    }

    /// Whether some statement may change rows.
    pub fn changes_rows(&self) -> bool {
        let structure = |words: &Vec<String>| {
            words
                .first()
                .is_some_and(|word| STRUCTURE.contains(&word.as_str()))
        };
        !self.statements.iter().all(structure)
    }
}

/// The text with comments, literals, quoted names and dollar quotes replaced by blanks.
fn without_quotes(sql: &str) -> String {
    let mut plain = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '\'' => quoted(rest, '\'', plain.ends_with(['e', 'E'])),
            '"' => quoted(rest, '"', false),
            '$' => dollar_quoted(rest),
            _ => 0,
        };
        match skipped {
            0 => {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
            length => {
                plain.push(' ');
                rest = &rest[length..];
            }
        }
    }
    plain
}

/// Length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a quoted text; a doubled quote does not end it.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut escaped = false;
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if escaped => escaped = false,
            '\\' if escapes => escaped = true,
            c if c == quote && chars.peek().is_some_and(|(_, next)| *next == quote) => {
                chars.next();
            }
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `$tag$ … $tag$`, or 0 if no such quote begins here.
fn dollar_quoted(text: &str) -> usize {
    let Some(end) = text[1..].find('$') else { return 0 };
    let tag = &text[..end + 2];
    let name = &tag[1..tag.len() - 1];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if !is_name {
        return 0;
    }
    match text[tag.len()..].find(tag) {
        Some(close) => tag.len() + close + tag.len(),
        None => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_the_transaction_is_refused() {
        for bad in [
            "ALTER TABLE t ADD x int; COMMIT; ALTER TABLE t ADD y int",
            "begin; alter table t add x int",
            "/* a /* b */ */ -- c\nVACUUM t",
            "CREATE INDEX CONCURRENTLY i ON t (x)",
            "DROP INDEX concurrently i",
            "\\i other.sql",
            "START TRANSACTION",
            "PREPARE TRANSACTION 'x'",
            "COPY t FROM stdin",
            " -- nothing\n",
        ] {
            assert!(Script::read(bad).refusal().is_some(), "{bad}");
        }
        for good in [
            "ALTER TABLE t ADD x text DEFAULT 'a; COMMIT; b'",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $x$ BEGIN; END; COMMIT; $x$",
            "COMMENT ON TABLE t IS E'it''s \\'; commit; '; ALTER TABLE \"a;commit\" ADD y int -- ; COMMIT;\n",
            "PREPARE p AS SELECT 1",
            "SELECT $1; DROP TABLE x",
        ] {
            assert_eq!(Script::read(good).refusal(), None, "{good}");
        }
    }

    #[test]
    fn rows_may_change_unless_all_is_structure() {
        assert!(!Script::read("ALTER TABLE t ADD x int; create index i on t (x);").changes_rows());
        assert!(Script::read("ALTER TABLE t ADD x int; UPDATE t SET x = 1").changes_rows());
        assert!(Script::read("WITH w AS (DELETE FROM t RETURNING *) SELECT 1").changes_rows());
    }
}
