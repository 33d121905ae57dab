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
    /// The column, if its values are integers that can be compared with the sequence's.
    column: Option<String>,
    cache: i64,
    increment: i64,
    max: i64,
}

const LOAD_SQL: &str = "-- sequences::load()
SELECT DISTINCT s.relname::text, n.nspname::text, w.tbl,
    CASE WHEN a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN a.attname::text END, q.seqcache, q.seqincrement, q.seqmax
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
fn aligned(side: SideId, sides: i64, used: i64) -> Option<i64> {
    let start = side.index() as i64 + 1;
    if used < start {
        return Some(start);
    }
    ((used - start) / sides + 1)
        .checked_mul(sides)?
        .checked_add(start)
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
        let highest = match &sequence.column {
            Some(column) => format!(
                "(SELECT max({}) FROM public.{})::bigint",
                ident(column),
                ident(&sequence.table)
            ),
            None => "NULL::bigint".into(),
        };
        let sql = format!(
            "-- sequences::align()\nSELECT last_value, is_called, {highest} FROM {}",
            sequence.ident
        );
        let row = client.query_one(&sql, &[]).await?;
        let (last, called, highest): (i64, bool, Option<i64>) = (row.get(0), row.get(1), row.get(2));
        let used = highest.unwrap_or(0).max(if called { last } else { last - 1 });
        let next = aligned(side, step, used).filter(|next| *next <= sequence.max);
        let Some(next) = next else {
            tracing::warn!(
                sequence = sequence.ident,
                "sequence is exhausted; inserts without an id will be refused"
            );
            continue;
        };
        if called || last != next {
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

/// As [`align`], inside the transaction of an epoch change, which must not fail for the sake of a sequence: an id that is
/// taken is refused by its primary key.
///
/// # Errors
/// Trouble with the side.
pub(super) async fn align_if_possible(client: &Client, side: SideId, sides: usize) -> Result<(), Failure> {
    client.batch_execute("SAVEPOINT sequences").await?;
    match align(client, side, sides).await {
        Ok(()) => Ok(client.batch_execute("RELEASE sequences").await?),
        Err(Failure::Rejected(why)) => {
            tracing::warn!(%side, why = why.message, "the sequences of this side could not be moved");
            Ok(client.batch_execute("ROLLBACK TO sequences").await?)
        }
        Err(failure) => Err(failure),
    }
}

/// The last value of every sequence.
pub(super) async fn values(client: &Client) -> Result<Vec<(String, i64)>, Failure> {
    let mut values = Vec::new();
    for sequence in load(client).await? {
        let sql = format!(
            "-- sequences::values()\nSELECT last_value FROM {}",
            sequence.ident
        );
        values.push((sequence.ident, client.query_one(&sql, &[]).await?.get(0)));
    }
    Ok(values)
}

/// Moves sequences of another side to at least these values; one that is named otherwise there is left to [`align`].
pub(super) async fn raise(client: &Client, values: &[(String, i64)]) -> Result<(), Failure> {
    for sequence in load(client).await? {
        let Some((_, value)) = values.iter().find(|(ident, _)| *ident == sequence.ident) else {
            continue;
        };
        let sql = format!(
            "-- sequences::raise()\nSELECT setval({}::regclass, greatest(last_value, $1)) FROM {}",
            super::catalog::literal(&sequence.ident),
            sequence.ident
        );
        client.query_one(&sql, &[value]).await?;
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
        let next = |name: &str, used| aligned(name.parse::<SideId>().unwrap(), 2, used).unwrap();
        assert_eq!((next("a", 0), next("b", 0)), (1, 2));
        assert_eq!((next("a", 1), next("b", 2)), (3, 4));
        assert_eq!((next("a", 100), next("b", 100)), (101, 102));
        for used in 0..50 {
            let (a, b) = (next("a", used), next("b", used));
            assert!(a > used && b > used && a % 2 == 1 && b % 2 == 0 && a.max(b) <= used + 2);
        }
        assert_eq!(
            aligned("b".parse().unwrap(), 2, i64::MAX),
            None,
            "no value is left"
        );
    }
}
