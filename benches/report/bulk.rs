//! Large tables: comparison, rebuild, catch-up, and what a page costs when the table grows.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kambana::config::PoolConfig;
use kambana::items;
use kambana::listing::ListQuery;
use kambana::local::{Action, Patience, Programs, Stack, Target};
use kambana::multipool::{MultiPool, compare, install};
use tokio_postgres::NoTls;

use crate::args::Args;
use crate::equal;
use crate::results::{Line, Results, Wanted, Whose, median};
use crate::say;
use crate::systems::{Site, WATCHED, databases, side, superuser};
use crate::work::Steps;
use crate::worker::patient;

/// Rows that are made different for the comparison to find.
const DIFFERENT: i64 = 10;

/// Calls of each page.
const CALLS: usize = 200;

/// Rows that are written while a side is out; less than what makes it too old to be caught up.
const MISSED: i64 = 100_000;

/// Rows of one write while a side is out.
const STROKE: i64 = 1_000;

/// For a side to be active again.
const REPAIR_DEADLINE: Duration = Duration::from_secs(600);

struct Bulk<'a> {
    stack: Stack,
    config: PoolConfig,
    results: &'a mut Results,
}

/// Measures everything about large tables.
pub async fn measure(args: &Args, site: &Site, results: &mut Results) -> Result<()> {
    let site = site.within("bulk");
    let most = args.bulk_rows();
    let stack = Stack::start(site.options()).await?;
    let mut config = patient(PoolConfig::new(stack.side_configs(), "bulk"));
    config.state_dir = site.dir("state")?;
    // Its own comparison in the background would disturb.
    config.compare_every = Duration::ZERO;
    grow(&stack, 1, most / 100).await?;
    install(&config, &WATCHED).await?;
    let mut bulk = Bulk {
        stack,
        config,
        results,
    };
    let mut have = most / 100;
    for rows in [most / 100, most / 10, most] {
        if rows > have {
            grow(&bulk.stack, have + 1, rows).await?;
            have = rows;
        }
        bulk.pages(rows).await?;
    }
    bulk.comparison(most).await?;
    bulk.catch_up().await?;
    bulk.rebuild(most + MISSED).await?;
    let databases = databases(&site, &bulk.stack).await?;
    let verdict = equal::same(&databases).await?;
    say(&format!("bulk: {}", verdict.what));
    bulk.results.verdicts.push(("bulk".into(), Whose::Ours, verdict));
    drop(databases);
    bulk.stack.stop().await?;
    Ok(())
}

