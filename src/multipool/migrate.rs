//! One script of DDL on every side, or on none.
//!
//! Every side runs it in one transaction, under the fences of all; the captures of the watched tables are made anew, the
//! structures and the rows are compared, and a counter beside the epoch is moved: an instance that has not read the new
//! structure cannot write any more, and reads it before it goes on. Then COMMIT on all sides at once.
//!
//! If we die before the first COMMIT, nothing has happened anywhere. Between the commits there is no promise: a side whose
//! COMMIT failed or is unknown has the old structure and is left out until it is given the new one.

mod script;

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::{self, Fingerprint};
use super::compare::{count, digests, hashing};
use super::connection::{Failure, connect_all, words};
use super::epoch::{self, Epoch};
use super::{ConnectError, PerSide, SideFault, SideId, sequences, watch};
use crate::config::PoolConfig;
use script::Script;

/// How long the fences are tried for.
const FENCE_PATIENCE: Duration = Duration::from_secs(30);

/// Writers wait while the script runs: a lock that it does not get by then ends it. A COMMIT that is not answered by then is
/// unknown.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '10min'";
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);

type At = (SideId, Failure);

fn say((side, failure): At) -> ConnectError {
    ConnectError(format!(
        "side {side}: {}; nothing was changed on any side",
        words(&failure)
    ))
}

fn refuse(why: impl std::fmt::Display) -> ConnectError {
    ConnectError(format!("{why}; nothing was changed on any side"))
}

/// Runs the script in `file` on every side, or on none. `dry_run`: rolls back at the end. Returns what was done, a sentence
/// a line.
///
/// # Errors
/// What a side refused, what cannot be run in one transaction, sides that would differ: then nothing was changed. And a
/// COMMIT whose outcome is not known, with what to do.
pub async fn migrate(config: &PoolConfig, file: &Path, dry_run: bool) -> Result<Vec<String>, ConnectError> {
    let sql = std::fs::read_to_string(file).map_err(|e| refuse(format!("{}: {e}", file.display())))?;
    let script = Script::read(&sql);
    if let Some(why) = script.refusal() {
        return Err(refuse(why));
    }
    let clients = connect_all(config).await.map_err(say)?;
    let began = Instant::now();
    let prepared = prepare(&clients, &sql, &script).await;
    let mut done = match prepared {
        Ok(done) if !dry_run => done,
        other => {
            on_all(&clients, "ROLLBACK").await.map_err(say)?;
            let mut done = other?;
            done.push("dry run: rolled back on every side".into());
            return Ok(done);
        }
    };
    commit(&clients).await?;
    let waited = began.elapsed().as_millis();
    done.push(format!(
        "committed on every side; writes waited for at most {waited} ms"
    ));
    Ok(done)
}

/// Everything up to the first COMMIT.
async fn prepare(clients: &PerSide<Client>, sql: &str, script: &Script) -> Result<Vec<String>, ConnectError> {
    take_fences(clients).await.map_err(say)?;
    let epoch = same_epoch(clients).await?;
    let before = fingerprints(clients).await.map_err(say)?;
    let token = Uuid::new_v4().to_string();
    let begin = format!(
        "{LOCK_TIMEOUT}; SELECT set_config('kambana.migration', '{token}', true), set_config('kambana.apply', 'on', true)"
    );
    on_all(clients, &begin).await.map_err(say)?;
    // One side after the other: the first to refuse spares the others.
    for (side, client) in clients.iter() {
        client
            .batch_execute(sql)
            .await
            .map_err(|e| say((side, e.into())))?;
        let row = client
            .query_one(
                "-- migrate::same_transaction()\nSELECT current_setting('kambana.migration', true)",
                &[],
            )
            .await
            .map_err(|e| say((side, e.into())))?;
        if row.get::<_, Option<String>>(0).as_deref() != Some(&token) {
            return Err(ConnectError(format!(
                "the script ended its transaction on side {side} in a way that was not seen before; look at that side"
            )));
        }
    }
    let mut done = Vec::new();
    let after = refresh_capture(clients, &before, &mut done).await?;
    let changed: Vec<&String> = after
        .iter()
        .filter(|(table, s)| before.get(*table) != Some(s))
        .map(|(t, _)| t)
        .collect();
    for (side, client) in clients.iter() {
        if let Some(reason) = sequences::refusal(client).await.map_err(|f| say((side, f)))? {
            return Err(refuse(format!("side {side}: {reason}")));
        }
        sequences::align(client, side, clients.count())
            .await
            .map_err(|f| say((side, f)))?;
    }
    same_rows(clients, |table| {
        script.changes_rows() || changed.iter().any(|t| *t == table)
    })
    .await?;
    // From now on a writer that has not read the new structure is refused on the leader.
    on_all(clients, "UPDATE kambana.epoch SET structure = structure + 1")
        .await
        .map_err(say)?;
    done.push(format!("the script ran on sides {}", epoch.members));
    Ok(done)
}

