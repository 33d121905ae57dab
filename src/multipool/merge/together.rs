//! Changes of two sides that touch different rows and yet do not go together: one value of a unique index given to two
//! rows, a row deleted here and referred to there.
//!
//! Neither side's rows can be brought to the other then. The other side's operations that stand in the way give way to
//! the leader's, as few as are found by trying; their images are kept as of any conflict. Tries are rolled back: the
//! copy itself comes later. Runs under both fences, so the search has an end.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use super::clash::{Reason, Verdict};
use super::copy::{Keys, collect_keys, copy, widen_truncates};
use super::held::Held;
use super::ledger::Lost;
use super::open::Open;
use crate::multipool::SideId;
use crate::multipool::catalog::Catalog;
use crate::multipool::connection::{Failure, Repeat};
use crate::multipool::journal::Entry;

/// How long writers may wait for the search; what is not decided by then gives way.
const SEARCH: Duration = Duration::from_secs(1);

/// What `kambana.conflict` says of an operation that gave way here.
const RULE: &str = "constraint";

type At = (SideId, Failure);

/// Two sides with the transactions that hold their fences.
pub(super) struct Together<'a> {
    pub catalog: &'a Catalog,
    pub held: &'a Held,
    pub a: (SideId, &'a Client),
    pub b: (SideId, &'a Client),
    /// Foreign writes that this merge knows of, on `a` and on `b`.
    pub seen: &'a [BTreeSet<Uuid>; 2],
}

impl Together<'_> {
    /// Adds to `lost` and `verdict` what must give way.
    pub async fn decide(
        &self,
        open_a: &Open,
        open_b: &Open,
        lost: &mut Lost,
        verdict: &mut Verdict,
    ) -> Result<(), At> {
        let suspects = self.suspects(open_b, lost);
        if suspects.is_empty() || self.fits(open_a, open_b, lost, &[]).await? {
            return Ok(());
        }
        for ((side, client), seen) in [self.a, self.b].into_iter().zip(self.seen) {
            // Rows may not fit because one of them is younger than what was read before: not a conflict, begin anew.
            self.nothing_new(client, seen).await.map_err(|f| (side, f))?;
        }
        if !self.fits(open_a, open_b, lost, &suspects).await? {
            // It is not for the sake of these operations.
            return Ok(());
        }
        let until = Instant::now() + SEARCH;
        let mut undecided: BTreeSet<Uuid> = suspects.iter().copied().collect();
        let mut gone: Vec<Uuid> = Vec::new();
        let mut pieces = vec![suspects];
        while let Some(mut piece) = pieces.pop() {
            if Instant::now() >= until {
                break;
            }
            piece.iter().for_each(|op| {
                undecided.remove(op);
            });
            let without: Vec<Uuid> = gone.iter().chain(&undecided).copied().collect();
            if self.fits(open_a, open_b, lost, &without).await? {
                continue;
            }
            if piece.len() == 1 {
                gone.append(&mut piece);
                continue;
            }
            undecided.extend(&piece);
            let second = piece.split_off(piece.len() / 2);
            pieces.extend([second, piece]);
        }
        gone.extend(undecided);
        for op in gone {
            let reason = Reason {
                rule: RULE.into(),
                ask: false,
            };
            lost.on_other.insert(op);
            verdict.on_other.entry(op).or_insert(reason);
        }
        Ok(())
    }

    /// Operations of the other side that are to be brought to the leader and can be refused there, in their order.
    fn suspects(&self, open_b: &Open, lost: &Lost) -> Vec<Uuid> {
        let mut known = BTreeSet::new();
        open_b
            .entries
            .iter()
            .filter(|e| self.constrained(e) && !lost.on_other.contains(&e.op) && known.insert(e.op))
            .map(|e| e.op)
            .collect()
    }

    fn constrained(&self, entry: &Entry) -> bool {
        self.catalog
            .get(&entry.table)
            .is_some_and(|table| table.links.constrained())
    }

    /// Tries whether the rows of both sides fit together if these operations give way as well.
    async fn fits(&self, open_a: &Open, open_b: &Open, lost: &Lost, more: &[Uuid]) -> Result<bool, At> {
        let more: BTreeSet<&Uuid> = more.iter().collect();
        let a_wins = |e: &Entry| !lost.on_lead.contains(&e.op);
        let b_wins = |e: &Entry| !lost.on_other.contains(&e.op) && !more.contains(&e.op);
        let of = |open: &'_ Open, wins: &dyn Fn(&Entry) -> bool, won: bool| -> Vec<Entry> {
            let entries = open.entries.iter().filter(|e| self.constrained(e));
            entries.filter(|e| wins(e) == won).cloned().collect()
        };
        let ways = [
            (
                self.a,
                self.b,
                [of(open_a, &a_wins, true), of(open_b, &b_wins, false)].concat(),
            ),
            (
                self.b,
                self.a,
                [of(open_b, &b_wins, true), of(open_a, &a_wins, false)].concat(),
            ),
        ];
        for (side, client) in [self.a, self.b] {
            run(side, client, "SAVEPOINT together").await?;
        }
        let tried = async {
            for (from, to, entries) in &ways {
                let mut keys = Keys::new();
                collect_keys(&mut keys, entries.iter());
                for (side, client) in [*from, *to] {
                    widen_truncates(client, self.catalog, &mut keys, entries.iter())
                        .await
                        .map_err(|f| (side, f))?;
                }
                copy(self.catalog, *from, *to, &keys).await?;
            }
            Ok(())
        };
        let fits = match tried.await {
            Err((_, failure)) if failure.breaks_constraint() => false,
            Err((side, failure @ Failure::Side(_))) => return Err((side, failure)),
            // A lock, a value that is refused by itself: that is looked after when the rows are copied.
            Err(_) | Ok(()) => true,
        };
        for (side, client) in [self.a, self.b] {
            run(side, client, "ROLLBACK TO together; RELEASE together").await?;
        }
        Ok(fits)
    }

    /// Fails if a foreign write was committed since the open rows were read.
    async fn nothing_new(&self, client: &Client, seen: &BTreeSet<Uuid>) -> Result<(), Failure> {
        let seen: Vec<Uuid> = seen.iter().copied().collect();
        let (tables, keys) = self.held.resting();
        let row = client
            .query_one(
                "-- merge::nothing_new()\nSELECT count(*) FROM kambana.journal AS j WHERE j.lane = 0 \
                 AND NOT j.op = ANY($1) AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS h(tbl, key) \
                   WHERE h.tbl = j.tbl AND (h.key = '' OR h.key IN (j.key, j.old_key)))",
                &[&seen, &tables, &keys],
            )
            .await?;
        match row.get::<_, i64>(0) {
            0 => Ok(()),
            _ => Err(Failure::Repeat(Repeat::Contention)),
        }
    }
}

async fn run(side: SideId, client: &Client, sql: &str) -> Result<(), At> {
    client.batch_execute(sql).await.map_err(|e| (side, e.into()))
}
