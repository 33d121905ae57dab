//! Keys that another side refuses: kept aside with their reason, tried again alone, so that no other key waits for them.
//!
//! Both sides store them in the transactions of the merge that found them. If we die between its two commits, a key may
//! be held on one side only; the next merge tries it again and writes both.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::apart::Stuck;
use crate::multipool::SideId;
use crate::multipool::connection::Failure;

/// Longest pause between two tries of a row that somebody has locked: it should cross soon after.
const LOCKED_PAUSE_S: f64 = 2.0;

/// Longest pause between two tries of a row that the other side refuses.
const REFUSED_PAUSE_S: f64 = 30.0;

/// As many rows of a table are held one by one; beyond, the table is held as a whole.
pub(super) const MANY: usize = 100;

/// Held keys of a pair of sides, by table and key; the empty key stands for the whole table.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<(String, String), Row>);

#[derive(Debug)]
struct Row {
    tries: i32,
    due: bool,
}

impl Held {
    /// Reads what is held between two sides.
    pub async fn load(client: &Client, x: SideId, y: SideId) -> Result<Held, Failure> {
        let pair = [x.to_string(), y.to_string()];
        let rows = client
            .query(
                "-- merge::held()\nSELECT tbl, key, tries, retry_at <= clock_timestamp() FROM kambana.held \
                 WHERE from_side = ANY($1) AND to_side = ANY($1)",
                &[&pair.as_slice()],
            )
            .await?;
        let row = |row: &tokio_postgres::Row| {
            let (tries, due) = (row.get(2), row.get(3));
            ((row.get(0), row.get(1)), Row { tries, due })
        };
        Ok(Held(rows.iter().map(row).collect()))
    }

    /// As if every pause was over.
    pub fn all_due(mut self) -> Held {
        self.0.values_mut().for_each(|row| row.due = true);
        self
    }

    /// Keys that are left alone this time, as two arrays for SQL.
    pub fn resting(&self) -> (Vec<&str>, Vec<&str>) {
        let resting = self.0.iter().filter(|(_, row)| !row.due);
        resting
            .map(|((table, key), _)| (table.as_str(), key.as_str()))
            .unzip()
    }

    /// Whether a key is left alone this time.
    pub fn rests(&self, table: &str, key: &str) -> bool {
        let rests = |key: &str| {
            self.0
                .get(&(table.to_owned(), key.to_owned()))
                .is_some_and(|row| !row.due)
        };
        rests(key) || rests("")
    }

    /// Whether a key was held before.
    pub fn knows(&self, table: &str, key: &str) -> bool {
        self.0.contains_key(&(table.to_owned(), key.to_owned()))
    }

    /// Keys to be tried one by one.
    pub fn due(&self) -> BTreeSet<(String, String)> {
        let due = self.0.iter().filter(|(_, row)| row.due);
        due.map(|(place, _)| place.clone()).collect()
    }

    /// Stores what is stuck now and forgets what is not any more, on one side.
    pub async fn store(&self, client: &Client, stuck: &[(SideId, SideId, &Stuck)]) -> Result<(), Failure> {
        let still: BTreeSet<(&str, &str)> = stuck
            .iter()
            .map(|(_, _, s)| (s.table.as_str(), s.key.as_str()))
            .collect();
        let (tables, keys): (Vec<&str>, Vec<&str>) = self
            .0
            .iter()
            .filter(|((table, key), row)| row.due && !still.contains(&(table.as_str(), key.as_str())))
            .map(|((table, key), _)| (table.as_str(), key.as_str()))
            .unzip();
        if !tables.is_empty() {
            client
                .execute(
                    "-- merge::forget_held()\nDELETE FROM kambana.held AS h \
                     USING unnest($1::text[], $2::text[]) AS u(tbl, key) WHERE (h.tbl, h.key) = (u.tbl, u.key)",
                    &[&tables, &keys],
                )
                .await?;
        }
        for (from, to, stuck) in stuck {
            let place = (stuck.table.clone(), stuck.key.clone());
            let pause = pause_s(self.0.get(&place).map_or(0, |row| row.tries), stuck.locked);
            client
                .execute(
                    "-- merge::hold()\nINSERT INTO kambana.held AS h (tbl, key, from_side, to_side, reason, retry_at) \
                     VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6)) \
                     ON CONFLICT (tbl, key) DO UPDATE SET from_side = EXCLUDED.from_side, to_side = EXCLUDED.to_side, \
                       reason = EXCLUDED.reason, tries = h.tries + 1, retry_at = EXCLUDED.retry_at",
                    &[&place.0, &place.1, &from.to_string(), &to.to_string(), &stuck.reason, &pause],
                )
                .await?;
        }
        Ok(())
    }
}

/// Seconds until a key is tried again that was tried so often before.
fn pause_s(tries: i32, locked: bool) -> f64 {
    let (first, longest) = match locked {
        true => (0.2, LOCKED_PAUSE_S),
        false => (0.5, REFUSED_PAUSE_S),
    };
    f64::min(first * f64::powi(2.0, tries.clamp(0, 16)), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!([0, 1, 3, 100].map(|n| pause_s(n, true)), [0.2, 0.4, 1.6, 2.0]);
        assert_eq!([0, 2, 40].map(|n| pause_s(n, false)), [0.5, 2.0, 30.0]);
    }
}
