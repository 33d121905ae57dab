//! One drill from beginning to end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as signal;
use uuid::Uuid;

use super::DrillError;
use super::dump::{self, Asked, Row, Unequal};
use super::faults::{HEAL_LIMIT, Stage};
use super::history::History;
use super::load::{Load, LoadOptions, settle};
use super::plan::{Fault, Kind, Move, Plan};
use super::report::{Machine, Report};
use super::verdict::{Deed, Evidence, FaultDone, judge};
use super::watch::Watch;
use crate::local::Patience;

/// Before the first fault, and to be sure that anything is written at all.
const WARM_UP: usize = 50;
const WARM_UP_LIMIT: Duration = Duration::from_secs(30);
/// What an instance says sooner after a change it may not have noticed yet: a heartbeat takes 250 ms.
const NOTICE: Duration = Duration::from_millis(400);
/// Between a heal and the next fault, so that a gap belongs to one fault.
const BREATH: Duration = Duration::from_millis(1200);
/// For outcomes to become final after the last write, and for the cluster to be whole.
const SETTLE_LIMIT: Duration = Duration::from_secs(45);
/// For differences to vanish when it is whole.
const LOOK_LIMIT: Duration = Duration::from_secs(15);

/// Where to drill.
#[derive(Clone, Debug)]
pub enum Where {
    /// On the `kambana up` that runs on this directory.
    Attached(PathBuf),
    /// On a cluster of its own in this directory.
    Own(PathBuf),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// Where.
    pub place: Where,
    /// The `kambana` program, for a cluster of its own.
    pub program: PathBuf,
    /// Decides everything.
    pub seed: u64,
    /// For how long faults are made; the last one is ended in order.
    pub time: Duration,
    /// Clients at once.
    pub clients: usize,
    /// What may be broken.
    pub kinds: Vec<&'static Kind>,
    /// The command that repeats this run.
    pub command: String,
}

/// Something to call with each line for the person at the terminal.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Becomes true when the person at the terminal has had enough.
pub type Stop = signal::Receiver<bool>;

/// Carries out a drill. What it breaks is mended on every way out.
///
/// # Errors
/// The drill itself failed; see [`DrillError`].
pub async fn run(options: DrillOptions, tell: Tell, stop: Stop) -> Result<Report, DrillError> {
    let (stage, dir) = match &options.place {
        Where::Attached(dir) => (Stage::attach(dir)?, dir.clone()),
        Where::Own(dir) => {
            tell(&format!(
                "starting two databases, two instances and HAProxy in {}",
                dir.display()
            ));
            (Stage::own(dir, &options.program).await?, dir.clone())
        }
    };
    let stage = Arc::new(stage);
    let mut drill = Drill {
        stage: Arc::clone(&stage),
        run: Uuid::new_v4().simple().to_string()[..8].to_owned(),
        begun: Instant::now(),
        options,
        tell,
        stop,
        dir,
    };
    let result = drill.carry_out().await;
    // Also after a mistake of ours: nothing may be left frozen or stopped.
    let mended = stage.mend().await;
    let closed = stage.close().await;
    let report = result?;
    mended.and(closed)?;
    Ok(report)
}

struct Drill {
    stage: Arc<Stage>,
    /// Names this run, and its rows.
    run: String,
    begun: Instant,
    options: DrillOptions,
    tell: Tell,
    stop: Stop,
    dir: PathBuf,
}

