//! `kambana init` and `kambana watch`: the pool's own objects on every side, by an ordinary owner role.
//!
//! Both work on all sides in one open transaction each, compare the tables' contents, then commit. If we die between
//! two commits, running it again completes the side that is missing.

use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::{self, Catalog, ident, literal};
use super::connection::{Failure, connect_all, words};
use super::{ConnectError, PerSide, SideId, SideSet, compare, lineage, sequences, votes};
use crate::config::PoolConfig;

/// Version of the objects in schema `kambana`.
pub(super) const SCHEMA_VERSION: i32 = 1;

pub(super) const INSTALL_SQL: &str = include_str!("install.sql");
const WATCH_SQL: &str = include_str!("watch.sql");

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
            if let Some(reason) = wrong_identity(identity, side, lineage) {
                return Err(ConnectError(reason));
            }
            done.push(format!("side {side}: objects of the pool are there"));
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
        for table in tables {
            watch_on(client, table)
                .await
                .map_err(|e| ConnectError(format!("side {side}: {e}")))?;
        }
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
            .batch_execute("ANALYZE kambana.journal, kambana.op, kambana.lane")
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
        Some(format!(
            "side {side} has version {} of schema kambana, this program needs {SCHEMA_VERSION}",
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
             VALUES ($1, $2, $3, $4, 'installed')",
            &[&epoch.n, &epoch.parent, &epoch.members.mask(), &Uuid::new_v4()],
        )
        .await?;
    Ok(())
}

/// Why a table cannot be watched, or what it is made of.
pub(super) async fn watch_on(client: &Client, name: &str) -> Result<(), String> {
    if name.len() > 50 {
        return Err(format!(
            "table `{name}`: names longer than 50 bytes are not supported"
        ));
    }
    let say = |f: tokio_postgres::Error| words(&f.into());
    let row = client
        .query_opt(
            "-- install::watch_on()
             SELECT c.relkind = 'r' AND NOT c.relispartition
                      AND NOT EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent)),
                    pg_has_role(c.relowner, 'USAGE'),
                    i.indexrelid IS NOT NULL, coalesce(i.indimmediate, true),
                    (SELECT string_agg(t.tgname, ', ') FROM pg_trigger t
                      WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname NOT LIKE '!kambana%'),
                    current_user::text,
                    (SELECT string_agg(k.conname, ', ') FROM pg_constraint k
                      WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid)),
                    (SELECT string_agg(x.indexrelid::regclass::text, ', ') FROM pg_index x
                      WHERE x.indrelid = c.oid AND x.indisunique AND NOT x.indisprimary)
             FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
             WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace",
            &[&name],
        )
        .await
        .map_err(say)?;
    let Some(row) = row else {
        return Err(format!(
            "table `{name}` is missing in schema public; apply schema.sql first"
        ));
    };
    let (ordinary, owner, keyed, immediate): (bool, bool, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let refusal = if !ordinary {
        Some("is not an ordinary table (partitioned, inherited, a view or foreign)".to_owned())
    } else if !owner {
        Some("belongs to another role; the pool's role must own the tables it watches".to_owned())
    } else if !keyed {
        Some("has no primary key, so its rows cannot be told apart".to_owned())
    } else if !immediate {
        Some("has a deferrable primary key, which ON CONFLICT cannot use".to_owned())
    } else if let Some(names) = row.get::<_, Option<String>>(6) {
        Some(format!(
            "has foreign keys ({names}), whose order a returning side could not follow yet"
        ))
    } else if let Some(names) = row.get::<_, Option<String>>(7) {
        Some(format!(
            "has unique indexes beside its primary key ({names}); rows that exchange their values while a side is \
             away could not be brought there yet"
        ))
    } else {
        row.get::<_, Option<String>>(4).map(|names| {
            format!("has triggers of its own ({names}), which would run once more on every other side")
        })
    };
    if let Some(reason) = refusal {
        return Err(format!("table `{name}` {reason}"));
    }
    let unchanged = client
        .query_one(
            "-- install::watch_on()\nSELECT count(*) FROM kambana.watched WHERE tbl = $1",
            &[&name],
        )
        .await
        .map_err(say)?
        .get::<_, i64>(0)
        == 1
        && !capture_is_stale(client, name).await.map_err(|f| words(&f))?;
    if unchanged {
        return Ok(());
    }
    client
        .execute(
            "-- install::watch_on()\nINSERT INTO kambana.watched (tbl) VALUES ($1) ON CONFLICT DO NOTHING",
            &[&name],
        )
        .await
        .map_err(say)?;
    let catalog = catalog::load(client).await.map_err(|f| words(&f))?;
    let Some(table) = catalog.get(name) else {
        return Err(format!("table `{name}` could not be read from the catalogue"));
    };
    client
        .batch_execute(&watch_sql(table, row.get(5)))
        .await
        .map_err(say)
}

/// Whether the table's columns are no longer those of its image type.
async fn capture_is_stale(client: &Client, name: &str) -> Result<bool, Failure> {
    let row = client
        .query_one(
            "-- install::capture_is_stale()
             SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgname = '!kambana')
                 OR (SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attname COLLATE \"C\")
                     FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '')
                 IS DISTINCT FROM
                    (SELECT array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) ORDER BY attname COLLATE \"C\")
                     FROM pg_attribute WHERE attrelid = to_regclass($2) AND attnum > 0 AND NOT attisdropped)
             FROM pg_class c WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace",
            &[&name, &catalog::row_type(name)],
        )
        .await?;
    Ok(row.get(0))
}

fn watch_sql(table: &catalog::Table, owner: &str) -> String {
    let each = |columns: &mut dyn Iterator<Item = &str>, prefix: &str| {
        columns
            .map(|c| format!("{prefix}{}", ident(c)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let all = || table.columns.iter().map(|c| c.name.as_str());
    let key = || table.key.iter().map(String::as_str);
    let typed = |columns: &mut dyn Iterator<Item = &str>| {
        columns
            .filter_map(|c| table.column(c))
            .map(|c| format!("{} {}", ident(&c.name), c.sql_type))
            .collect::<Vec<_>>()
            .join(", ")
    };
    WATCH_SQL
        .replace("{table}", &table.ident)
        .replace("{capture}", &ident(&format!("capture_{}", table.name)))
        .replace(
            "{row_type}",
            catalog::row_type(&table.name).trim_start_matches("kambana."),
        )
        .replace(
            "{key_type}",
            catalog::key_type(&table.name).trim_start_matches("kambana."),
        )
        .replace("{row_columns}", &typed(&mut all()))
        .replace("{key_columns}", &typed(&mut key()))
        .replace("{old_key_values}", &each(&mut key(), "OLD."))
        .replace("{new_key_values}", &each(&mut key(), "NEW."))
        .replace("{new_values}", &each(&mut all(), "NEW."))
        .replace("{owner}", &literal(owner))
        .replace("{name}", &literal(&table.name))
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
    for table in catalog.values() {
        let mut first: Option<compare::Digests> = None;
        for (side, client) in clients.iter() {
            let found = compare::digests(client, table).await.map_err(|f| at((side, f)))?;
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
