//! `kambana init` and `kambana watch`: the pool's own objects on every side, by an ordinary owner role.
//!
//! Both work on all sides in one open transaction each, compare the tables' contents, then commit. If we die between
//! two commits, running it again completes the side that is missing.

use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::{self, Catalog};
use super::connection::{Failure, connect_all, words};
use super::{ConnectError, PerSide, Reason, SideId, SideSet, compare, lineage, sequences, votes, watch};
use crate::config::PoolConfig;

/// Version of the objects in schema `kambana`.
pub(super) const SCHEMA_VERSION: i32 = 3;

/// The tables of it that grow with what is written.
pub(super) const GROWING: [&str; 4] = ["kambana.journal", "kambana.op", "kambana.lane", "kambana.settled"];

pub(super) const INSTALL_SQL: &str = include_str!("install.sql");

/// Who a side says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub side: String,
    pub lineage: Uuid,
    pub version: i32,
}

/// Installs the pool's objects on every side and watches `tables`. Safe to run again. Returns what was done, a
/// sentence a line.
///
/// # Errors
/// A side that does not answer, is the same database as another, belongs to another pool or place, has unsafe
/// settings, or whose tables differ from the first side's. Then nothing was changed on any side.
pub async fn install(config: &PoolConfig, tables: &[&str]) -> Result<Vec<String>, ConnectError> {
    let clients = connect_all(config).await.map_err(at)?;
    let mut done = Vec::new();
    let mut identities = Vec::new();
    for (side, client) in clients.iter() {
        if let Some(reason) = unsafe_settings(client).await.map_err(|f| at((side, f)))? {
            return Err(ConnectError(format!("side {side}: {reason}")));
        }
        identities.push(identity(client).await.map_err(|f| at((side, f)))?);
    }
    refuse_same_database(&clients).await?;
    let known = identities.iter().flatten().next().cloned();
    let lineage = known.as_ref().map_or_else(Uuid::new_v4, |i| i.lineage);
    for ((side, client), identity) in clients.iter().zip(&identities) {
        if let Some(identity) = identity {
            // What is older is made new below.
            let updated = Identity {
                version: identity.version.max(SCHEMA_VERSION),
                ..identity.clone()
            };
            if let Some(reason) = wrong_identity(&updated, side, lineage) {
                return Err(ConnectError(reason));
            }
            done.push(match identity.version == SCHEMA_VERSION {
                true => format!("side {side}: objects of the pool are there"),
                false => format!("side {side}: objects of the pool are those of this version now"),
            });
        }
        client
            .batch_execute("BEGIN")
            .await
            .map_err(|e| at((side, e.into())))?;
        client
            .batch_execute(INSTALL_SQL)
            .await
            .map_err(|e| at((side, e.into())))?;
        client
            .batch_execute("LOCK TABLE kambana.fence IN EXCLUSIVE MODE")
            .await
            .map_err(|e| at((side, e.into())))?;
        client
            .execute(
                "-- install::install()\nUPDATE kambana.identity SET version = $1 WHERE version < $1",
                &[&SCHEMA_VERSION],
            )
            .await
            .map_err(|e| at((side, e.into())))?;
    }
    let nobody_votes = votes::nobody_votes(&clients).await.map_err(at)?;
    let first_epoch = copy_epoch(&clients, &identities).await?;
    for ((side, client), identity) in clients.iter().zip(&identities) {
        if identity.is_none() {
            let mark = remembered_mark(&clients, side).await?;
            introduce(client, side, lineage, &first_epoch, mark)
                .await
                .map_err(|f| at((side, f)))?;
            done.push(format!("side {side}: schema kambana installed"));
        }
        votes::introduce(client, side, nobody_votes)
            .await
            .map_err(|f| at((side, f)))?;
        watch::watch(client, tables)
            .await
            .map_err(|e| ConnectError(format!("side {side}: {e}")))?;
        if let Some(reason) = sequences::refusal(client).await.map_err(|f| at((side, f)))? {
            return Err(ConnectError(format!("side {side}: {reason}")));
        }
        sequences::align(client, side, clients.count())
            .await
            .map_err(|f| at((side, f)))?;
    }
    let catalog = same_structure(&clients).await?;
    // A side that joins must hold what the others hold: catch-up brings only what is in the journal.
    if known.is_none() || identities.iter().any(Option::is_none) {
        refuse_different_rows(&clients, &catalog).await?;
    }
    for (side, client) in clients.iter() {
        client
            .batch_execute("COMMIT")
            .await
            .map_err(|e| at((side, e.into())))?;
        // An unanalysed, empty journal misleads the planner for a long time.
        client
            .batch_execute(&format!("ANALYZE {}", GROWING.join(", ")))
            .await
            .map_err(|e| at((side, e.into())))?;
    }
    for table in tables {
        done.push(format!("table {table} is watched on every side"));
    }
    Ok(done)
}

