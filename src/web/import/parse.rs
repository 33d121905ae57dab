//! Reads and checks a whole CSV file before anything is written.

use std::fmt;

use csv::ByteRecord;

use super::{Kind, Rows};
use crate::items::ItemInput;
use crate::listing::FieldErrors;
use crate::servers::ServerForm;

/// A good file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Its rows.
    pub rows: Rows,
    /// Columns of an exported file that an import does not take (`id`, times): new rows get their own.
    pub ignored: Vec<String>,
}

/// Everything wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportErrors {
    /// What is wrong with the file as a whole; then no row was looked at.
    pub file: Option<FileProblem>,
    /// The first wrong rows.
    pub errors: Vec<RowError>,
    /// All wrong rows.
    pub total: usize,
    /// Rows of the file, right and wrong.
    pub rows: usize,
}

/// A file that cannot be read as rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileProblem {
    /// There is no row below the header, or no header.
    Empty,
    /// The header is not UTF-8.
    HeaderNotUtf8,
    /// The header lacks a column.
    MissingColumn(&'static str),
    /// The header has a column nobody knows.
    UnknownColumn(String),
    /// The header has a column twice.
    DuplicateColumn(String),
    /// A field that begins with a quote on this line never ends.
    UnterminatedQuote {
        /// Counted from 1.
        line: u64,
    },
    /// On this line something other than a comma follows the quote that ends a field.
    TextAfterQuote {
        /// Counted from 1.
        line: u64,
    },
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileProblem::Empty => f.write_str("the file has no rows below a header line"),
            FileProblem::HeaderNotUtf8 => f.write_str("the header line is not valid UTF-8"),
            FileProblem::MissingColumn(name) => write!(f, "the header line has no column `{name}`"),
            FileProblem::UnknownColumn(name) => write!(f, "the header line has an unknown column `{name}`"),
            FileProblem::DuplicateColumn(name) => write!(f, "the header line has the column `{name}` twice"),
            FileProblem::UnterminatedQuote { line } => {
                write!(f, "line {line}: a field begins with a quote that never ends")
            }
            FileProblem::TextAfterQuote { line } => {
                write!(
                    f,
                    "line {line}: after the quote that ends a field there must be a comma or the end of the line"
                )
            }
        }
    }
}

/// One wrong row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Line of the file on which the row begins, counted from 1.
    pub line: u64,
    /// Number of the row below the header, counted from 1.
    pub row: usize,
    /// What is wrong.
    pub problem: RowProblem,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowProblem {
    /// The row is not UTF-8.
    NotUtf8,
    /// The row has more or fewer fields than the header.
    FieldCount {
        /// Fields of the header.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// Values that cannot be accepted.
    Fields(FieldErrors),
}

impl fmt::Display for RowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowProblem::NotUtf8 => f.write_str("not valid UTF-8"),
            RowProblem::FieldCount { expected, found } => {
                write!(f, "{found} fields where the header has {expected}")
            }
            RowProblem::Fields(errors) => errors.fmt(f),
        }
    }
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(problem) => write!(f, "{problem}; nothing was imported"),
            None => write!(
                f,
                "{} of {} rows are wrong; nothing was imported",
                self.total, self.rows
            ),
        }
    }
}

impl std::error::Error for ImportErrors {}

impl From<FileProblem> for ImportErrors {
    fn from(problem: FileProblem) -> ImportErrors {
        ImportErrors {
            file: Some(problem),
            errors: vec![],
            total: 0,
            rows: 0,
        }
    }
}

