//! Interleaved sequences: side i of n hands out i, i+n, i+2n, … so that no two sides can hand out one id.

use tokio_postgres::Client;

use super::catalog::ident;
use super::connection::Failure;
use super::{SideId, Value};

/// One sequence that feeds a column of a watched table.
pub(super) struct Sequence {
    /// Quoted, with schema.
    ident: String,
    table: String,
    column: String,
    cache: i64,
    increment: i64,
    max: i64,
}

const LOAD_SQL: &str = "-- sequences::load()
SELECT DISTINCT s.relname::text, n.nspname::text, w.tbl, a.attname::text, q.seqcache, q.seqincrement, q.seqmax
FROM kambana.watched w
JOIN pg_class c ON c.relname = w.tbl AND c.relnamespace = 'public'::regnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef ad ON ad.adrelid = c.oid AND ad.adnum = a.attnum
JOIN pg_depend d ON (d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid AND d.refclassid = 'pg_class'::regclass)
    OR (d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = c.oid AND d.refobjsubid = a.attnum AND d.deptype = 'i')
JOIN pg_class s ON s.relkind = 'S' AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
JOIN pg_namespace n ON n.oid = s.relnamespace
JOIN pg_sequence q ON q.seqrelid = s.oid
ORDER BY 1, 2, 3, 4";

async fn load(client: &Client) -> Result<Vec<Sequence>, Failure> {
    let rows = client.query(LOAD_SQL, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| Sequence {
            ident: format!("{}.{}", ident(row.get(1)), ident(row.get(0))),
            table: row.get(2),
            column: row.get(3),
            cache: row.get(4),
            increment: row.get(5),
            max: row.get(6),
        })
        .collect())
}

/// The next value for a side that is above everything handed out so far.
fn aligned(side: SideId, sides: i64, used: i64) -> i64 {
    let start = side.index() as i64 + 1;
    if used < start {
        start
    } else {
        start + ((used - start) / sides + 1) * sides
    }
}

/// Moves every sequence of a side past the highest value in use, to one of its own values. Run at installation and
/// under the fence at every epoch change. `setval` is not undone by a rollback; a gap harms nobody.
///
/// # Errors
/// Trouble with the side.
pub(super) async fn align(client: &Client, side: SideId, sides: usize) -> Result<(), Failure> {
    let step = sides as i64;
    for sequence in load(client).await? {
        if sequence.increment != step {
            client
                .batch_execute(&format!("ALTER SEQUENCE {} INCREMENT BY {step}", sequence.ident))
                .await?;
        }
        let row = client
            .query_one(
                &format!(
                    "-- sequences::align()\nSELECT last_value, is_called, \
                     (SELECT max({}) FROM public.{})::bigint FROM {}",
                    ident(&sequence.column),
                    ident(&sequence.table),
                    sequence.ident
                ),
                &[],
            )
            .await?;
        let (last, called, highest): (i64, bool, Option<i64>) = (row.get(0), row.get(1), row.get(2));
        let used = highest.unwrap_or(0).max(if called { last } else { last - 1 });
        let next = aligned(side, step, used);
        if next > sequence.max {
            tracing::warn!(
                sequence = sequence.ident,
                "sequence is exhausted; inserts without an id will be refused"
            );
        } else if called || last != next {
            client
                .execute(
                    "-- sequences::align()\nSELECT setval($1::text::regclass, $2::bigint, false)",
                    &[&Value::from(sequence.ident.as_str()), &Value::from(next)],
                )
                .await?;
        }
    }
    Ok(())
}

/// Why a watched table's sequences cannot be kept apart, if they cannot.
pub(super) async fn refusal(client: &Client) -> Result<Option<String>, Failure> {
    Ok(load(client).await?.iter().find(|s| s.cache > 1).map(|s| {
        format!(
            "sequence {} of table {} has CACHE {}; ids would jump between sides: ALTER SEQUENCE {} CACHE 1",
            s.ident, s.table, s.cache, s.ident
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_two_sides_never_meet() {
        let side = |name: &str| name.parse::<SideId>().unwrap();
        assert_eq!((aligned(side("a"), 2, 0), aligned(side("b"), 2, 0)), (1, 2));
        assert_eq!((aligned(side("a"), 2, 1), aligned(side("b"), 2, 2)), (3, 4));
        assert_eq!(
            (aligned(side("a"), 2, 100), aligned(side("b"), 2, 100)),
            (101, 102)
        );
        for used in 0..50 {
            let (a, b) = (aligned(side("a"), 2, used), aligned(side("b"), 2, used));
            assert!(a > used && b > used && a % 2 == 1 && b % 2 == 0 && a.max(b) <= used + 2);
        }
    }
}