/// The same rows on every side, behind the back of the pool: nothing of it is to be shipped.
async fn grow(stack: &Stack, from: i64, to: i64) -> Result<()> {
    let sql = format!(
        "SET session_replication_role = replica;
         INSERT INTO items (id, name, content, updated_at)
         SELECT g, 'item ' || g, 'content of ' || lpad(g::text, 20, '0') || ', written by the benchmark', '2026-01-01'
         FROM generate_series({from}, {to}) AS g;
         RESET session_replication_role"
    );
    let on_each = stack.record().sides.into_keys().map(|side| {
        let sql = &sql;
        async move {
            let client = superuser_of_database(stack, &side).await?;
            client.batch_execute(sql).await?;
            client.batch_execute("VACUUM ANALYZE items").await?;
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(on_each).await?;
    Ok(())
}

async fn superuser_of_database(stack: &Stack, side: &str) -> Result<tokio_postgres::Client> {
    let record = stack.record();
    let known = record.sides.get(side).context("there is no such side")?;
    superuser(stack, side, &known.database).await
}

impl Bulk<'_> {
    fn line(&mut self, what: impl Into<String>, wanted: Wanted, measured: f64, unit: &'static str) {
        let line = Line {
            what: what.into(),
            wanted,
            measured,
            unit,
        };
        say(&format!("bulk: {}: {:.3} {unit}", line.what, line.measured));
        self.results.lines.push(line);
    }

    async fn open(&self) -> Result<MultiPool> {
        let pool = MultiPool::connect(self.config.clone()).await?;
        whole(&pool).await?;
        Ok(pool)
    }

    /// A list and an item.
    async fn pages(&mut self, rows: i64) -> Result<()> {
        let pool = self.open().await?;
        let (mut lists, mut items_ms, mut steps) = (Vec::new(), Vec::new(), Steps::new(rows as u64));
        for _ in 0..CALLS {
            let began = Instant::now();
            items::list(&pool, &ListQuery::default()).await?;
            lists.push(ms(began));
            let id = i32::try_from(steps.step().number % rows as u64)? + 1;
            let began = Instant::now();
            items::get(&pool, id).await?.context("an item is missing")?;
            items_ms.push(ms(began));
        }
        pool.close().await;
        for (name, found) in [("list", lists), ("item", items_ms)] {
            let middle = median(found).unwrap_or(0.0);
            self.line(format!("{name} page of {rows} rows"), Wanted::Shown, middle, "ms");
            let first = format!("{name} page of ");
            let base = self
                .results
                .lines
                .iter()
                .find(|line| line.what.starts_with(&first));
            if let Some(base) = base.map(|line| line.measured)
                && middle != base
            {
                // The same, as far as a busy machine can tell.
                self.line(
                    format!("{name} page: {rows} rows against the smallest table"),
                    Wanted::AtMost(1.5),
                    middle / base,
                    "times",
                );
            }
        }
        Ok(())
    }

    /// Ten rows differ, as after bit rot: nothing in the journal explains them.
    async fn comparison(&mut self, rows: i64) -> Result<()> {
        let client = superuser_of_database(&self.stack, "b").await?;
        let change = |content: &str| {
            format!(
                "SET session_replication_role = replica;
                 UPDATE items SET content = {content} WHERE id % {} = 7;
                 RESET session_replication_role",
                rows / DIFFERENT
            )
        };
        client.batch_execute(&change("content || '!'")).await?;
        let compared = compare(&self.config).await?;
        if compared.differing() as i64 != DIFFERENT {
            bail!(
                "{} differing rows were found instead of {DIFFERENT}",
                compared.differing()
            );
        }
        self.line(
            format!("{rows} rows compared, {DIFFERENT} differing rows named"),
            // What was asked for is said for a million rows.
            Wanted::AtMost(2.0 * rows as f64 / 1e6),
            compared.took_ms / 1000.0,
            "s",
        );
        self.line(
            "the longest time that writers wait for a comparison",
            Wanted::Shown,
            compared.pause_ms,
            "ms",
        );
        client.batch_execute(&change("rtrim(content, '!')")).await?;
        Ok(())
    }

    /// A side misses rows and is caught up.
    async fn catch_up(&mut self) -> Result<()> {
        let pool = self.open().await?;
        let b = Target::Side(side("b")?);
        self.stack.act(Action::Stop, b).await?;
        let began = Instant::now();
        for _ in 0..MISSED / STROKE {
            let sql = format!(
                "INSERT INTO items (name) SELECT 'missed ' || g FROM generate_series(1, {STROKE}) AS g"
            );
            pool.transactional_write(&sql, &[]).await?;
        }
        let written = MISSED as f64 / began.elapsed().as_secs_f64();
        self.line(
            "rows written in strokes of 1000 while a side is out",
            Wanted::Shown,
            written,
            "rows/s",
        );
        self.stack.act(Action::Start, b).await?;
        let began = Instant::now();
        whole(&pool).await?;
        let caught_up = MISSED as f64 / began.elapsed().as_secs_f64();
        self.line(
            "catch-up, from the start of the side until it is active",
            Wanted::AtLeast(20_000.0),
            caught_up,
            "rows/s",
        );
        pool.close().await;
        Ok(())
    }

    /// A side is lost with everything on it, and copied anew.
    async fn rebuild(&mut self, rows: i64) -> Result<()> {
        let bare = self.bare_copy().await?;
        let pool = self.open().await?;
        let b = Target::Side(side("b")?);
        self.stack.act(Action::Wipe, b).await?;
        self.stack.act(Action::Start, b).await?;
        let began = Instant::now();
        whole(&pool).await?;
        let took = began.elapsed().as_secs_f64();
        pool.close().await;
        self.line(
            format!("bare `COPY … BINARY` of {rows} rows"),
            Wanted::Shown,
            bare,
            "s",
        );
        self.line(
            format!("rebuild of {rows} rows, until the side is active"),
            Wanted::Shown,
            took,
            "s",
        );
        self.line(
            "rebuild against the bare copy",
            Wanted::AtMost(1.5),
            took / bare,
            "times",
        );
        Ok(())
    }

    /// The same rows from one server to the other and into a table with the same index, and nothing else.
    async fn bare_copy(&self) -> Result<f64> {
        let (from, to) = (self.stack.dsn(side("a")?), self.stack.dsn(side("b")?));
        let (target, connection) = tokio_postgres::connect(&to, NoTls).await?;
        tokio::spawn(connection);
        target
            .batch_execute("CREATE TABLE bare (LIKE items INCLUDING ALL)")
            .await?;
        let began = Instant::now();
        let copied = tokio::task::spawn_blocking(move || pipe(&from, &to)).await?;
        let took = began.elapsed().as_secs_f64();
        copied?;
        target.batch_execute("DROP TABLE bare").await?;
        Ok(took)
    }
}

/// `psql … | psql …`
fn pipe(from: &str, to: &str) -> Result<()> {
    let program = Programs::find()?.postgres[0].bin.join("psql");
    let psql = |dsn: &str, sql: &str| {
        let mut command = Command::new(&program);
        // In the environment, because a list of processes would show the password.
        command
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .envs(in_environment(dsn));
        command
    };
    let mut source = psql(from, "COPY items TO STDOUT (FORMAT binary)")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let rows = source.stdout.take().context("no output")?;
    let written = psql(to, "COPY bare FROM STDIN (FORMAT binary)")
        .stdin(rows)
        .status()?;
    if !source.wait()?.success() || !written.success() {
        bail!("the bare copy failed");
    }
    Ok(())
}

/// A connection string of a stack, as libpq's variables.
fn in_environment(dsn: &str) -> Vec<(&'static str, String)> {
    let parsed: tokio_postgres::Config = dsn.parse().unwrap_or_default();
    let password = parsed.get_password().unwrap_or_default();
    let port = parsed.get_ports().first().copied().unwrap_or_default();
    vec![
        ("PGHOST", "127.0.0.1".into()),
        ("PGPORT", port.to_string()),
        ("PGUSER", parsed.get_user().unwrap_or_default().into()),
        ("PGPASSWORD", String::from_utf8_lossy(password).into_owned()),
        ("PGDATABASE", parsed.get_dbname().unwrap_or_default().into()),
    ]
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Waits until every side is active.
async fn whole(pool: &MultiPool) -> Result<()> {
    let mut patience = Patience::new(REPAIR_DEADLINE);
    loop {
        let status = pool.status();
        if status.is_whole() && status.writable {
            return Ok(());
        }
        if !patience.pause().await {
            let events = status.events.iter().map(|event| event.what.to_string());
            bail!(
                "not every side became active: {}",
                events.collect::<Vec<_>>().join("; ")
            );
        }
    }
}
