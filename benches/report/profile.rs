//! Where a write's time goes on the servers: every statement as `pg_stat_statements` counts it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::results::Results;
use crate::rounds;
use crate::say;
use crate::systems::{self, Condition, Kind, Site, System};
use crate::work::Work;

/// What the servers load; part of every PostgreSQL with its usual extensions.
pub const LIBRARY: &str = "pg_stat_statements";

const WORK: Work = Work::Insert;

/// Longer than a cell of the tables: nothing is repeated here.
const CELLS: u32 = 4;

/// One system with so many clients.
pub struct Profile {
    pub kind: Kind,
    pub work: Work,
    pub clients: usize,
    /// Microseconds of processor time an operation: application, databases. Counting the statements costs some of it.
    pub cpu_us: [f64; 2],
    pub statements: Vec<Statement>,
}

/// A statement on one of the copies.
pub struct Statement {
    pub side: String,
    /// The function that its text names, or how it begins.
    pub name: String,
    /// Run by a function of the database: its time is also part of another line.
    pub inside: bool,
    /// An operation.
    pub calls: f64,
    /// Microseconds an operation, from the start of its execution to its end: without the message, its plan and the commit.
    pub us: f64,
}

/// Measures a single server, and two with one instance.
pub async fn measure(args: &Args, site: &Site, results: &mut Results) -> Result<()> {
    let mut site = site.clone();
    site.counts_statements = true;
    for kind in [Kind::Single, Kind::One] {
        let site = site.within(&format!("profile-{kind:?}").to_lowercase());
        let mut system = match systems::build(kind, &site).await {
            Ok(system) => system,
            Err(error) => {
                let why = format!("{LIBRARY}: {error:#}");
                say(&format!("skipped: {kind}: {why}"));
                results.skipped.push((Condition::Plain, kind, why));
                continue;
            }
        };
        for clients in [1, 32] {
            say(&format!("statements: {kind}, {clients} clients"));
            let profile = one(args, &mut system, clients).await;
            results
                .profiles
                .push(profile.with_context(|| format!("statements of {kind}"))?);
        }
        rounds::finish("Statements", vec![system], results).await?;
    }
    Ok(())
}

async fn one(args: &Args, system: &mut System, clients: usize) -> Result<Profile> {
    let reset = format!("CREATE EXTENSION IF NOT EXISTS {LIBRARY}; SELECT pg_stat_statements_reset()");
    for (_, client) in system.superusers().await? {
        client.batch_execute(&reset).await?;
    }
    let cell: Duration = args.cell() * CELLS;
    let measured = system
        .measure(WORK, clients, cell, 2_000_000 * clients as u64)
        .await?;
    let operations = measured.answer.acknowledged.max(1) as f64;
    // What another database was asked is ours.
    let sql = "SELECT s.toplevel, left(s.query, 120), s.calls::float8, s.total_exec_time \
               FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid WHERE d.datname <> 'postgres'";
    let mut found: BTreeMap<(String, bool, String), (f64, f64)> = BTreeMap::new();
    for (side, client) in system.superusers().await? {
        for row in client.query(sql, &[]).await? {
            let (toplevel, text): (bool, &str) = (row.get(0), row.get(1));
            let sums = found.entry((side.clone(), !toplevel, name(text))).or_default();
            sums.0 += row.get::<_, f64>(2);
            sums.1 += row.get::<_, f64>(3);
        }
    }
    let statement = |((side, inside, name), (calls, ms)): ((String, bool, String), (f64, f64))| Statement {
        side,
        name,
        inside,
        calls: calls / operations,
        us: ms * 1000.0 / operations,
    };
    Ok(Profile {
        kind: system.kind,
        work: WORK,
        clients,
        cpu_us: measured.cpu_s.map(|seconds| seconds * 1e6 / operations),
        statements: found.into_iter().map(statement).collect(),
    })
}

/// The name that a statement of this project begins with, or its first words.
fn name(text: &str) -> String {
    match text.strip_prefix("-- ").and_then(|rest| rest.lines().next()) {
        Some(name) => name.to_owned(),
        None => {
            let words: Vec<&str> = text.split_whitespace().take(6).collect();
            words.join(" ")
        }
    }
}
