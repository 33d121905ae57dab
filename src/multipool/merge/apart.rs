//! Copying keys so that one that cannot be written holds up no other.
//!
//! All keys go in one piece behind a savepoint. Only when that fails are the bad ones looked for: first those that
//! somebody has locked, in one question; then by halves. Everything happens in the transactions of the merge, under its
//! fences: the search has a time limit, and what it did not reach stays open for the next merge.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::copy::{Keys, copy};
use super::held::MANY;
use crate::multipool::SideId;
use crate::multipool::catalog::{Catalog, Table, ident, key_type};
use crate::multipool::connection::{Failure, Repeat, words};

/// How long writers may wait for the search for bad keys.
const SEARCH: Duration = Duration::from_millis(250);

/// How long a copy waits for the row lock of a foreign session before the row is held.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '30ms'";

/// A key that the other side refuses.
#[derive(Clone, Debug)]
pub(super) struct Stuck {
    pub table: String,
    /// Empty: the whole table.
    pub key: String,
    pub reason: String,
    pub locked: bool,
}

/// How a copy ended.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub rows: u64,
    pub stuck: Vec<Stuck>,
    /// Keys that were not reached in time.
    pub untried: Vec<(String, String)>,
}

impl Copied {
    /// Whether a key was not copied.
    pub fn lacks(&self, table: &str, key: &str) -> bool {
        self.stuck
            .iter()
            .any(|s| s.table == table && (s.key == key || s.key.is_empty()))
            || self.untried.iter().any(|(t, k)| t == table && k == key)
    }

    /// Whether any key of a table was not copied.
    pub fn lacks_some_of(&self, table: &str) -> bool {
        self.stuck.iter().any(|s| s.table == table) || self.untried.iter().any(|(t, _)| t == table)
    }
}

type One<'k> = (&'k str, &'k str);

type At = (SideId, Failure);

/// The two sides of a copy, with the clients whose transactions hold the fences.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    pub catalog: &'a Catalog,
    pub from: (SideId, &'a Client),
    pub to: (SideId, &'a Client),
}

/// Copies `keys`; those of `alone` one by one, after the others.
pub(super) async fn copy_apart(
    path: Path<'_>,
    keys: &Keys,
    alone: &BTreeSet<(String, String)>,
) -> Result<Copied, (SideId, Failure)> {
    let until = Instant::now() + SEARCH;
    let is_alone = |(table, key): &One<'_>| {
        let listed = |key: &str| alone.contains(&((*table).to_owned(), key.to_owned()));
        listed(key) || listed("")
    };
    let all = keys
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| (table.as_str(), key.as_str())));
    let (single, together): (Vec<One<'_>>, Vec<One<'_>>) = all.partition(is_alone);
    let mut done = Copied::default();
    if !together.is_empty() {
        search(path, together, until, &mut done).await?;
    }
    let pieces = single.into_iter().map(|one| vec![one]).collect();
    halve(path, pieces, until, &mut done).await?;
    hold_tables(&mut done);
    Ok(done)
}