/// Reads a file with a header line; a byte order mark is skipped, and an empty field is `NULL` where the column may be. Columns
/// may stand in any order; those of an export that an import does not take are ignored and named. This keeps a processor
/// busy for about a second for 64 MiB: call it through `web::block`.
///
/// # Errors
/// The first `max_errors` wrong rows and the number of all. Then nothing of the file may be written.
pub fn parse(bytes: &[u8], kind: Kind, max_errors: usize) -> Result<Parsed, ImportErrors> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    check_quotes(bytes)?;
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let mut record = ByteRecord::new();
    // Reading from memory has no errors with these settings; if it had, the rows so far must not count as all.
    let mut read = |record: &mut ByteRecord| reader.read_byte_record(record).unwrap_or(false);
    if !read(&mut record) {
        return Err(FileProblem::Empty.into());
    }
    let header = Header::read(&record, kind)?;
    let mut rows = match kind {
        Kind::Items => Rows::Items(vec![]),
        Kind::Servers => Rows::Servers(vec![]),
    };
    let (mut count, mut total, mut errors) = (0, 0, Vec::new());
    while read(&mut record) {
        count += 1;
        if let Err(problem) = header.read_row(&record, &mut rows) {
            total += 1;
            if errors.len() < max_errors {
                let line = record.position().map_or(0, csv::Position::line);
                errors.push(RowError {
                    line,
                    row: count,
                    problem,
                });
            }
        }
    }
    if total > 0 {
        return Err(ImportErrors {
            file: None,
            errors,
            total,
            rows: count,
        });
    }
    if rows.is_empty() {
        return Err(FileProblem::Empty.into());
    }
    let ignored = header.ignored;
    Ok(Parsed { rows, ignored })
}

/// Where the columns stand.
struct Header {
    width: usize,
    places: Vec<(&'static str, usize)>,
    ignored: Vec<String>,
}

impl Header {
    fn read(record: &ByteRecord, kind: Kind) -> Result<Header, FileProblem> {
        let (required, optional, ignorable): (&[&str], &[&str], &[&str]) = match kind {
            Kind::Items => (&["name"], &["content"], &["id", "updated_at"]),
            Kind::Servers => (&["name", "host", "port"], &["active"], &["id", "created_at"]),
        };
        let mut header = Header {
            width: record.len(),
            places: vec![],
            ignored: vec![],
        };
        for (place, bytes) in record.iter().enumerate() {
            let name = std::str::from_utf8(bytes).map_err(|_| FileProblem::HeaderNotUtf8)?;
            let name = name.trim().to_ascii_lowercase();
            if header.place(&name).is_some() || header.ignored.contains(&name) {
                return Err(FileProblem::DuplicateColumn(name));
            }
            match required.iter().chain(optional).find(|known| **known == name) {
                Some(known) => header.places.push((*known, place)),
                None if ignorable.contains(&name.as_str()) => header.ignored.push(name),
                None => return Err(FileProblem::UnknownColumn(name.chars().take(100).collect())),
            }
        }
        match required.iter().find(|name| header.place(name).is_none()) {
            Some(name) => Err(FileProblem::MissingColumn(name)),
            None => Ok(header),
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.places
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, place)| *place)
    }