fn at((side, failure): (SideId, Failure)) -> ConnectError {
    ConnectError(format!("side {side}: {}", words(&failure)))
}

/// Settings with which an acknowledged commit can be lost.
pub(super) async fn unsafe_settings(client: &Client) -> Result<Option<String>, Failure> {
    let rows = client
        .query(
            "-- install::unsafe_settings()\nSELECT name::text, setting::text FROM pg_settings \
             WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'",
            &[],
        )
        .await?;
    Ok(rows.first().map(|row| {
        let name: String = row.get(0);
        format!(
            "the server runs with {name}=off, so a power cut could lose acknowledged writes; set {name}=on"
        )
    }))
}

/// A privilege on a watched table that our role does not have, with what to do.
pub(super) async fn lost_privilege(client: &Client) -> Result<Option<String>, Failure> {
    let row = client
        .query_opt(
            "-- install::lost_privilege()\nSELECT p, w.tbl, current_user::text FROM kambana.watched AS w, \
             unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p \
             WHERE NOT has_table_privilege(to_regclass('public.' || quote_ident(w.tbl)), p) ORDER BY 2, 1 LIMIT 1",
            &[],
        )
        .await?;
    Ok(row.map(|row| {
        let (privilege, table, role): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        format!(
            "role {role} has no privilege {privilege} on table {table}; as its owner: \
             GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"
        )
    }))
}

/// The identity row; `None` where the schema is not installed.
pub(super) async fn identity(client: &Client) -> Result<Option<Identity>, Failure> {
    let there: bool = client
        .query_one(
            "-- install::identity()\nSELECT to_regclass('kambana.identity') IS NOT NULL",
            &[],
        )
        .await?
        .get(0);
    if !there {
        return Ok(None);
    }
    let row = client
        .query_opt(
            "-- install::identity()\nSELECT side, lineage, version FROM kambana.identity",
            &[],
        )
        .await?;
    Ok(row.map(|row| Identity {
        side: row.get(0),
        lineage: row.get(1),
        version: row.get(2),
    }))
}

/// Why this identity does not belong at this place.
pub(super) fn wrong_identity(identity: &Identity, side: SideId, lineage: Uuid) -> Option<String> {
    let n = side.index() + 1;
    if identity.side != side.to_string() {
        Some(format!(
            "the database of DB{n}_* says it is side {}, not side {side}: the sides are swapped; exchange the DB*_ settings",
            identity.side
        ))
    } else if identity.lineage != lineage {
        Some(format!(
            "the database of side {side} belongs to another pool (lineage {}, the first side has {lineage}); check DB{n}_*; \
             if all of it may be overwritten: kambana rebuild {side} --replace",
            identity.lineage
        ))
    } else if identity.version != SCHEMA_VERSION {
        let todo = match identity.version < SCHEMA_VERSION {
            true => "stop every instance, run `kambana init` of this version, start them again",
            false => "this program is older than the one that wrote it: use that one",
        };
        Some(format!(
            "side {side} has version {} of schema kambana, this program needs {SCHEMA_VERSION}: {todo}",
            identity.version
        ))
    } else {
        None
    }
}

/// Two sides in one database would lock each other out and lose both copies at once.
async fn refuse_same_database(clients: &PerSide<Client>) -> Result<(), ConnectError> {
    // An advisory lock is seen by every session of one database and by no other.
    let nonce = (Uuid::new_v4().as_u128() as i64).abs();
    for (side, client) in clients.iter() {
        let alone: bool = client
            .query_one(
                "-- install::refuse_same_database()\nSELECT pg_try_advisory_lock($1)",
                &[&nonce],
            )
            .await
            .map_err(|e| at((side, e.into())))?
            .get(0);
        if !alone {
            return Err(ConnectError(format!(
                "side {side} is the same database as another side; every DB*_NAME/HOST/PORT must name a different one"
            )));
        }
    }
    for (side, client) in clients.iter() {
        client
            .execute(
                "-- install::refuse_same_database()\nSELECT pg_advisory_unlock($1)",
                &[&nonce],
            )
            .await
            .map_err(|e| at((side, e.into())))?;
    }
    Ok(())
}

