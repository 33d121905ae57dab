//! Health of one side: a heartbeat row that is written and read back, and now and then over a fresh connection.
//!
//! A frozen server accepts bytes and says nothing: only a deadline sees it. A frozen postmaster leaves open
//! connections working: only a fresh connection sees it. `SELECT 1` sees neither a full disk nor a read-only server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join3;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use super::connection::{self, Failure, Purpose, Repeat, words};
use super::epoch::{self, Epoch};
use super::inner::Inner;
use super::rebuild::marker;
use super::{Loss, Progress, SideFault, SideId, SideSet, catalog, install, lineage};

/// Every so many heartbeats one goes over a fresh connection.
const FRESH_EVERY: u64 = if cfg!(mutant = "trust_open_connections") {
    u64::MAX
} else {
    4
};

/// How long a side may have no connection slot for its prober before that counts as a fault.
const SLOT_PATIENCE: Duration = Duration::from_secs(3);

/// Every so many heartbeats identity, settings and schema are looked at again (about a minute).
const FIT_EVERY: u64 = 240;

/// What the last probe found.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// Number of finished probes; 0 means nothing is known yet.
    pub rounds: u64,
    pub fault: Option<SideFault>,
    /// The epoch this side stores; kept while it does not answer.
    pub epoch: Option<Epoch>,
    /// When the last finished probe began, good or not.
    pub asked: Option<Instant>,
    /// When the last good heartbeat was answered.
    pub answered: Option<Instant>,
    /// Since when every probe was good.
    pub well_since: Option<Instant>,
    /// When the last failed probe began its second try.
    pub doubted: Option<Instant>,
    pub heartbeat_ms: Option<f64>,
    pub seen_at: Option<SystemTime>,
    pub server_version: Option<String>,
    /// Journal rows that wait for another side and have waited for longer than a write takes.
    pub leftovers: bool,
    /// Sides that other instances have reached a moment ago, as they have said on this side.
    pub others_reach: SideSet,
    /// Why the epoch that this side stores was made.
    pub reason: String,
    /// While somebody rebuilds it: how far that has come.
    pub rebuild: Option<Progress>,
}

impl Health {
    /// Whether it answered the last probe and may be used.
    pub fn is_well(&self) -> bool {
        self.rounds > 0 && self.fault.is_none()
    }
}

/// One probe of one side.
struct Prober {
    inner: Arc<Inner>,
    side: SideId,
    client: Option<Client>,
    /// The heartbeat, prepared on `client`.
    statement: Option<Statement>,
    /// The server that `client` is connected to.
    server: String,
    /// What the last probe saw of a rebuild.
    rebuild: Option<Progress>,
    beats: u64,
}

struct Beat {
    epoch: Epoch,
    server_version: String,
    leftovers: bool,
    others_reach: SideSet,
    reason: String,
    marks: Marks,
}

/// What a side says about marks: its own, and what it remembers of the others.
struct Marks {
    /// `None`: it is below what this instance knows it to have answered.
    own: Option<i64>,
    remembered: Vec<(SideId, i64, bool)>,
    /// It was marked as one to be rebuilt.
    marked: bool,
}

impl Marks {
    fn from_row(row: &tokio_postgres::Row, first: usize) -> Marks {
        let sides: Vec<String> = row.get(first + 1);
        let marks: Vec<i64> = row.get(first + 2);
        let given_up: Vec<bool> = row.get(first + 3);
        let named = sides.iter().zip(marks.into_iter().zip(given_up));
        Marks {
            own: row.get(first),
            marked: row.get(first + 4),
            remembered: named
                .filter_map(|(side, (mark, gone))| Some((side.parse().ok()?, mark, gone)))
                .collect(),
        }
    }
}

/// A time in the future was written before this server's clock stepped back: it says nothing about now, and must not be
/// believed until the clock has come round again. What every member has of a lane is in `low`; what is above it is looked at
/// by index and once, however much it is: a heartbeat that is slow puts a healthy side out.
const BEAT_SQL: &str = "-- health::beat()
WITH h AS (
    INSERT INTO kambana.heartbeat AS h (instance, beat, reaches, at) VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (instance) DO UPDATE SET beat = EXCLUDED.beat, reaches = EXCLUDED.reaches, at = EXCLUDED.at
    RETURNING beat),