impl Drill {
    fn mark(&self) -> String {
        format!("drill {} ", self.run)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn tell(&self, what: &str) {
        (self.tell)(what);
    }

    fn url(&self) -> Result<String, DrillError> {
        let haproxy = self.stage.record()?.haproxy;
        haproxy
            .map(|haproxy| haproxy.url)
            .ok_or_else(|| DrillError::Cluster("there is no HAProxy to write through".into()))
    }

    async fn carry_out(&mut self) -> Result<Report, DrillError> {
        let started = jiff::Timestamp::now();
        let machine = self.machine().await?;
        let indented = {
            let tell = Arc::clone(&self.tell);
            move |what: &str| tell(&format!("    {what}"))
        };
        let watch = Watch::start(Arc::clone(&self.stage), self.begun, indented);
        self.until(
            "every side is active before the first fault",
            WARM_UP_LIMIT,
            || watch.is_whole(),
        )
        .await?;
        let url = self.url()?;
        let load = Load::start(
            LoadOptions {
                url: url.clone(),
                mark: self.mark(),
                clients: self.options.clients,
                seed: self.options.seed,
                planned: self.options.time,
            },
            self.begun,
        );
        self.tell(&format!("{} clients write through {url}", self.options.clients));
        let warm = self
            .until("the first changes are acknowledged", WARM_UP_LIMIT, || {
                load.acknowledged() >= WARM_UP
            })
            .await;
        let faults = match warm {
            Ok(()) => self.campaign(&watch, &load).await,
            Err(e) => Err(e),
        };
        // The clients need a cluster that answers to come to an end.
        self.stage.mend().await?;
        let mut history = load.stop().await.map_err(DrillError::Drill)?;
        let mut faults = faults?;
        let end = self.now();
        self.tell("the load has ended; looking at every row of every database");
        settle(&url, &mut history, self.begun, SETTLE_LIMIT).await;
        let (dumps, unequal) = self.look(&watch).await?;
        let successes = history.successes();
        for fault in &mut faults {
            fault.measure(&history, &successes, end);
        }
        let verdict = judge(&Evidence {
            history: &history,
            mark: &self.mark(),
            dumps: &dumps,
            unequal: &unequal,
            faults: &faults,
            end,
        });
        let mut report = Report {
            kambana: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("KAMBANA_COMMIT").map(str::to_owned),
            command: self.options.command.clone(),
            seed: self.options.seed,
            started: started.to_string(),
            length: end,
            clients: self.options.clients,
            own: matches!(*self.stage, Stage::Own(_)),
            ended_early: *self.stop.borrow(),
            machine,
            faults,
            epochs: watch.epochs(),
            slices: super::timeline::slices(&successes, end),
            verdict,
            left: Vec::new(),
        };
        drop(watch);
        self.leave(&mut report, &history, &dumps, &url).await?;
        Ok(report)
    }

    async fn machine(&self) -> Result<Machine, DrillError> {
        let mut postgresql = BTreeMap::new();
        for asked in self.ask_sides().await? {
            postgresql.insert(asked.name.clone(), asked.version().await?);
        }
        Ok(Machine::here(postgresql))
    }

    async fn ask_sides(&self) -> Result<Vec<Asked>, DrillError> {
        let mut asked = Vec::new();
        for (name, side) in &self.stage.record()?.sides {
            asked.push(dump::connect(name, &side.dsn).await?);
        }
        Ok(asked)
    }

    async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), DrillError> {
        let mut patience = Patience::new(limit);
        while !condition() {
            if !patience.pause().await {
                return Err(DrillError::Cluster(format!(
                    "not within {} s: {what}",
                    limit.as_secs()
                )));
            }
        }
        Ok(())
    }

    /// One fault after another, until the time is over, somebody stops it, or the cluster does not heal.
    async fn campaign(&mut self, watch: &Watch, load: &Load) -> Result<Vec<FaultDone>, DrillError> {
        let record = self.stage.record()?;
        let (sides, webs) = (record.sides.len(), record.instances.len());
        let plan = Plan::new(self.options.seed, self.options.kinds.clone(), sides, webs);
        let mut done = Vec::new();
        let until = self.now() + self.options.time;
        for fault in plan {
            if self.now() >= until || self.wait(BREATH).await == Next::Stop {
                break;
            }
            let outcome = self.perform(&fault, watch, load).await?;
            let healed = outcome.healed.is_some();
            done.push(outcome);
            if !healed {
                self.tell("    NOT HEALED in time: the campaign ends here");
                break;
            }
        }
        Ok(done)
    }

