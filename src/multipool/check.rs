//! The background comparison: one instance at a time compares all tables now and then, and stores a certificate on every
//! side. A difference that nothing explains is told, never repaired by itself.
//!
//! If we die in the middle, the lease ends and another instance compares.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::compare::{Comparison, compare};
use super::connection::{Conn, Failure, words};
use super::inner::{Inner, lock};
use super::status::rfc3339;
use super::{Happened, SideFault, SideId};

/// How often it is looked whether a comparison is due.
const TICK: Duration = Duration::from_secs(1);

/// How long the right to compare lasts if the instance that has it dies.
const LEASE: &str = "10 min";

/// Certificates kept on every side.
const KEPT: i64 = 50;

/// Differing rows named in a certificate.
const NAMED: usize = 20;

/// A comparison must end, or the next one never begins.
const DEADLINE: Duration = Duration::from_secs(1800);

/// What the latest background comparison found, the same on every side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    /// When it was stored, by the leader's clock.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// The instance that compared.
    pub instance: String,
    /// The membership it was made in.
    pub epoch: i64,
    /// Number of tables.
    pub tables: i32,
    /// Rows of all tables.
    pub rows: i64,
    /// Of all rows, as on the leader.
    pub digest: String,
    /// Rows that differ and nothing explains it.
    pub differing: i64,
    /// Rows that were still on their way.
    pub explained: i64,
    /// The first differing rows.
    pub found: Vec<FoundDifference>,
    /// The longest time that writers had to wait, in milliseconds.
    pub pause_ms: f64,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// A differing row by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDifference {
    /// Its table.
    pub table: String,
    /// Record text of its key.
    pub key: String,
    /// The columns that differ.
    pub columns: Vec<String>,
}

/// What lies in the databases for a person to look at.
#[derive(Clone, Debug, Default)]
pub(super) struct Proof {
    pub certificate: Option<Certificate>,
    /// Conflicts that wait for a person.
    pub open_conflicts: i64,
    /// Changes that a side refuses.
    pub held: i64,
}

const PROOF_SQL: &str = "-- check::proof()
SELECT (SELECT count(*) FROM kambana.conflict WHERE state = 'open'), (SELECT count(*) FROM kambana.held),
    c.at, c.instance, c.epoch, c.tables, c.row_count, c.digest, c.differing, c.explained, c.found, c.pause_ms, c.took_ms
FROM (SELECT) AS one LEFT JOIN LATERAL (SELECT * FROM kambana.certificate ORDER BY at DESC LIMIT 1) AS c ON true";

/// Reads what is to be shown from the leader.
pub(super) async fn proof(inner: &Inner, leader: SideId) -> Result<(), Failure> {
    let conn = Conn::open(&inner.sides[leader].writes).await?;
    let row = conn.client()?.query_one(PROOF_SQL, &[]).await?;
    let certificate = row.get::<_, Option<SystemTime>>(2).map(|at| Certificate {
        at,
        instance: row.get(3),
        epoch: row.get(4),
        tables: row.get(5),
        rows: row.get(6),
        digest: row.get(7),
        differing: row.get(8),
        explained: row.get(9),
        found: serde_json::from_str(row.get(10)).unwrap_or_default(),
        pause_ms: row.get(11),
        took_ms: row.get(12),
    });
    *lock(&inner.proof) = Proof {
        certificate,
        open_conflicts: row.get(0),
        held: row.get(1),
    };
    Ok(())
}

impl Inner {
    /// Whether some change is held, asked of the leader now: what the status page shows may be a second old.
    pub async fn holds_changes(&self, epoch: &super::epoch::Epoch) -> bool {
        if let Some(leader) = epoch.members.leader()
            && let Ok(Err(failure)) =
                tokio::time::timeout(self.config.probe_deadline, proof(self, leader)).await
        {
            tracing::debug!(side = %leader, why = words(&failure), "held changes are not known");
        }
        lock(&self.proof).held > 0
    }
}