own AS (UPDATE kambana.mark SET mark = mark + 1 WHERE side = $4 AND mark >= $5 RETURNING mark),
others AS (
    INSERT INTO kambana.mark AS m (side, mark) SELECT * FROM unnest($6::text[], $7::bigint[])
    ON CONFLICT (side) DO UPDATE SET mark = EXCLUDED.mark WHERE m.mark < EXCLUDED.mark),
known AS (
    SELECT coalesce(array_agg(m.side ORDER BY m.side), '{}') AS sides, coalesce(array_agg(m.mark ORDER BY m.side), '{}') AS marks,
        coalesce(array_agg(m.given_up ORDER BY m.side), '{}') AS given_up
    FROM kambana.mark AS m),
low AS (
    SELECT l.lane, (SELECT min(coalesce(l.confirmed[i + 1], 0)) FROM generate_series(0, 15) AS i
                    WHERE e.members & (1 << i) <> 0) AS batch
    FROM kambana.lane_settled AS l, kambana.epoch AS e WHERE NOT l.closed)
SELECT h.beat, e.n, e.parent, e.members, e.generation, current_setting('server_version'),
    EXISTS (SELECT FROM kambana.journal j WHERE j.lane = 0 AND NOT EXISTS (SELECT FROM kambana.held AS r
        WHERE r.retry_at > clock_timestamp() AND r.tbl = j.tbl AND (r.key = '' OR r.key IN (j.key, j.old_key))))
    OR EXISTS (SELECT FROM low CROSS JOIN LATERAL (SELECT o.lane, o.batch, o.op FROM kambana.op AS o
            WHERE o.lane = low.lane AND o.batch > low.batch
              AND o.at NOT BETWEEN clock_timestamp() - interval '2 s' AND clock_timestamp() OFFSET 0) AS o
        WHERE NOT EXISTS (SELECT FROM kambana.held AS r WHERE r.retry_at > clock_timestamp())
           OR (o.lane, o.batch, o.op) NOT IN (SELECT j.lane, j.batch, j.op
                FROM low CROSS JOIN LATERAL (SELECT * FROM kambana.journal AS j
                    WHERE j.lane = low.lane AND j.batch > low.batch OFFSET 0) AS j
                JOIN kambana.held AS r ON r.tbl = j.tbl AND (r.key = '' OR r.key IN (j.key, j.old_key))
                WHERE r.retry_at > clock_timestamp())),
    (SELECT coalesce(bit_or(p.reaches), 0) FROM kambana.heartbeat AS p
      WHERE p.instance <> $1 AND p.at BETWEEN clock_timestamp() - interval '1.5 s' AND clock_timestamp()),
    e.reason, (SELECT mark FROM own), known.sides, known.marks, known.given_up,
    EXISTS (SELECT FROM kambana.rebuild)
FROM h, kambana.epoch e, known";

impl Prober {
    async fn connect(&mut self) -> Result<Client, Failure> {
        let client = connection::connect(&self.inner.config, self.side, Purpose::Write).await?;
        self.server = lineage::server(&client).await?;
        Ok(client)
    }