    fn read_row(&self, record: &ByteRecord, rows: &mut Rows) -> Result<(), RowProblem> {
        if record.len() != self.width {
            return Err(RowProblem::FieldCount {
                expected: self.width,
                found: record.len(),
            });
        }
        for field in record {
            std::str::from_utf8(field).map_err(|_| RowProblem::NotUtf8)?;
        }
        let field = |name: &str| {
            let bytes = self.place(name).and_then(|place| record.get(place))?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let text = |name: &str| field(name).unwrap_or_default();
        match rows {
            Rows::Items(rows) => {
                let input = ItemInput {
                    name: text("name"),
                    content: field("content").filter(|content| !content.is_empty()),
                };
                rows.push(input.validate().map_err(RowProblem::Fields)?);
            }
            Rows::Servers(rows) => {
                let form = ServerForm {
                    name: text("name"),
                    host: text("host"),
                    port: text("port"),
                    // As the table's default: a server nobody says anything about is active.
                    active: Some(
                        field("active")
                            .filter(|a| !a.trim().is_empty())
                            .unwrap_or("true".into()),
                    ),
                };
                rows.push(form.validate().map_err(RowProblem::Fields)?);
            }
        }
        Ok(())
    }
}

/// Refuses broken quoting, which a CSV reader would silently read as something else: one lost quote turns the rest of the
/// file into one field.
fn check_quotes(bytes: &[u8]) -> Result<(), FileProblem> {
    #[derive(Clone, Copy)]
    enum At {
        FieldStart,
        Plain,
        Quoted { since: u64 },
        QuoteInQuoted,
    }
    let (mut at, mut line) = (At::FieldStart, 1);
    for byte in bytes {
        at = match (at, byte) {
            (At::Quoted { .. }, b'"') => At::QuoteInQuoted,
            (At::Quoted { since }, _) => At::Quoted { since },
            (At::FieldStart, b'"') => At::Quoted { since: line },
            (At::QuoteInQuoted, b'"') => At::Quoted { since: line },
            (_, b',' | b'\n' | b'\r') => At::FieldStart,
            (At::QuoteInQuoted, _) => return Err(FileProblem::TextAfterQuote { line }),
            (At::FieldStart | At::Plain, _) => At::Plain,
        };
        line += u64::from(*byte == b'\n');
    }
    match at {
        At::Quoted { since } => Err(FileProblem::UnterminatedQuote { line: since }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ErrorCode;

    fn items(file: &str) -> Result<Parsed, ImportErrors> {
        parse(file.as_bytes(), Kind::Items, 100)
    }

    fn file_problem(file: &[u8], kind: Kind) -> FileProblem {
        parse(file, kind, 100).unwrap_err().file.unwrap()
    }

    #[test]
    fn good_files() {
        let parsed = items("\u{feff}Content,NAME\r\n\"a, \"\"b\"\"\nc\", x \r\n,名\r\n").unwrap();
        let Rows::Items(rows) = parsed.rows else { panic!() };
        assert_eq!(rows[0].content.as_deref(), Some("a, \"b\"\nc"));
        assert_eq!(
            (rows[0].name.as_str(), rows[1].name.as_str(), &rows[1].content),
            ("x", "名", &None)
        );
        let servers = parse(b"name,host,port,active\nn,h,80,\nn,h,81,no", Kind::Servers, 9).unwrap();
        let Rows::Servers(rows) = servers.rows else {
            panic!()
        };
        assert_eq!((rows[0].active, rows[1].active, rows[1].port), (true, false, 81));
    }

    #[test]
    fn the_header_must_be_known() {
        assert_eq!(file_problem(b"", Kind::Items), FileProblem::Empty);
        assert_eq!(file_problem(b"name\n\n", Kind::Items), FileProblem::Empty);
        assert_eq!(
            file_problem(b"content\nx\n", Kind::Items),
            FileProblem::MissingColumn("name")
        );
        assert_eq!(
            file_problem(b"name;content\n", Kind::Items),
            FileProblem::UnknownColumn("name;content".into())
        );
        assert_eq!(
            file_problem(b"name,Name\n", Kind::Items),
            FileProblem::DuplicateColumn("name".into())
        );
        assert_eq!(
            file_problem(b"name\xff\nx\n", Kind::Items),
            FileProblem::HeaderNotUtf8
        );
    }

    #[test]
    fn broken_quoting_is_refused_with_its_line() {
        let lost = "name,content\na,b\n\"c,d\ne,f\n";
        assert_eq!(
            file_problem(lost.as_bytes(), Kind::Items),
            FileProblem::UnterminatedQuote { line: 3 }
        );
        let after = "name,content\n\"a\"b,c\n";
        assert_eq!(
            file_problem(after.as_bytes(), Kind::Items),
            FileProblem::TextAfterQuote { line: 2 }
        );
        assert!(items("name,content\n5\" disk,x\n").is_ok());
    }

    #[test]
    fn every_wrong_row_is_counted_and_nothing_is_imported() {
        let mut file = String::from("name,content\n");
        for row in 1..=40_000 {
            file.push_str(match row {
                7 => "\"two\nlines\",x\n",
                40_000 => "only one field\n",
                n if n % 100 == 0 => ",no name\n",
                _ => "n,c\n",
            });
        }
        let errors = items(&file).unwrap_err();
        assert_eq!(
            (errors.total, errors.rows, errors.errors.len(), &errors.file),
            (400, 40_000, 100, &None)
        );
        let first = &errors.errors[0];
        // One row before it has two lines, and the header is a line.
        assert_eq!((first.row, first.line), (100, 102));
        assert_eq!(
            first.problem,
            RowProblem::Fields(FieldErrors::one("name", ErrorCode::Required))
        );
        let wrong = parse(b"name\na\n\xff\n", Kind::Items, 1).unwrap_err();
        assert_eq!(wrong.errors[0].problem, RowProblem::NotUtf8);
        assert_eq!((wrong.errors[0].line, wrong.errors[0].row), (3, 2));
        let count = items("name,content\na\nb,c,d\n").unwrap_err();
        assert_eq!(
            count.errors[1].problem,
            RowProblem::FieldCount {
                expected: 2,
                found: 3
            }
        );
    }
}