/// The named background task `check`.
pub(super) async fn run(inner: Arc<Inner>) {
    if inner.config.compare_every.is_zero() {
        return;
    }
    let mut last_failure = String::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = inner.closed() => return,
        }
        let members = inner.view().epoch.members;
        let Some(leader) = members.leader() else { continue };
        // A side that is out is no twin: when it is back it will be compared again.
        if members != inner.sides.all() || inner.well() != members {
            continue;
        }
        let checked = tokio::select! {
            checked = tokio::time::timeout(DEADLINE, check(&inner, leader)) =>
                checked.unwrap_or(Err(Failure::Side(SideFault::Silent))),
            (_, fault) = inner.trouble(members) => Err(Failure::Side(fault)),
            () = inner.closed() => return,
        };
        match checked {
            Ok(()) => last_failure.clear(),
            Err(failure) => {
                let text = words(&failure);
                if text != last_failure {
                    tracing::warn!(why = text, "the background comparison did not succeed");
                    last_failure = text;
                }
                tokio::select! {
                    () = tokio::time::sleep(TICK * 10) => {}
                    () = inner.closed() => return,
                }
            }
        }
    }
}

/// Compares, if it is due and nobody else does.
async fn check(inner: &Inner, leader: SideId) -> Result<(), Failure> {
    if !take_lease(inner, leader).await? {
        return Ok(());
    }
    let compared = compare(&inner.config).await;
    let stored = match &compared {
        // Something moved in the middle: what was found may be the move.
        Ok(comparison) if comparison.epoch == inner.view().epoch.n => store(inner, leader, comparison).await,
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Side(SideFault::Unfit(error.to_string()))),
    };
    release_lease(inner, leader).await?;
    stored
}

async fn take_lease(inner: &Inner, leader: SideId) -> Result<bool, Failure> {
    let conn = Conn::open(&inner.sides[leader].writes).await?;
    let sql = format!(
        "-- check::take_lease()\nINSERT INTO kambana.repair AS r (side, holder, until) \
         SELECT 'compare', $1, clock_timestamp() + interval '{LEASE}' WHERE NOT EXISTS ( \
           SELECT FROM kambana.certificate WHERE at > clock_timestamp() - make_interval(secs => $2)) \
         ON CONFLICT (side) DO UPDATE SET holder = EXCLUDED.holder, until = EXCLUDED.until WHERE r.until < clock_timestamp()"
    );
    let every = inner.config.compare_every.as_secs_f64();
    Ok(conn
        .client()?
        .execute(&sql, &[&inner.config.instance, &every])
        .await?
        == 1)
}

async fn release_lease(inner: &Inner, leader: SideId) -> Result<(), Failure> {
    let conn = Conn::open(&inner.sides[leader].writes).await?;
    conn.client()?
        .execute(
            "-- check::release_lease()\nDELETE FROM kambana.repair WHERE side = 'compare' AND holder = $1",
            &[&inner.config.instance],
        )
        .await?;
    Ok(())
}

/// Stores a certificate on every active side, the leader's clock on all of them.
async fn store(inner: &Inner, leader: SideId, comparison: &Comparison) -> Result<(), Failure> {
    let found: Vec<FoundDifference> = comparison
        .tables
        .iter()
        .flat_map(|table| {
            table.differences.iter().map(|difference| FoundDifference {
                table: table.table.clone(),
                key: difference.key.clone(),
                columns: difference.columns.clone(),
            })
        })
        .take(NAMED)
        .collect();
    if let Some(first) = found.first() {
        inner.event(Happened::Differing {
            rows: comparison.differing() as u64,
            first: format!("{} {} ({})", first.table, first.key, first.columns.join(", ")),
        });
    }
    let text = serde_json::to_string(&found).unwrap_or_default();
    let id = Uuid::now_v7();
    let mut at: Option<SystemTime> = None;
    let members = inner.view().epoch.members;
    for side in std::iter::once(leader).chain(members.iter().filter(|side| *side != leader)) {
        let conn = Conn::open(&inner.sides[side].writes).await?;
        let client = conn.client()?;
        let row = client
            .query_one(
                "-- check::store()\nINSERT INTO kambana.certificate (id, at, instance, epoch, tables, row_count, digest, \
                   differing, explained, found, pause_ms, took_ms) \
                 VALUES ($1, coalesce($2, clock_timestamp()), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING at",
                &[
                    &id,
                    &at,
                    &inner.config.instance,
                    &comparison.epoch,
                    &(comparison.tables.len() as i32),
                    &comparison.rows(),
                    &comparison.digest(),
                    &(comparison.differing() as i64),
                    &(comparison.explained() as i64),
                    &text,
                    &comparison.pause_ms,
                    &comparison.took_ms,
                ],
            )
            .await?;
        at = Some(row.get(0));
        client
            .execute(
                "-- check::trim()\nDELETE FROM kambana.certificate WHERE id NOT IN ( \
                 SELECT id FROM kambana.certificate ORDER BY at DESC LIMIT $1)",
                &[&KEPT],
            )
            .await?;
    }
    proof(inner, leader).await
}
