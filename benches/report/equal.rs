//! Whether the copies of a system hold the same rows: plain SQL, none of the code that is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use kambana::local::Patience;
use tokio_postgres::Client;

use crate::meter::Database;
use crate::work::ROWS;

/// A standby may still be applying what it has received and acknowledged.
const PATIENCE: Duration = Duration::from_secs(20);

/// Number and digest of the rows of each table; the order of the rows does not matter.
type Contents = BTreeMap<&'static str, (i64, String)>;

const TABLES: [&str; 3] = ["items", "php_session", "servers"];

/// Which rows were to be there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inserted {
    /// Inserts that were acknowledged.
    pub acknowledged: u64,
    /// Inserts without a good answer: they may be there or not.
    pub doubtful: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether all copies are equal and hold every acknowledged row.
    pub well: bool,
    /// For people.
    pub what: String,
}

/// Compares every table of every copy.
pub async fn verdict(databases: &[Database], inserted: Inserted) -> Result<Verdict> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        let mut all = Vec::new();
        for database in databases {
            all.push(contents(database.client()).await?);
        }
        let equal = all.windows(2).all(|pair| pair[0] == pair[1]);
        if equal || !patience.pause().await {
            return Ok(judge(databases, &all, inserted));
        }
    }
}

/// Compares every table of every copy, whatever was to be in it.
pub async fn same(databases: &[Database]) -> Result<Verdict> {
    let mut all = Vec::new();
    for database in databases {
        all.push(contents(database.client()).await?);
    }
    let mut what = Vec::new();
    differences(&all, &mut what);
    Ok(said(&all, what))
}

fn judge(databases: &[Database], all: &[Contents], inserted: Inserted) -> Verdict {
    let mut what = Vec::new();
    differences(all, &mut what);
    let least = i64::from(ROWS) + inserted.acknowledged as i64;
    let most = least + inserted.doubtful as i64;
    for (database, contents) in databases.iter().zip(all) {
        let found = contents["items"].0;
        if found < least || found > most {
            what.push(format!(
                "{} holds {found} items; {least} were acknowledged",
                database.name
            ));
        }
    }
    said(all, what)
}

fn differences(all: &[Contents], what: &mut Vec<String>) {
    for pair in all.windows(2) {
        for table in TABLES {
            if pair[0][table] != pair[1][table] {
                what.push(format!(
                    "{table} differs: {} rows on one copy, {} on the next",
                    pair[0][table].0, pair[1][table].0
                ));
            }
        }
    }
}

fn said(all: &[Contents], what: Vec<String>) -> Verdict {
    Verdict {
        well: what.is_empty(),
        what: match what.is_empty() {
            true => format!("{} copies, {} items each", all.len(), all[0]["items"].0),
            false => what.join("; "),
        },
    }
}

async fn contents(client: &Client) -> Result<Contents> {
    let mut contents = Contents::new();
    for table in TABLES {
        let sql = format!(
            "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} AS t"
        );
        let row = client.query_one(&sql, &[]).await?;
        contents.insert(table, (row.get(0), row.get(1)));
    }
    Ok(contents)
}