/// One piece first; then without what is locked; then by halves.
async fn search(
    path: Path<'_>,
    mut keys: Vec<One<'_>>,
    until: Instant,
    done: &mut Copied,
) -> Result<(), (SideId, Failure)> {
    let (at, failure) = match attempt(path, &keys).await? {
        Ok(rows) => {
            done.rows += rows;
            return Ok(());
        }
        Err(failure) => failure,
    };
    tracing::debug!(%at, why = words(&failure), keys = keys.len(), "looking for keys that cannot be written");
    if matches!(failure, Failure::Repeat(Repeat::Locked)) {
        let locked = locked(path, &keys).await?;
        let (bad, good): (Vec<Stuck>, Vec<One<'_>>) =
            keys.into_iter()
                .fold((vec![], vec![]), |(mut bad, mut good), one| {
                    match locked
                        .iter()
                        .any(|s| s.table == one.0 && (s.key == one.1 || s.key.is_empty()))
                    {
                        true => bad.extend(
                            locked
                                .iter()
                                .find(|s| s.table == one.0 && s.key == one.1)
                                .cloned(),
                        ),
                        false => good.push(one),
                    }
                    (bad, good)
                });
        done.stuck.extend(bad);
        done.stuck.extend(locked.into_iter().filter(|s| s.key.is_empty()));
        keys = good;
    }
    halve(path, vec![keys], until, done).await
}

/// Tries pieces, and halves of those that fail.
async fn halve(
    path: Path<'_>,
    mut pieces: Vec<Vec<One<'_>>>,
    until: Instant,
    done: &mut Copied,
) -> Result<(), (SideId, Failure)> {
    pieces.reverse();
    let mut failed: Vec<(One<'_>, (SideId, Failure))> = Vec::new();
    while let Some(mut piece) = pieces.pop() {
        if piece.is_empty() {
            continue;
        }
        if Instant::now() >= until {
            let late = piece
                .iter()
                .map(|(table, key)| ((*table).to_owned(), (*key).to_owned()));
            done.untried.extend(late);
            continue;
        }
        match attempt(path, &piece).await? {
            Ok(rows) => done.rows += rows,
            Err(failure) if piece.len() == 1 => failed.push((piece[0], failure)),
            Err(_) => {
                let second = piece.split_off(piece.len() / 2);
                pieces.extend([second, piece]);
            }
        }
    }
    // A row may have waited for one that came later (a value given up, a referenced row).
    let mut progress = failed.len() > 1;
    while progress && Instant::now() < until {
        let before = failed.len();
        for (one, _) in std::mem::take(&mut failed) {
            match attempt(path, &[one]).await? {
                Ok(rows) => done.rows += rows,
                Err(failure) => failed.push((one, failure)),
            }
        }
        progress = failed.len() < before && !failed.is_empty();
    }
    done.stuck
        .extend(failed.into_iter().map(|((table, key), (at, failure))| {
            let locked = matches!(failure, Failure::Repeat(_));
            let reason = match locked {
                true => format!("another program holds a lock on it on side {at}"),
                false => format!("side {at} refuses it: {}", words(&failure)),
            };
            Stuck {
                table: table.to_owned(),
                key: key.to_owned(),
                reason,
                locked,
            }
        }));
    Ok(())
}

/// A table with very many bad rows is held as a whole.
fn hold_tables(done: &mut Copied) {
    let tables: BTreeSet<String> = done.stuck.iter().map(|s| s.table.clone()).collect();
    for table in tables {
        let bad: Vec<&Stuck> = done.stuck.iter().filter(|s| s.table == table).collect();
        if bad.len() > MANY {
            let reason = format!("{} rows of this table, the first: {}", bad.len(), bad[0].reason);
            let locked = bad.iter().all(|s| s.locked);
            done.stuck.retain(|s| s.table != table);
            done.stuck.push(Stuck {
                table,
                key: String::new(),
                reason,
                locked,
            });
        }
    }
}

async fn run(side: SideId, client: &Client, sql: &str) -> Result<(), At> {
    client.batch_execute(sql).await.map_err(|e| (side, e.into()))
}

/// Copies some keys, or nothing of them. The outer error is the side's.
async fn attempt(path: Path<'_>, keys: &[One<'_>]) -> Result<Result<u64, At>, At> {
    let ((source, from), (target, to)) = (path.from, path.to);
    let begin = format!("SAVEPOINT apart; {LOCK_WAIT}");
    for (side, client) in [(source, from), (target, to)] {
        run(side, client, &begin).await?;
    }
    let mut of_table = Keys::new();
    for (table, key) in keys {
        of_table
            .entry((*table).to_owned())
            .or_default()
            .insert((*key).to_owned());
    }
    let copied = async {
        let rows = copy(path.catalog, path.from, path.to, &of_table).await?;
        // What is checked late must fail here, not at COMMIT.
        run(target, to, "SET CONSTRAINTS ALL IMMEDIATE").await?;
        Ok(rows)
    };
    let end = match copied.await {
        Ok(rows) => Ok(rows),
        Err((side, failure @ Failure::Side(_))) => return Err((side, failure)),
        Err(refused) => Err(refused),
    };
    let sql = match end {
        Ok(_) => "RELEASE SAVEPOINT apart",
        Err(_) => "ROLLBACK TO SAVEPOINT apart; RELEASE SAVEPOINT apart",
    };
    for (side, client) in [(source, from), (target, to)] {
        run(side, client, sql).await?;
    }
    Ok(end)
}

/// The keys whose rows somebody has locked on the target; a table that is locked itself has the empty key.
async fn locked(path: Path<'_>, keys: &[One<'_>]) -> Result<Vec<Stuck>, (SideId, Failure)> {
    let (target, to) = path.to;
    let at = |e: tokio_postgres::Error| (target, Failure::from(e));
    let tables: BTreeSet<&str> = keys.iter().map(|(table, _)| *table).collect();
    let mut stuck = Vec::new();
    for name in tables {
        let Some(table) = path.catalog.get(name) else {
            continue;
        };
        let of_table: Vec<&str> = keys.iter().filter(|(t, _)| *t == name).map(|(_, k)| *k).collect();
        to.batch_execute(&format!("SAVEPOINT locked; {LOCK_WAIT}"))
            .await
            .map_err(at)?;
        let asked = to.query(&locked_sql(table), &[&of_table]).await;
        let reason = format!("another program holds a lock on it on side {target}");
        let held = |key: String| Stuck {
            table: name.to_owned(),
            key,
            reason: reason.clone(),
            locked: true,
        };
        match asked.map_err(Failure::from) {
            Ok(rows) => stuck.extend(rows.iter().map(|row| held(row.get(0)))),
            Err(failure @ Failure::Side(_)) => return Err((target, failure)),
            Err(_) => stuck.push(held(String::new())),
        }
        to.batch_execute("ROLLBACK TO SAVEPOINT locked; RELEASE SAVEPOINT locked")
            .await
            .map_err(at)?;
    }
    Ok(stuck)
}

/// Keys (`$1 text[]`) whose rows are there but cannot be locked at once.
fn locked_sql(table: &Table) -> String {
    let on = |left: &str, right: &str| {
        let same = |k: &String| format!("{left}.{0} = {right}.{0}", ident(k));
        table.key.iter().map(same).collect::<Vec<_>>().join(" AND ")
    };
    let key: Vec<String> = table.key.iter().map(|k| format!("t.{}", ident(k))).collect();
    let key = format!("ROW({})::{}::text", key.join(", "), key_type(&table.name));
    let from = format!(
        "{} AS t JOIN (SELECT (u.key::{}).* FROM unnest($1::text[]) AS u(key)) AS k ON {}",
        table.ident,
        key_type(&table.name),
        on("t", "k")
    );
    format!(
        "-- merge::locked()\nWITH free AS MATERIALIZED (SELECT {key} AS key FROM {from} FOR UPDATE OF t SKIP LOCKED) \
         SELECT {key} FROM {from} EXCEPT SELECT key FROM free"
    )
}
