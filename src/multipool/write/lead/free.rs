//! What surrounds the caller's own SQL in a lane's transaction: it is planned as the server plans for everybody, and may
//! write watched tables only.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use crate::multipool::connection::{Failure, Rejection};

/// Before statements of several callers: one that takes its time holds up the others, so it is cut off and runs after them.
pub(super) const BRIEFLY_AS_USUAL_SQL: &str = "SET LOCAL statement_timeout = '250ms'; SET LOCAL lock_timeout = '100ms'; \
    SET LOCAL plan_cache_mode TO DEFAULT; SET LOCAL enable_seqscan TO DEFAULT; \
    SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT";

/// What follows the caller's SQL is ours again, and planned by key.
pub(super) const BY_KEY_AGAIN_SQL: &str = "SET LOCAL statement_timeout TO DEFAULT; SET LOCAL lock_timeout TO DEFAULT; \
    SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off";

/// Constraints and triggers that were put off: what they refuse or write belongs to what is collected.
pub(super) const CHECK_NOW_SQL: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Rows written to tables that nobody captures, counted since some moment of this connection.
pub(super) const UNWATCHED_SQL: &str = "-- write::unwatched()
SELECT format('%I.%I', n.nspname, c.relname), s.written
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
    + pg_stat_get_xact_tuples_deleted(c.oid)) AS s(written)
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('kambana', 'information_schema')
  AND c.oid <> ALL (ARRAY(SELECT kambana.rel(w.tbl)::oid FROM kambana.watched AS w)) AND s.written > 0";

pub(super) fn refusal(sqlstate: &str, message: &str) -> Failure {
    Failure::Rejected(Rejection {
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
        constraint: None,
        column: None,
    })
}

/// Refuses what was written between two answers to [`UNWATCHED_SQL`]. The server's counters may still hold what an earlier
/// transaction of this connection did: only growth counts.
pub(super) fn only_watched(before: &[Row], after: &[Row]) -> Result<(), Failure> {
    let before: BTreeMap<String, i64> = before.iter().map(|row| (row.get(0), row.get(1))).collect();
    let written = after
        .iter()
        .map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1)))
        .find(|(table, count)| before.get(table).is_none_or(|before| before < count));
    match written {
        None => Ok(()),
        Some((table, _)) => Err(refusal(
            "0A000",
            &format!(
                "table {table} is not watched, so the other sides would not get this change; see `kambana watch`"
            ),
        )),
    }
}
