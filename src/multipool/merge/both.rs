//! The rows of a merge in both directions, and what becomes of those that could not be copied.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use uuid::Uuid;

use super::apart::{Copied, Path, Stuck, copy_apart};
use super::clash::Verdict;
use super::copy::{Keys, collect_keys, no_foreign_write, widen_truncates};
use super::held::Held;
use super::keep::{Losing, keep_conflicts};
use super::ledger::Lost;
use super::open::Open;
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Failure, words};
use crate::multipool::journal::{Entry, Kind};
use crate::multipool::{Happened, SideId};

/// Two sides with the transactions that hold their fences.
pub(super) struct Both<'a> {
    pub catalog: &'a Catalog,
    pub held: &'a Held,
    pub a: (SideId, &'a Client),
    pub b: (SideId, &'a Client),
    pub to_a: Copied,
    pub to_b: Copied,
}

impl Copied {
    /// The first key that was not copied.
    pub fn first_lack(&self) -> Option<Stuck> {
        let late = self.untried.first().map(|(table, key)| Stuck {
            table: table.clone(),
            key: key.clone(),
            reason: "too many rows are refused".into(),
            locked: false,
        });
        self.stuck.first().cloned().or(late)
    }
}

impl Both<'_> {
    /// Copies every open key to the side that gives way there or lacks it.
    pub async fn copy(
        &mut self,
        open_a: &Open,
        open_b: &Open,
        lost: &Lost,
        seen: &[BTreeSet<Uuid>; 2],
    ) -> Result<u64, (SideId, Failure)> {
        let a_wins = |e: &&Entry| !lost.on_lead.contains(&e.op);
        let b_wins = |e: &&Entry| !lost.on_other.contains(&e.op);
        let (mut to_b, mut to_a) = (Keys::new(), Keys::new());
        collect_keys(&mut to_b, open_a.entries.iter().filter(a_wins));
        collect_keys(&mut to_b, open_b.entries.iter().filter(|e| !b_wins(e)));
        collect_keys(&mut to_a, open_b.entries.iter().filter(b_wins));
        collect_keys(&mut to_a, open_a.entries.iter().filter(|e| !a_wins(e)));
        let (mut stuck_b, mut stuck_a) = (Vec::new(), Vec::new());
        stuck_b.extend(
            self.widen(self.b, &mut to_b, open_a.entries.iter().filter(a_wins))
                .await?,
        );
        stuck_a.extend(
            self.widen(self.a, &mut to_a, open_b.entries.iter().filter(b_wins))
                .await?,
        );
        for at in [self.a, self.b] {
            // A truncate that gives way is undone: every row the other side has, and none that it has not.
            let undone = open_b.entries.iter().filter(|e| !b_wins(e));
            stuck_b.extend(self.widen(at, &mut to_b, undone).await?);
            let undone = open_a.entries.iter().filter(|e| !a_wins(e));
            stuck_a.extend(self.widen(at, &mut to_a, undone).await?);
        }
        let due = self.held.due();
        let path = |from, to| Path {
            catalog: self.catalog,
            from,
            to,
        };
        let mut copied_b = copy_apart(path(self.a, self.b), &to_b, &due).await?;
        let mut copied_a = copy_apart(path(self.b, self.a), &to_a, &due).await?;
        copied_b.stuck.append(&mut stuck_b);
        copied_a.stuck.append(&mut stuck_a);
        (self.to_b, self.to_a) = (copied_b, copied_a);
        // In a later statement: whoever held these rows has committed by now.
        for ((side, client), keys, copied, seen) in [
            (self.a, to_a, &self.to_a, &seen[0]),
            (self.b, to_b, &self.to_b, &seen[1]),
        ] {
            let keys = without(keys, copied);
            no_foreign_write(client, &keys, seen, self.held)
                .await
                .map_err(|f| (side, f))?;
        }
        Ok(self.to_a.rows + self.to_b.rows)
    }

    /// Adds every key that a side has of the tables that were truncated; a table that cannot be read is stuck.
    async fn widen<'e>(
        &self,
        (side, client): (SideId, &Client),
        keys: &mut Keys,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Result<Vec<Stuck>, (SideId, Failure)> {
        let at = |e: tokio_postgres::Error| (side, Failure::from(e));
        let mut stuck = Vec::new();
        for entry in entries.filter(|e| e.kind == Kind::Truncate) {
            client.batch_execute("SAVEPOINT widen").await.map_err(at)?;
            let end = match widen_truncates(client, self.catalog, keys, [entry].into_iter()).await {
                Ok(()) => "RELEASE SAVEPOINT widen",
                Err(failure @ Failure::Side(_)) => return Err((side, failure)),
                Err(failure) => {
                    keys.remove(&entry.table);
                    stuck.push(Stuck {
                        table: entry.table.clone(),
                        key: String::new(),
                        reason: format!("side {side}: {}", words(&failure)),
                        locked: matches!(failure, Failure::Repeat(_)),
                    });
                    "ROLLBACK TO SAVEPOINT widen; RELEASE SAVEPOINT widen"
                }
            };
            client.batch_execute(end).await.map_err(at)?;
        }
        Ok(stuck)
    }

    fn lacks(&self, table: &str, key: &str) -> bool {
        self.to_a.lacks(table, key) || self.to_b.lacks(table, key)
    }

    /// Whether a row of this entry could not be copied.
    fn waits(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Truncate => self.to_a.lacks_some_of(&entry.table) || self.to_b.lacks_some_of(&entry.table),
            _ => entry.keys().any(|key| self.lacks(&entry.table, key)),
        }
    }

    /// Operations that stay open because a row of theirs could not be copied.
    pub fn blocked<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> BTreeSet<Uuid> {
        let mut blocked = BTreeSet::new();
        let mut tables = BTreeSet::new();
        for entry in entries.filter(|e| self.waits(e)) {
            blocked.insert(entry.op);
            if entry.kind == Kind::Truncate {
                tables.insert(entry.table.as_str());
            }
        }
        // A truncate of which a row is missing waits as a whole, and its table with it.
        for copied in [&mut self.to_a, &mut self.to_b] {
            let whole: Vec<Stuck> = copied
                .stuck
                .iter()
                .filter(|s| tables.remove(s.table.as_str()))
                .map(|s| Stuck {
                    key: String::new(),
                    ..s.clone()
                })
                .collect();
            copied.stuck.retain(|s| !whole.iter().any(|w| w.table == s.table));
            copied.stuck.extend(whole);
        }
        blocked
    }

    /// Keeps both images of what gave way and was copied. Returns what is to be told.
    pub async fn keep(
        &self,
        open_a: &Open,
        open_b: &Open,
        verdict: &Verdict,
    ) -> Result<Vec<Happened>, (SideId, Failure)> {
        let mut news = Vec::new();
        for (open, reasons, kept, lost) in [
            (open_a, &verdict.on_lead, self.b, self.a),
            (open_b, &verdict.on_other, self.a, self.b),
        ] {
            let entries = open.entries.iter();
            let losing = Losing {
                entries: entries
                    .filter(|e| reasons.contains_key(&e.op) && !self.waits(e))
                    .collect(),
                reasons,
            };
            let (rows, asked) = keep_conflicts(self.catalog, kept, lost, &losing).await?;
            if rows > 0 {
                let (kept, lost) = (kept.0, lost.0);
                news.push(Happened::Conflicts {
                    rows,
                    kept,
                    lost,
                    asked,
                });
            }
        }
        Ok(news)
    }

    /// Stores on both sides what is held now. Returns what is to be told.
    pub async fn hold(&self) -> Result<Vec<Happened>, (SideId, Failure)> {
        let ((lead, _), (other, _)) = (self.a, self.b);
        let to_b = self.to_b.stuck.iter().map(|s| (lead, other, s));
        let stuck: Vec<_> = to_b
            .chain(self.to_a.stuck.iter().map(|s| (other, lead, s)))
            .collect();
        for (side, client) in [self.a, self.b] {
            self.held.store(client, &stuck).await.map_err(|f| (side, f))?;
        }
        let fresh = stuck
            .iter()
            .filter(|(_, _, s)| !s.locked && !self.held.knows(&s.table, &s.key));
        let tell = |(from, to, s): &(SideId, SideId, &Stuck)| Happened::Held {
            table: s.table.clone(),
            key: s.key.clone(),
            from: *from,
            to: *to,
            why: s.reason.clone(),
        };
        Ok(fresh.map(tell).take(5).collect())
    }
}

/// The keys that were copied.
fn without(mut keys: Keys, copied: &Copied) -> Keys {
    for (table, of_table) in &mut keys {
        of_table.retain(|key| !copied.lacks(table, key));
    }
    keys
}
