//! Conflicts of a merge: both images of every row that gave way, the same on both sides.
//!
//! They are written in both transactions of the merge; if we die between its two commits, one side has rows that the
//! other lacks, and the next merge gives them to both.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio_postgres::Client;
use uuid::Uuid;

use super::clash::Reason;
use super::copy::images;
use crate::multipool::SideId;
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::Failure;
use crate::multipool::journal::Entry;

/// Journal rows that gave way on one side to another.
pub(super) struct Losing<'a> {
    pub entries: Vec<&'a Entry>,
    pub reasons: &'a BTreeMap<Uuid, Reason>,
}

/// Keeps both images where they differ. The losing image is the journal's: the row itself may have been overwritten
/// already. Returns how many conflicts there are, and for how many a person is asked.
pub(super) async fn keep_conflicts(
    catalog: &Catalog,
    (kept_side, kept): (SideId, &Client),
    (lost_side, lost): (SideId, &Client),
    losing: &Losing<'_>,
) -> Result<(u64, u64), (SideId, Failure)> {
    let mut by_key: BTreeMap<(&str, &str), (Option<&str>, Uuid)> = BTreeMap::new();
    for entry in &losing.entries {
        if let Some(old_key) = &entry.old_key {
            by_key.insert((&entry.table, old_key), (None, entry.op));
        }
        by_key.insert((&entry.table, &entry.key), (entry.image.as_deref(), entry.op));
    }
    let (mut count, mut asked) = (0, 0);
    for ((name, key), (lost_image, op)) in by_key {
        let Some(table) = catalog.get(name) else { continue };
        // A truncate has no key and no image; it is kept as what it is.
        let kept_image = match key {
            "" => None,
            key => images(kept, table, &[key])
                .await
                .map_err(|f| (kept_side, f))?
                .0
                .into_iter()
                .next(),
        };
        if kept_image.as_deref() == lost_image && !key.is_empty() {
            continue;
        }
        let ask = losing.reasons.get(&op).is_some_and(|r| r.ask);
        let rule = losing.reasons.get(&op).map_or("pool", |r| r.rule.as_str());
        let state = if ask { "open" } else { "rule" };
        // The same whoever finds it: if we die between two commits, it is found again.
        let id = Uuid::new_v5(&op, format!("{name} {key}").as_bytes())
            .simple()
            .to_string();
        let id = &id[..12];
        count += 1;
        asked += u64::from(ask);
        tracing::warn!(table = name, key, kept = %kept_side, lost = %lost_side, rule, "conflict {id}");
        let at = SystemTime::now();
        for (side, client) in [(kept_side, kept), (lost_side, lost)] {
            client
                .execute(
                    "-- merge::keep_conflicts()\nINSERT INTO kambana.conflict (id, tbl, key, kept_side, kept_image, \
                       lost_side, lost_image, lost_op, rule, state, at, decided_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::timestamptz, \
                       CASE WHEN $10::text = 'rule' THEN $11::timestamptz END) \
                     ON CONFLICT DO NOTHING",
                    &[
                        &id,
                        &name,
                        &key,
                        &kept_side.to_string(),
                        &kept_image,
                        &lost_side.to_string(),
                        &lost_image,
                        &op,
                        &rule,
                        &state,
                        &at,
                    ],
                )
                .await
                .map_err(|e| (side, e.into()))?;
        }
    }
    Ok((count, asked))
}

const COLUMNS: &str = "id, tbl, key, kept_side, kept_image, lost_side, lost_image, lost_op, rule, state, at, decided_at, decided_op";

/// Gives both sides the conflicts and the decisions of each.
pub(super) async fn align_conflicts(
    (side_a, a): (SideId, &Client),
    (side_b, b): (SideId, &Client),
) -> Result<(), (SideId, Failure)> {
    let (at_a, at_b) = (|e| (side_a, Failure::from(e)), |e| (side_b, Failure::from(e)));
    let digest = "-- merge::align_conflicts()\nSELECT count(*), coalesce(md5(string_agg(id || state, ',' ORDER BY id)), '') \
                  FROM kambana.conflict";
    let of_a = a.query_one(digest, &[]).await.map_err(at_a)?;
    let of_b = b.query_one(digest, &[]).await.map_err(at_b)?;
    if (of_a.get::<_, i64>(0), of_a.get::<_, &str>(1)) == (of_b.get(0), of_b.get(1)) {
        return Ok(());
    }
    // As JSON, so that a row passes as it is.
    let read = format!(
        "-- merge::align_conflicts()\nSELECT coalesce(jsonb_agg(to_jsonb(c)), '[]')::text FROM (SELECT {COLUMNS} FROM kambana.conflict) AS c"
    );
    let write = format!(
        "-- merge::align_conflicts()\nINSERT INTO kambana.conflict AS c ({COLUMNS}) \
         SELECT {COLUMNS} FROM jsonb_populate_recordset(NULL::kambana.conflict, $1::text::jsonb) ON CONFLICT (id) DO UPDATE \
         SET state = EXCLUDED.state, decided_at = EXCLUDED.decided_at, decided_op = EXCLUDED.decided_op \
         WHERE c.state IN ('open', 'rule') AND EXCLUDED.state NOT IN ('open', 'rule')"
    );
    let from_a: String = a.query_one(&read, &[]).await.map_err(at_a)?.get(0);
    let from_b: String = b.query_one(&read, &[]).await.map_err(at_b)?.get(0);
    a.execute(&write, &[&from_b]).await.map_err(at_a)?;
    b.execute(&write, &[&from_a]).await.map_err(at_b)?;
    Ok(())
}
