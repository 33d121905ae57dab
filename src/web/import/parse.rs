//! Reads and checks a whole CSV file before anything is written.

use std::fmt;

use csv::ByteRecord;

use super::rows::Counted;
use super::{Kind, Rows};
use crate::items::ItemInput;
use crate::listing::FieldErrors;
use crate::multipool::Fields;
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
pub fn parse(file: Vec<u8>, kind: Kind, max_errors: usize) -> Result<Parsed, ImportErrors> {
    check_quotes(text(&file))?;
    let mut reader = Reader::new(&file, kind)?;
    let (mut counted, mut total, mut errors) = (Counted::default(), 0, Vec::new());
    while let Some(row) = reader.next() {
        match row {
            Ok(fields) => {
                counted.add(&fields);
            }
            Err(problem) => {
                total += 1;
                if errors.len() < max_errors {
                    errors.push(RowError {
                        line: reader.line(),
                        row: counted.rows + total,
                        problem,
                    });
                }
            }
        }
    }
    let ignored = reader.header.ignored;
    let rows = counted.rows + total;
    if total > 0 {
        return Err(ImportErrors {
            file: None,
            errors,
            total,
            rows,
        });
    }
    if rows == 0 {
        return Err(FileProblem::Empty.into());
    }
    let rows = Rows::new(kind, file, &counted);
    Ok(Parsed { rows, ignored })
}

/// Without the byte order mark.
fn text(file: &[u8]) -> &[u8] {
    file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file)
}

/// Reads a file row by row.
pub(super) struct Reader<'a> {
    csv: csv::Reader<&'a [u8]>,
    kind: Kind,
    header: Header,
    record: ByteRecord,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a [u8], kind: Kind) -> Result<Reader<'a>, FileProblem> {
        let mut csv = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(text(file));
        let mut record = ByteRecord::new();
        if !read(&mut csv, &mut record) {
            return Err(FileProblem::Empty);
        }
        let header = Header::read(&record, kind)?;
        Ok(Reader {
            csv,
            kind,
            header,
            record,
        })
    }

    /// The next row.
    pub fn next(&mut self) -> Option<Result<Fields, RowProblem>> {
        read(&mut self.csv, &mut self.record).then(|| self.header.read_row(&self.record, self.kind))
    }

    /// Where the last row begins.
    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }
}

/// Reading from memory has no errors with these settings; if it had, the rows so far must not count as all.
fn read(csv: &mut csv::Reader<&[u8]>, record: &mut ByteRecord) -> bool {
    csv.read_byte_record(record).unwrap_or(false)
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

    fn read_row(&self, record: &ByteRecord, kind: Kind) -> Result<Fields, RowProblem> {
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
        match kind {
            Kind::Items => {
                let input = ItemInput {
                    name: text("name"),
                    content: field("content").filter(|content| !content.is_empty()),
                };
                let valid = input.validate().map_err(RowProblem::Fields)?;
                Ok(valid.fields())
            }
            Kind::Servers => {
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
                let valid = form.validate().map_err(RowProblem::Fields)?;
                Ok(valid.fields())
            }
        }
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
        parse(file.into(), Kind::Items, 100)
    }

    fn file_problem(file: &[u8], kind: Kind) -> FileProblem {
        parse(file.to_vec(), kind, 100).unwrap_err().file.unwrap()
    }

    #[test]
    fn good_files() {
        let parsed = items("\u{feff}Content,NAME\r\n\"a, \"\"b\"\"\nc\", x \r\n,名\r\n").unwrap();
        let values = |rows: &Rows, column: &str| -> Vec<Option<String>> {
            let rows = rows.read().flatten();
            rows.map(|row| row.get(column).and_then(|v| v.as_text()).map(str::to_owned))
                .collect()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(values(&parsed.rows, "content"), [text("a, \"b\"\nc"), None]);
        assert_eq!(values(&parsed.rows, "name"), [text("x"), text("名")]);
        let servers = b"name,host,port,active\nn,h,80,\nn,h,81,no".to_vec();
        let rows = parse(servers, Kind::Servers, 9).unwrap().rows;
        assert_eq!(values(&rows, "active"), [text("true"), text("false")]);
        assert_eq!(values(&rows, "port"), [text("80"), text("81")]);
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
        let wrong = parse(b"name\na\n\xff\n".to_vec(), Kind::Items, 1).unwrap_err();
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