/// The first epoch, or the one that an installed side is in.
pub(super) struct FirstEpoch {
    pub n: i64,
    pub parent: i64,
    pub members: SideSet,
}

async fn copy_epoch(
    clients: &PerSide<Client>,
    identities: &[Option<Identity>],
) -> Result<FirstEpoch, ConnectError> {
    let mut newest = FirstEpoch {
        n: 1,
        parent: 0,
        members: clients.all(),
    };
    for ((side, client), identity) in clients.iter().zip(identities) {
        if identity.is_none() {
            continue;
        }
        let row = client
            .query_one(
                "-- install::copy_epoch()\nSELECT n, parent, members FROM kambana.epoch",
                &[],
            )
            .await
            .map_err(|e| at((side, e.into())))?;
        if row.get::<_, i64>(0) >= newest.n {
            newest = FirstEpoch {
                n: row.get(0),
                parent: row.get(1),
                members: SideSet::from_mask(row.get(2)),
            };
        }
    }
    Ok(newest)
}

/// A mark above everything that any side remembers of this one.
async fn remembered_mark(clients: &PerSide<Client>, of: SideId) -> Result<i64, ConnectError> {
    let mut highest = 0;
    for (side, client) in clients.iter() {
        let row = client
            .query_opt(
                "-- install::remembered_mark()\nSELECT mark FROM kambana.mark WHERE side = $1",
                &[&of.to_string()],
            )
            .await
            .map_err(|e| at((side, e.into())))?;
        highest = row.map_or(0, |row| row.get::<_, i64>(0)).max(highest);
    }
    Ok(if highest > 0 { highest + lineage::JUMP } else { 0 })
}

/// Says on a side which one it is, and gives it a membership and a mark.
pub(super) async fn introduce(
    client: &Client,
    side: SideId,
    lineage: Uuid,
    epoch: &FirstEpoch,
    mark: i64,
) -> Result<(), Failure> {
    client
        .execute(
            "-- install::introduce()\nINSERT INTO kambana.mark AS m (side, mark) VALUES ($1, $2) \
             ON CONFLICT (side) DO UPDATE SET mark = EXCLUDED.mark",
            &[&side.to_string(), &mark],
        )
        .await?;
    client
        .execute(
            "-- install::introduce()\nINSERT INTO kambana.identity (side, lineage, version) VALUES ($1, $2, $3)",
            &[&side.to_string(), &lineage, &SCHEMA_VERSION],
        )
        .await?;
    client
        .execute(
            "-- install::introduce()\nINSERT INTO kambana.epoch (n, parent, members, generation, reason) \
             VALUES ($1, $2, $3, $4, $5)",
            &[
                &epoch.n,
                &epoch.parent,
                &epoch.members.mask(),
                &Uuid::new_v4(),
                &Reason::Installed.to_string(),
            ],
        )
        .await?;
    Ok(())
}

/// The catalogue, if every side has the same.
async fn same_structure(clients: &PerSide<Client>) -> Result<Catalog, ConnectError> {
    let mut first = None;
    let mut catalog = Catalog::new();
    for (side, client) in clients.iter() {
        let found = catalog::fingerprint(client).await.map_err(|f| at((side, f)))?;
        match &first {
            None => {
                catalog = catalog::load(client).await.map_err(|f| at((side, f)))?;
                first = Some(found);
            }
            Some(first) => {
                if let Some(difference) = catalog::difference(first, &found) {
                    return Err(ConnectError(format!(
                        "side {side}: {difference}; make the schemas equal"
                    )));
                }
            }
        }
    }
    Ok(catalog)
}

async fn refuse_different_rows(clients: &PerSide<Client>, catalog: &Catalog) -> Result<(), ConnectError> {
    let hashing = compare::hashing(clients).await.map_err(at)?;
    for table in catalog.values() {
        let mut first: Option<compare::Digests> = None;
        for (side, client) in clients.iter() {
            let found = compare::digests(client, table, hashing)
                .await
                .map_err(|f| at((side, f)))?;
            match &first {
                None => first = Some(found),
                Some(first) if *first != found => {
                    return Err(ConnectError(format!(
                        "table {} has other rows on side {side} ({}) than on the first side ({}); copy them first, \
                         for example: pg_dump --data-only -t {} FIRST | psql SECOND",
                        table.name,
                        compare::count(&found),
                        compare::count(first),
                        table.name
                    )));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}
