//! The rows of a file that was checked as a whole, read again from the file: values of their own would take many times its
//! size.

use super::parse::Reader;
use super::{CHUNK, CHUNK_BYTES, Kind};
use crate::multipool::Fields;

/// A checked file with its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    kind: Kind,
    file: Vec<u8>,
    len: usize,
    chunks: usize,
}

impl Rows {
    pub(super) fn new(kind: Kind, file: Vec<u8>, counted: &Counted) -> Rows {
        Rows {
            kind,
            file,
            len: counted.rows,
            chunks: counted.chunks,
        }
    }

    /// The table they are for.
    pub fn table(&self) -> &'static str {
        self.kind.table()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of operations they are written in.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// The rows of one operation after the other; the same for the same file, whoever reads it.
    pub fn read(&self) -> impl Iterator<Item = Vec<Fields>> + Send {
        let mut reader = Reader::new(&self.file, self.kind).ok();
        std::iter::from_fn(move || {
            let reader = reader.as_mut()?;
            let mut counted = Counted::default();
            let mut chunk = Vec::new();
            // Every row was good when the file was checked.
            while let Some(Ok(fields)) = reader.next() {
                let full = counted.add(&fields);
                chunk.push(fields);
                if full {
                    break;
                }
            }
            (!chunk.is_empty()).then_some(chunk)
        })
    }
}

/// Where one operation ends and the next begins.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub rows: usize,
    pub chunks: usize,
    in_chunk: usize,
    bytes: usize,
}

impl Counted {
    /// Counts a row. Returns whether it is the last of its chunk.
    pub fn add(&mut self, fields: &Fields) -> bool {
        self.chunks += usize::from(self.in_chunk == 0);
        self.rows += 1;
        self.in_chunk += 1;
        let texts = fields.iter().filter_map(|(_, value)| value.as_text());
        self.bytes += texts.map(str::len).sum::<usize>();
        let full = self.in_chunk == CHUNK || self.bytes >= CHUNK_BYTES;
        if full {
            (self.in_chunk, self.bytes) = (0, 0);
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn items(file: String) -> Rows {
        parse(file.into_bytes(), Kind::Items, 1).unwrap().rows
    }

    #[test]
    fn chunks_cover_every_row_once_and_in_order() {
        for count in [1, 499, 500, 501, 1000, 1234] {
            let file: String = (0..count).map(|n| format!("item {n}\n")).collect();
            let rows = items(format!("name\n{file}"));
            let chunks: Vec<_> = rows.read().collect();
            assert_eq!((rows.len(), rows.chunks()), (count, chunks.len()));
            assert!(chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
            let names = chunks.iter().flatten().map(|row| row.get("name").cloned());
            assert!(names.eq((0..count).map(|n| Some(format!("item {n}").into()))));
        }
    }

    #[test]
    fn long_rows_come_in_small_chunks() {
        let content = "x".repeat(100_000);
        let file: String = (0..25).map(|n| format!("item {n},{content}\n")).collect();
        let rows = items(format!("name,content\n{file}"));
        let sizes: Vec<usize> = rows.read().map(|chunk| chunk.len()).collect();
        assert_eq!((sizes, rows.chunks()), (vec![11, 11, 3], 3));
    }
}
