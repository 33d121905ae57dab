//! A whole table as CSV, in pieces read as the client takes them.

use actix_web::web::Bytes;
use futures::Stream;
use futures::stream::try_unfold;

use super::Kind;
use crate::items::{self, Item};
use crate::multipool::{MultiPool, ReadError};
use crate::servers::{self, Server};

/// Rows read at once.
const CHUNK: i64 = 1000;

/// The rows of a table by id, with a header line. Every piece is one read: rows that change meanwhile are seen as they are when
/// their piece is read. `NULL` is written like the empty text. An error ends the stream, and the client sees the
/// answer cut off, never a shorter file that looks whole.
pub fn export(pool: MultiPool, kind: Kind) -> impl Stream<Item = Result<Bytes, ReadError>> + use<> {
    try_unfold(
        Some(Place {
            pool,
            kind,
            after: None,
        }),
        async |place| {
            let Some(place) = place else { return Ok(None) };
            let after = place.after.unwrap_or(i32::MIN);
            let (mut csv, ids) = match place.kind {
                Kind::Items => items_csv(items::list_after(&place.pool, after, CHUNK).await?),
                Kind::Servers => servers_csv(servers::list_after(&place.pool, after, CHUNK).await?),
            };
            if place.after.is_none() {
                csv.splice(0..0, header(place.kind).bytes());
            }
            let next = ids.map(|last| Place {
                after: Some(last),
                ..place
            });
            Ok(Some((Bytes::from(csv), next)))
        },
    )
}

struct Place {
    pool: MultiPool,
    kind: Kind,
    after: Option<i32>,
}

fn header(kind: Kind) -> &'static str {
    match kind {
        Kind::Items => "id,name,content,updated_at\n",
        Kind::Servers => "id,name,host,port,active,created_at\n",
    }
}

/// The lines and, if there may be more rows, the last id.
type Piece = (Vec<u8>, Option<i32>);

fn items_csv(items: Vec<Item>) -> Piece {
    let last = items.last().map(|item| item.id);
    let records = items.iter().map(|item| {
        [
            item.id.to_string(),
            item.name.clone(),
            item.content.clone().unwrap_or_default(),
            item.updated_at.clone().unwrap_or_default(),
        ]
    });
    (lines(records), last.filter(|_| items.len() as i64 == CHUNK))
}

fn servers_csv(servers: Vec<Server>) -> Piece {
    let last = servers.last().map(|server| server.id);
    let records = servers.iter().map(|server| {
        [
            server.id.to_string(),
            server.name.clone(),
            server.host.clone(),
            server.port.to_string(),
            server
                .active
                .map_or_else(String::new, |active| active.to_string()),
            server.created_at.clone().unwrap_or_default(),
        ]
    });
    (lines(records), last.filter(|_| servers.len() as i64 == CHUNK))
}

fn lines<const N: usize>(records: impl Iterator<Item = [String; N]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in records {
        // Writing to memory cannot fail, and every record has the same length.
        if let Err(error) = writer.write_record(&record) {
            tracing::error!(%error, "a CSV line could not be formed");
        }
    }
    writer.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::items::ItemInput;

    #[test]
    fn an_exported_file_can_be_imported() {
        let item = |id, name: &str, content: Option<&str>| Item {
            id,
            name: name.into(),
            content: content.map(str::to_owned),
            updated_at: Some("2026-01-31T12:00:00.000000".into()),
        };
        let items = vec![
            item(1, "plain", None),
            item(2, "a \"quoted\", name", Some("two\nlines\r\nthree, \"\"")),
            item(3, "名前", Some("x")),
        ];
        let inputs: Vec<_> = items.iter().map(|item| ItemInput::from(item).fields()).collect();
        let (lines, more) = items_csv(items);
        assert_eq!(more, None);
        let file = [header(Kind::Items).as_bytes(), &lines].concat();
        let parsed = parse(file, Kind::Items, 100).unwrap();
        assert_eq!(parsed.rows.read().flatten().collect::<Vec<_>>(), inputs);
        assert_eq!(parsed.ignored, ["id", "updated_at"]);
    }
}
