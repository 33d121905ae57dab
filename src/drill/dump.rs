//! What the databases hold, asked by plain SQL of the drill's own: none of the code under test takes part.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use serde::Serialize;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, RowStream};

use super::DrillError;

/// For one question, and for the next row of a long answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// More differing rows than anybody reads are not kept.
const MOST_UNEQUAL: usize = 1000;

/// One marked row on one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Primary key.
    pub id: i64,
    /// Holds the mark and the row's name.
    pub name: String,
    /// What the last operation wrote.
    pub content: String,
}

/// A row that is not the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unequal {
    /// Table.
    pub table: String,
    /// Primary key, as record text.
    pub key: String,
    /// The whole row as record text, on the side that is compared with and on the other.
    pub images: [(String, Option<String>); 2],
}

/// A connection of its own to one side.
pub struct Asked {
    /// The side.
    pub name: String,
    client: Client,
}

/// Connects to a side.
///
/// # Errors
/// It does not answer.
pub async fn connect(name: &str, dsn: &str) -> Result<Asked, DrillError> {
    let failed = |why: String| DrillError::Database(name.to_owned(), why);
    let (client, connection) = match timeout(DEADLINE, tokio_postgres::connect(dsn, NoTls)).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(e)) => return Err(failed(e.to_string())),
        Err(_) => return Err(failed("no answer".into())),
    };
    // Ends with its client.
    tokio::spawn(connection);
    let asked = Asked {
        name: name.to_owned(),
        client,
    };
    // Texts of equal values must be equal, whatever the servers' defaults are.
    let settings = "-- dump::connect()\nSET TIME ZONE 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; \
                    SET extra_float_digits = 1; SET bytea_output = 'hex'";
    asked.within(asked.client.batch_execute(settings)).await?;
    Ok(asked)
}

impl Asked {
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DrillError> {
        match timeout(DEADLINE, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(DrillError::Database(self.name.clone(), e.to_string())),
            Err(_) => Err(DrillError::Database(self.name.clone(), "no answer".into())),
        }
    }

    /// The items whose name begins with `mark`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn marked(&self, mark: &str) -> Result<Vec<Row>, DrillError> {
        let sql = "-- dump::marked()\nSELECT id::bigint, name, coalesce(content, '') FROM items \
                   WHERE starts_with(name, $1) ORDER BY id";
        let rows = self.within(self.client.query(sql, &[&mark])).await?;
        let row = |row: &tokio_postgres::Row| Row {
            id: row.get(0),
            name: row.get(1),
            content: row.get(2),
        };
        Ok(rows.iter().map(row).collect())
    }

    /// `server_version`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn version(&self) -> Result<String, DrillError> {
        let row = self
            .within(
                self.client
                    .query_one("-- dump::version()\nSHOW server_version", &[]),
            )
            .await?;
        Ok(row.get(0))
    }

    /// Tables that are to be identical, each with its columns and the columns of its key.
    async fn tables(&self) -> Result<BTreeMap<String, (String, String)>, DrillError> {
        // From PostgreSQL's own catalogue; only which tables are meant is asked of the pool.
        let sql = "-- dump::tables()
SELECT c.oid::regclass::text,
  (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
  (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute a
     JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey)
    WHERE a.attrelid = c.oid)
FROM kambana.watched w JOIN pg_class c ON c.oid = coalesce(to_regclass(quote_ident(w.tbl)), to_regclass(w.tbl)) ORDER BY 1";
        let rows = self.within(self.client.query(sql, &[])).await?;
        let table = |row: &tokio_postgres::Row| (row.get(0), (row.get(1), row.get(2)));
        Ok(rows.iter().map(table).collect())
    }

    /// Every row of a table, in the order of the key's text.
    async fn rows(&self, table: &str, columns: &str, key: &str) -> Result<RowStream, DrillError> {
        let sql = format!(
            "-- dump::rows()\nSELECT ROW({key})::text, ROW({columns})::text FROM {table} \
             ORDER BY ROW({key})::text COLLATE \"C\""
        );
        let none: [&str; 0] = [];
        self.within(self.client.query_raw(&sql, none)).await
    }

    async fn next(
        &self,
        stream: &mut std::pin::Pin<Box<RowStream>>,
    ) -> Result<Option<(String, String)>, DrillError> {
        let row = self.within(stream.try_next()).await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }
}

