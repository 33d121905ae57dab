//! Every system one short cell after the other, all of it several times: what disturbs the machine disturbs all alike.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::results::{Cost, Results};
use crate::say;
use crate::systems::{self, Condition, Kind, Site, System};
use crate::work::Work;

/// One block of the report: all its systems run side by side.
pub struct Block {
    /// The conditions.
    pub condition: Condition,
    /// What is done.
    pub works: Vec<Work>,
    /// How often.
    pub rounds: usize,
}

/// The systems of a block, started; those that cannot be are noted.
pub async fn start(args: &Args, site: &Site, results: &mut Results) -> Result<Vec<System>> {
    let mut systems = Vec::new();
    for kind in [Kind::Single, Kind::One, Kind::Two, Kind::Standby, Kind::Pgpool] {
        if !args.wants_system(kind) {
            continue;
        }
        let site = site.within(&format!("{:?}-{kind:?}", site.condition).to_lowercase());
        match systems::build(kind, &site).await {
            Ok(system) => systems.push(system),
            // Without these there is nothing to report.
            Err(error) if kind == Kind::Single || kind.is_pool() => {
                return Err(error).with_context(|| format!("{kind} does not start"));
            }
            Err(error) => {
                say(&format!("skipped: {kind}: {error:#}"));
                results.skipped.push((site.condition, kind, format!("{error:#}")));
            }
        }
    }
    Ok(systems)
}

/// Measures a block.
pub async fn measure(
    args: &Args,
    block: &Block,
    systems: &mut [System],
    results: &mut Results,
) -> Result<()> {
    for system in systems.iter() {
        if let Some((now, _)) = system.memory_mb() {
            results.memory.push((block.condition, system.kind, now, now));
        }
    }
    for round in 0..block.rounds {
        for work in &block.works {
            for clients in args.clients() {
                let mut line = format!(
                    "{:?} {}/{} {work:<16} {clients:>3} clients:",
                    block.condition,
                    round + 1,
                    block.rounds
                );
                for system in systems.iter_mut() {
                    if work.is_arbitrary_sql() && !system.kind.is_pool() {
                        continue;
                    }
                    // Different for every cell of a run.
                    let seed = ((round * 7 + *work as usize) * 1000 + clients) as u64 * 100_000;
                    let measured = system
                        .measure(*work, clients, args.cell(), seed)
                        .await
                        .with_context(|| format!("{}: {work}", system.kind))?;
                    let rate = measured.answer.done as f64 / measured.answer.seconds;
                    line.push_str(&format!("  {} {rate:.0}/s", short(system.kind)));
                    results.add(block.condition, *work, clients, system.kind, round, measured);
                }
                say(&line);
            }
        }
    }
    for system in systems.iter() {
        if let Some((_, peak)) = system.memory_mb() {
            for known in &mut results.memory {
                if known.0 == block.condition && known.1 == system.kind {
                    known.3 = peak;
                }
            }
        }
    }
    Ok(())
}

/// Flushes of the log a write. The servers count them exactly only when a session ends, so every cell has fresh instances.
pub async fn costs(args: &Args, systems: &mut [System], results: &mut Results) -> Result<()> {
    let cell = args.cell().max(Duration::from_secs(1));
    for work in [Work::Insert, Work::Update] {
        for clients in args.clients() {
            for system in systems.iter_mut() {
                system.stop_workers().await?;
                system.start_workers().await?;
                let before = system.flushes().await?;
                let seed = (1_000_000 + clients as u64 * 10 + work as u64) * 100_000;
                let measured = system.measure(work, clients, cell, seed).await?;
                system.stop_workers().await?;
                let after = system.flushes().await?;
                if let Some((before, after)) = before.zip(after) {
                    let flushes = (after - before) as f64 / measured.answer.acknowledged.max(1) as f64;
                    say(&format!(
                        "flushes: {} {work} {clients} clients: {flushes:.2}",
                        short(system.kind)
                    ));
                    results.costs.push(Cost {
                        kind: system.kind,
                        work,
                        clients,
                        flushes,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Compares the copies of every system, and stops it. `block`: where in the report it was measured.
pub async fn finish(block: &str, systems: Vec<System>, results: &mut Results) -> Result<()> {
    for system in systems {
        let verdict = system.verdict().await?;
        say(&format!(
            "{block}: {}: {}: {}",
            system.kind,
            if verdict.well { "equal" } else { "NOT EQUAL" },
            verdict.what
        ));
        results
            .verdicts
            .push((format!("{block}: {}", system.kind), system.kind.whose(), verdict));
        system.stop().await?;
    }
    Ok(())
}

fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Single => "single",
        Kind::One => "one",
        Kind::Two => "two",
        Kind::Standby => "standby",
        Kind::Pgpool => "pgpool",
    }
}