    /// Breaks, mends, and waits until the cluster is whole and writes again.
    async fn perform(&mut self, fault: &Fault, watch: &Watch, load: &Load) -> Result<FaultDone, DrillError> {
        self.tell(&format!("{fault}  [{}]", fault.kind.name));
        let (began, epoch_before) = (self.now(), watch.epoch());
        let mut deeds = Vec::new();
        for step in &fault.moves {
            match *step {
                Move::Do(action, target) => {
                    self.tell(&format!("    {action} {target}"));
                    let at = self.now();
                    self.stage.act(action, target).await?;
                    deeds.push(Deed::new(at, action, target));
                }
                Move::Wait(time) => {
                    if self.wait(time).await == Next::Stop {
                        break;
                    }
                }
            }
        }
        // Does nothing unless it was cut short.
        self.stage.mend().await?;
        let mended = self.now();
        let heal = self.until("healed", HEAL_LIMIT, || {
            watch.is_whole_since(mended + NOTICE) && load.last_success() > mended
        });
        let healed = heal.await.is_ok().then(|| self.now());
        let mut outcome = FaultDone {
            kind: fault.kind.name.to_owned(),
            says: fault.to_string(),
            deeds,
            began,
            mended,
            healed,
            budget: fault.kind.budget,
            may_fail: fault.kind.may_fail,
            epoch_before,
            epoch_after: watch.epoch(),
            gap: Duration::ZERO,
            failed: 0,
            acknowledged: 0,
        };
        load.peek(|history| outcome.measure(history, &history.successes(), self.now()));
        self.tell(&format!("    {}", outcome.summary()));
        Ok(outcome)
    }

    /// Waits, or says that somebody wants to stop.
    async fn wait(&mut self, time: Duration) -> Next {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            // A sender that is gone never wants to stop.
            Ok(_) = self.stop.wait_for(|stop| *stop) => {}
        }
        match *self.stop.borrow() {
            true => Next::Stop,
            false => Next::GoOn,
        }
    }

    /// What the databases hold after the last write. Others may be writing to the other rows: what is different at one look
    /// and equal at the next was on its way.
    async fn look(&self, watch: &Watch) -> Result<(BTreeMap<String, Vec<Row>>, Vec<Unequal>), DrillError> {
        // If it is not whole in time, the rows show what that means.
        let _ = self
            .until("whole after the last write", SETTLE_LIMIT, || watch.is_whole())
            .await;
        let mut patience = Patience::new(LOOK_LIMIT);
        let mut asked = self.ask_sides().await?;
        let mut dumps = BTreeMap::new();
        let first = asked.remove(0);
        let mut unequal: Option<Vec<Unequal>> = None;
        loop {
            let now = dump::unequal(&first, &asked).await?;
            let still = match unequal {
                None => now,
                Some(before) => {
                    let same = |u: &Unequal| before.iter().any(|b| b.table == u.table && b.key == u.key);
                    now.into_iter().filter(same).collect()
                }
            };
            if still.is_empty() || !patience.pause().await {
                for side in std::iter::once(&first).chain(&asked) {
                    dumps.insert(side.name.clone(), side.marked(&self.mark()).await?);
                }
                return Ok((dumps, still));
            }
            unequal = Some(still);
        }
    }

    /// After a good run nothing of it is left in a cluster of somebody else; after a bad one everything is, to be looked at.
    async fn leave(
        &self,
        report: &mut Report,
        history: &History,
        dumps: &BTreeMap<String, Vec<Row>>,
        url: &str,
    ) -> Result<(), DrillError> {
        if report.is_fine() {
            if !report.own {
                let ids = dumps.values().flatten().map(|row| row.id);
                let left = super::load::clean_up(url, ids.collect()).await;
                if left > 0 {
                    report.left.push(format!(
                        "{left} items named `{}…` could not be deleted",
                        self.mark()
                    ));
                }
            }
            return Ok(());
        }
        let file = self.dir.join(format!("drill-{}.json", self.run));
        let evidence = serde_json::json!({ "report": &report, "history": history, "dumps": dumps });
        std::fs::write(&file, evidence.to_string())
            .map_err(|e| DrillError::Drill(format!("cannot write {}: {e}", file.display())))?;
        report
            .left
            .push(format!("what the clients did and were told: {}", file.display()));
        report
            .left
            .push(format!("the rows of this run: items named `{}…`", self.mark()));
        let record = self.stage.record()?;
        let logs = record.sides.values().map(|side| &side.log);
        for log in logs.chain(record.instances.values().map(|instance| &instance.log)) {
            report.left.push(format!("log: {}", log.display()));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}