    async fn beat(&mut self, fresh: bool, fit: bool) -> Result<Beat, Failure> {
        if fresh || self.client.is_none() {
            match self.connect().await {
                Ok(client) => {
                    // The journal may be empty when the heartbeat is planned, and large later. Planned for each beat anew,
                    // planning takes several times as long as beating.
                    client
                        .batch_execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
                        .await?;
                    self.client = Some(client);
                    self.statement = None;
                }
                // It is well and has no slot for one more connection: the open one tells how it is.
                Err(Failure::Repeat(Repeat::NoSlot)) if self.client.is_some() => {}
                Err(failure) => return Err(failure),
            }
        }
        let Some(client) = &self.client else {
            return Err(Failure::Side(SideFault::Silent));
        };
        self.rebuild = None;
        let state = &self.inner.sides[self.side];
        let returned = !state.looked.is(&self.server) || !self.inner.health(self.side).is_well();
        if fit || returned {
            let (fit, rebuild) = self.check_fit(client, returned).await;
            self.rebuild = rebuild;
            fit?;
            state.looked.set(&self.server);
        }
        let beat = self.beats as i64;
        let reaches = self.inner.well().with(self.side).mask();
        // Read before it is asked: meanwhile other instances move it on.
        let answered = if cfg!(mutant = "trust_backup") {
            0
        } else {
            state.mark()
        };
        let (others, marks): (Vec<String>, Vec<i64>) = self.inner.marks_but(self.side);
        let name = self.side.to_string();
        let statement = match &self.statement {
            Some(statement) => statement.clone(),
            None => self.statement.insert(client.prepare(BEAT_SQL).await?).clone(),
        };
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] = [
            &self.inner.config.instance,
            &beat,
            &reaches,
            &name,
            &answered,
            &others,
            &marks,
        ];
        // A statement of its own is answered before it is committed; what was not, must not be remembered of this side.
        let (begun, row, committed) = join3(
            client.batch_execute("BEGIN"),
            client.query_one(&statement, &params),
            client.batch_execute("COMMIT"),
        )
        .await;
        begun?;
        let row = row?;
        committed?;
        if row.get::<_, i64>(0) != beat {
            return Err(Failure::Side(SideFault::Unfit(
                "a heartbeat was written but not read back".into(),
            )));
        }
        let epoch = Epoch::from_row(&row, 1);
        if !epoch.members.is_subset(self.inner.sides.all()) {
            return Err(Failure::Side(SideFault::Unfit(format!(
                "it belongs to a pool with the sides {}; give them all (DB3_* and so on)",
                epoch.members
            ))));
        }
        Ok(Beat {
            epoch,
            server_version: row.get(5),
            leftovers: row.get(6),
            others_reach: SideSet::from_mask(row.get(7)),
            reason: row.get(8),
            marks: Marks::from_row(&row, 9),
        })
    }

    /// What a beat says about marks becomes known; a mark that went back is a side that did.
    fn learn(&self, marks: &Marks) -> Result<(), SideFault> {
        let Some(own) = marks.own else {
            return Err(SideFault::Lost(Loss::Restored));
        };
        if marks.marked {
            return Err(SideFault::Lost(Loss::Unfinished));
        }
        self.inner.sides[self.side].learn_mark(own);
        let leads = self.inner.view().epoch.members.leader() == Some(self.side);
        for (side, mark, given_up) in &marks.remembered {
            if let Some(state) = self.inner.sides.get(*side).filter(|_| *side != self.side) {
                state.learn_mark(*mark);
                if leads {
                    state.given_up.store(*given_up, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    /// Whether this database may be used as this side at all, and how far a rebuild of it has come. `returned`: it may
    /// be another one than before.
    async fn check_fit(&self, client: &Client, returned: bool) -> (Result<(), Failure>, Option<Progress>) {
        let mut rebuild = None;
        let fit = self.fit(client, returned, &mut rebuild).await;
        (fit, rebuild)
    }

    async fn fit(
        &self,
        client: &Client,
        returned: bool,
        rebuild: &mut Option<Progress>,
    ) -> Result<(), Failure> {
        let unfit = |why: String| Failure::Side(SideFault::Unfit(why));
        if let Some(reason) = install::unsafe_settings(client).await? {
            return Err(unfit(reason));
        }
        let Some(identity) = install::identity(client).await? else {
            return Err(Failure::Side(SideFault::Lost(marker::missing(client).await?)));
        };
        let lineage = *self.inner.lineage.get_or_init(|| identity.lineage);
        if let Some(reason) = install::wrong_identity(&identity, self.side, lineage) {
            return Err(unfit(reason));
        }
        if let Some(marker) = marker::read(client).await? {
            *rebuild = marker.shown();
            return Err(Failure::Side(marker.fault()));
        }
        if let Some(lost) = install::lost_privilege(client).await? {
            return Err(unfit(lost));
        }
        let found = catalog::fingerprint(client).await?;
        match self.inner.reference() {
            Some((leader, reference)) if leader != self.side => match catalog::difference(&reference, &found)
            {
                Some(_) if self.structure_moved(leader, &found).await => {}
                Some(difference) => return Err(unfit(difference)),
                None => {}
            },
            // The leader is what the others are held against; changed by hand, it makes them unequal.
            Some((_, reference)) if *reference != found && found.values().all(Option::is_some) => {
                self.inner.load_catalog(self.side).await?;
                for (_, side) in self.inner.sides.iter() {
                    side.refit.store(true, Ordering::Release);
                }
            }
            _ => {
                if let Some((table, _)) = found.iter().find(|(_, structure)| structure.is_none()) {
                    return Err(unfit(format!("table {table} or its capture trigger is missing")));
                }
            }
        }
        match returned {
            true => lineage::check(&self.inner, self.side, client).await,
            false => Ok(()),
        }
    }

    /// Whether the leader has this structure by now: a migration, or a change by hand on both.
    async fn structure_moved(&self, leader: SideId, found: &catalog::Fingerprint) -> bool {
        let now = self.inner.fingerprint(leader).await;
        now.is_ok_and(|now| catalog::difference(&now, found).is_none())
            && self.inner.load_catalog(leader).await.is_ok()
    }

    fn answered_within(&self, patience: Duration) -> bool {
        let health = self.inner.sides[self.side].health.borrow();
        health.is_well() && health.answered.is_some_and(|at| at.elapsed() < patience)
    }

    /// One probe; a failure is confirmed over a fresh connection before it counts.
    async fn round(&mut self) {
        self.beats += 1;
        let deadline = self.inner.config.probe_deadline;
        let started = Instant::now();
        let fresh = self.beats.is_multiple_of(FRESH_EVERY);
        let refit = self.inner.sides[self.side].refit.swap(false, Ordering::AcqRel);
        let fit = refit || !self.inner.health(self.side).is_well() || self.beats.is_multiple_of(FIT_EVERY);
        let mut result = timeout(deadline, self.beat(fresh, fit)).await;
        let doubted = Instant::now();
        if !matches!(result, Ok(Ok(_))) {
            self.client = None;
            result = timeout(deadline, self.beat(true, fit)).await;
        }
        let outcome = match result {
            Ok(Ok(beat)) => match (self.learn(&beat.marks), self.inner.standing_refusal(self.side)) {
                (Err(fault), _) => Err(fault),
                (Ok(()), Some(why)) => Err(SideFault::Unfit(why)),
                (Ok(()), None) => Ok(beat),
            },
            Ok(Err(Failure::Side(fault))) => Err(fault),
            // Perhaps a slot is free in a moment; those who have a connection work.
            Ok(Err(Failure::Repeat(Repeat::NoSlot))) if self.answered_within(SLOT_PATIENCE) => return,
            Ok(Err(failure)) => Err(SideFault::Unfit(words(&failure))),
            Err(_) => Err(SideFault::Silent),
        };
        if outcome.is_err() {
            self.client = None;
        }
        let side = self.side;
        self.inner.sides[side].health.send_modify(|health| {
            health.rounds += 1;
            health.asked = Some(started);
            health.rebuild = self.rebuild.take();
            match outcome {
                Ok(beat) => {
                    if health.fault.take().is_some() {
                        tracing::info!(%side, "side answers again");
                    }
                    health.well_since.get_or_insert_with(Instant::now);
                    health.epoch = Some(beat.epoch);
                    health.leftovers = beat.leftovers;
                    health.others_reach = beat.others_reach;
                    health.reason = beat.reason;
                    health.server_version = Some(beat.server_version);
                    health.heartbeat_ms = Some(started.elapsed().as_secs_f64() * 1000.0);
                    health.seen_at = Some(SystemTime::now());
                    health.answered = Some(Instant::now());
                }
                Err(fault) => {
                    if health.fault.as_ref() != Some(&fault) {
                        tracing::warn!(%side, %fault, "side is in trouble");
                    }
                    // The first time counts: how long it has been silent.
                    if health.fault.as_ref() != Some(&fault) {
                        health.doubted = Some(doubted);
                    }
                    health.fault = Some(fault);
                    health.well_since = None;
                }
            }
        });
        self.inner.stir.notify_one();
    }
}

/// The named background task `health <side>`: probes until the pool closes.
pub(super) async fn run(inner: Arc<Inner>, side: SideId) {
    let mut prober = Prober {
        inner: Arc::clone(&inner),
        side,
        client: None,
        statement: None,
        server: String::new(),
        rebuild: None,
        beats: 0,
    };
    loop {
        prober.round().await;
        tokio::select! {
            () = tokio::time::sleep(inner.config.probe_interval) => {}
            () = inner.sides[side].doubted.notified() => {}
            () = inner.closed() => return,
        }
    }
}

/// The epoch of a side and why it was made, over a connection of its own: for decisions that cannot wait for the next
/// heartbeat.
pub(super) async fn current_epoch(inner: &Inner, side: SideId) -> Result<(Epoch, String), Failure> {
    let conn = connection::Conn::open(&inner.sides[side].writes).await?;
    epoch::read_with_reason(conn.client()?).await
}