/// Compares every row of every watched table of `others` with those of `first`, both read in the order of the key, in
/// little memory whatever their size.
///
/// # Errors
/// A side does not answer, or the tables have not the same columns.
pub async fn unequal(first: &Asked, others: &[Asked]) -> Result<Vec<Unequal>, DrillError> {
    let tables = first.tables().await?;
    let mut found = Vec::new();
    for other in others {
        if other.tables().await? != tables {
            return Err(DrillError::Database(
                other.name.clone(),
                format!("its tables are not made as those of side {}", first.name),
            ));
        }
        for (table, (columns, key)) in &tables {
            let mut left = Box::pin(first.rows(table, columns, key).await?);
            let mut right = Box::pin(other.rows(table, columns, key).await?);
            let mut pair = (first.next(&mut left).await?, other.next(&mut right).await?);
            while found.len() < MOST_UNEQUAL {
                let step = merge(&pair.0, &pair.1);
                let (go_left, go_right) = match step {
                    Merge::End => break,
                    Merge::Equal => (true, true),
                    Merge::Unequal { left: l, right: r } => {
                        let image = |on: bool, row: &Option<(String, String)>| match on {
                            true => row.as_ref().map(|(_, image)| image.clone()),
                            false => None,
                        };
                        let key = if l { &pair.0 } else { &pair.1 };
                        found.push(Unequal {
                            table: table.clone(),
                            key: key.as_ref().map(|(key, _)| key.clone()).unwrap_or_default(),
                            images: [
                                (first.name.clone(), image(l, &pair.0)),
                                (other.name.clone(), image(r, &pair.1)),
                            ],
                        });
                        (l, r)
                    }
                };
                if go_left {
                    pair.0 = first.next(&mut left).await?;
                }
                if go_right {
                    pair.1 = other.next(&mut right).await?;
                }
            }
        }
    }
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
enum Merge {
    End,
    Equal,
    /// Which of the two hold this key.
    Unequal {
        left: bool,
        right: bool,
    },
}

/// What the next rows of two ordered lists, each a key and an image, say about each other.
fn merge(left: &Option<(String, String)>, right: &Option<(String, String)>) -> Merge {
    match (left, right) {
        (None, None) => Merge::End,
        (Some(_), None) => Merge::Unequal {
            left: true,
            right: false,
        },
        (None, Some(_)) => Merge::Unequal {
            left: false,
            right: true,
        },
        (Some((l, image)), Some((r, other))) => match (l.cmp(r), image == other) {
            (std::cmp::Ordering::Equal, true) => Merge::Equal,
            (order, _) => Merge::Unequal {
                left: order.is_le(),
                right: order.is_ge(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_lists_are_merged() {
        let row = |key: &str, image: &str| Some((key.to_owned(), image.to_owned()));
        let only = |left, right| Merge::Unequal { left, right };
        assert_eq!(merge(&None, &None), Merge::End);
        assert_eq!(merge(&row("1", "x"), &row("1", "x")), Merge::Equal);
        assert_eq!(merge(&row("1", "x"), &row("1", "y")), only(true, true));
        assert_eq!(merge(&row("1", "x"), &row("2", "x")), only(true, false));
        assert_eq!(merge(&row("3", "x"), &row("2", "x")), only(false, true));
        assert_eq!(merge(&row("3", "x"), &None), only(true, false));
        assert_eq!(merge(&None, &row("3", "x")), only(false, true));
    }
}
