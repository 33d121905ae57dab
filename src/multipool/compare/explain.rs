//! Why a row may differ between two snapshots of one moment: its change is written down as open in one of them.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;
use uuid::Uuid;

use super::At;
use crate::multipool::{PerSide, SideId};

/// With more open changes than this the whole table counts as explained; it is looked at again when they are fewer.
const MAX_OPEN: i64 = 200_000;

/// Open changes of a table: foreign writes, and what a side may lack of the pool's own. The row and its journal row are in
/// one snapshot, so nothing is open without its change.
const OPEN_SQL: &str = "-- compare::open()
SELECT j.key, j.old_key, j.kind::text, CASE WHEN j.lane <> 0 THEN j.op END FROM (
    SELECT j.* FROM kambana.journal AS j WHERE j.lane = 0 AND j.tbl = $1
    UNION ALL
    SELECT j.* FROM kambana.lane_settled AS l JOIN kambana.journal AS j ON j.lane = l.lane AND j.tbl = $1
        AND j.batch > (SELECT min(coalesce(l.confirmed[i], 0)) FROM generate_series(1, $2) AS i)
        WHERE NOT l.closed) AS j
LIMIT $3";

/// Keys of one table whose rows may differ.
#[derive(Debug, Default)]
pub(super) struct Explanations {
    keys: BTreeSet<String>,
    /// A truncate is on its way, or too much is.
    whole_table: bool,
}

impl Explanations {
    /// Whether a difference of this row is explained.
    pub fn explains(&self, key: &str) -> bool {
        !cfg!(mutant = "explain_nothing") && (self.whole_table || self.keys.contains(key))
    }

    /// Reads what is open in the snapshots of every side.
    pub async fn read(clients: &PerSide<Client>, table: &str) -> Result<Explanations, At> {
        let mut known = Explanations::default();
        // Changes of the pool that have not been confirmed everywhere are mostly there all the same.
        let mut doubtful: BTreeMap<Uuid, Vec<(String, Option<String>, String)>> = BTreeMap::new();
        let sides = clients.count() as i32;
        for (side, client) in clients.iter() {
            let rows = client
                .query(OPEN_SQL, &[&table, &sides, &MAX_OPEN])
                .await
                .map_err(|e| (side, e.into()))?;
            known.whole_table |= rows.len() as i64 == MAX_OPEN;
            for row in &rows {
                let change = (row.get(0), row.get(1), row.get(2));
                match row.get::<_, Option<Uuid>>(3) {
                    None => known.add(change),
                    Some(op) => doubtful.entry(op).or_default().push(change),
                }
            }
        }
        if !doubtful.is_empty() {
            let ops: Vec<Uuid> = doubtful.keys().copied().collect();
            for (side, client) in clients.iter() {
                for op in lacking(side, client, &ops).await? {
                    doubtful
                        .remove(&op)
                        .into_iter()
                        .flatten()
                        .for_each(|c| known.add(c));
                }
            }
        }
        Ok(known)
    }

    fn add(&mut self, (key, old_key, kind): (String, Option<String>, String)) {
        self.whole_table |= kind == "T";
        self.keys.insert(key);
        self.keys.extend(old_key);
    }
}

/// Which of these operations a side does not have.
async fn lacking(side: SideId, client: &Client, ops: &[Uuid]) -> Result<Vec<Uuid>, At> {
    let rows = client
        .query(
            "-- compare::lacking()\nSELECT u.op FROM unnest($1::uuid[]) AS u(op) \
             WHERE NOT EXISTS (SELECT FROM kambana.op AS o WHERE o.op = u.op)",
            &[&ops],
        )
        .await
        .map_err(|e| (side, e.into()))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