/// Begins a transaction on every side and takes all fences, at once, as a writer does.
async fn take_fences(clients: &PerSide<Client>) -> Result<(), At> {
    let until = Instant::now() + FENCE_PATIENCE;
    loop {
        let taken = on_all(
            clients,
            "BEGIN; SET LOCAL lock_timeout = '200ms'; LOCK TABLE kambana.fence IN EXCLUSIVE MODE",
        )
        .await;
        match taken {
            Ok(()) => return Ok(()),
            Err((_, Failure::Repeat(_))) if Instant::now() < until => {}
            Err(failure) => return Err(failure),
        }
        on_all(clients, "ROLLBACK").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The membership, if every side is active in it.
async fn same_epoch(clients: &PerSide<Client>) -> Result<Epoch, ConnectError> {
    let mut first: Option<Epoch> = None;
    for (side, client) in clients.iter() {
        let found = epoch::read(client).await.map_err(|f| say((side, f)))?;
        if found.members != clients.all() || first.is_some_and(|first| !first.same_as(&found)) {
            return Err(refuse(format!(
                "not every side is active (side {side} is in epoch {} with members {}); a side that is out would return with \
                 other tables; bring it back first",
                found.n, found.members
            )));
        }
        first = Some(found);
    }
    first.ok_or_else(|| refuse("there is no side"))
}

async fn fingerprints(clients: &PerSide<Client>) -> Result<Fingerprint, At> {
    let mut first = None;
    for (side, client) in clients.iter() {
        let found = catalog::fingerprint(client).await.map_err(|f| (side, f))?;
        first.get_or_insert(found);
    }
    Ok(first.unwrap_or_default())
}

/// Makes the captures of all watched tables fit again and compares the structures. Returns the new one.
async fn refresh_capture(
    clients: &PerSide<Client>,
    before: &Fingerprint,
    done: &mut Vec<String>,
) -> Result<Fingerprint, ConnectError> {
    let mut first: Option<Fingerprint> = None;
    for (side, client) in clients.iter() {
        let tables: Vec<&str> = before.keys().map(String::as_str).collect();
        watch::watch(client, &tables)
            .await
            .map_err(|e| refuse(format!("side {side}: {e}")))?;
        let found = catalog::fingerprint(client).await.map_err(|f| say((side, f)))?;
        if let Some((table, _)) = found.iter().find(|(_, structure)| structure.is_none()) {
            return Err(refuse(format!(
                "side {side}: table {table} would not be captured any more"
            )));
        }
        match &first {
            None => first = Some(found),
            Some(first) => {
                if let Some(difference) = catalog::difference(first, &found) {
                    return Err(refuse(format!(
                        "after the script side {side} would differ: {difference}"
                    )));
                }
            }
        }
    }
    let after = first.unwrap_or_default();
    for (table, structure) in &after {
        if before.get(table) != Some(structure) {
            done.push(format!("table {table} has changed; its capture was made anew"));
        }
    }
    Ok(after)
}

/// A default of `now()` or `random()` gives every side other values.
async fn same_rows(clients: &PerSide<Client>, concerned: impl Fn(&str) -> bool) -> Result<(), ConnectError> {
    let Some((_, client)) = clients.iter().next() else {
        return Ok(());
    };
    let tables = catalog::load(client).await.map_err(|f| refuse(words(&f)))?;
    let hashing = hashing(clients).await.map_err(say)?;
    for table in tables.values().filter(|table| concerned(&table.name)) {
        let asked = clients.iter().map(|(side, client)| async move {
            let found = digests(client, table, hashing).await;
            found.map_err(|f| (side, f))
        });
        let found = try_join_all(asked).await.map_err(say)?;
        if found.iter().any(|digests| *digests != found[0]) {
            let counts: Vec<String> = found.iter().map(|digests| count(digests).to_string()).collect();
            return Err(refuse(format!(
                "the rows of {} would differ between the sides ({} rows); does the script use now(), random() or a sequence, or is \
                 a foreign write on its way? Add the column without such a default, then fill it through the pool",
                table.name,
                counts.join(" and ")
            )));
        }
    }
    Ok(())
}

/// COMMIT on all sides at once; a side that has not said yes is named with what to do.
async fn commit(clients: &PerSide<Client>) -> Result<(), ConnectError> {
    let commits = clients.iter().map(|(side, client)| async move {
        let sent = tokio::time::timeout(COMMIT_DEADLINE, client.batch_execute("COMMIT")).await;
        let failure = match sent {
            Ok(Ok(())) => return (side, None),
            Ok(Err(error)) => error.into(),
            Err(_) => Failure::Side(SideFault::Silent),
        };
        (side, Some(failure))
    });
    let answers = join_all(commits).await;
    let (yes, no): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, failure)| failure.is_none());
    if no.is_empty() {
        return Ok(());
    }
    let yes: Vec<String> = yes.iter().map(|(side, _)| side.to_string()).collect();
    let no: Vec<String> = no
        .iter()
        .filter_map(|(side, failure)| Some(format!("side {side}: {}", words(failure.as_ref()?))))
        .collect();
    Err(ConnectError(match yes.is_empty() {
        true => format!(
            "no side is known to have committed ({}); run `kambana status`, look at each side, and run the script again if \
                         no side has it",
            no.join("; ")
        ),
        false => format!(
            "committed on side {}, not known of the others ({}); a side without it is left out until you run the script there with \
             psql, then `kambana watch` for the tables it changed",
            yes.join(", "),
            no.join("; ")
        ),
    }))
}

async fn on_all(clients: &PerSide<Client>, sql: &str) -> Result<(), At> {
    let sent = clients.iter().map(|(side, client)| async move {
        client
            .batch_execute(sql)
            .await
            .map_err(|e| (side, Failure::from(e)))
    });
    join_all(sent).await.into_iter().collect()
}
