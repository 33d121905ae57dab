//! Measures what durable twice costs, and writes the report.
//!
//! `cargo bench --bench report -- [--quick] [--only PART,…] [--out docs/performance.md]`; `--help` shows all.
//!
//! # Layout
//!
//! - `args`: what is asked for. `work`: what clients do. `systems`: what is measured, with its databases.
//! - `worker`: an instance of an application, as a process of its own; `crew`: the same seen from outside.
//! - `rounds`: every system one short cell after the other; `meter`: what was used; `equal`: whether the copies are equal.
//! - `profile`: where a write's time goes on the servers.
//! - `http`: the same through HTTP; `bulk`: large tables.
//! - `results`: medians and ratios; `machine`, `report`: the text.
//!
//! The exit code is 1 if an operation failed or copies differ: a fast wrong answer is no figure.

mod args;
mod bulk;
mod crew;
mod equal;
mod http;
mod machine;
mod meter;
mod profile;
mod report;
mod results;
mod rounds;
mod systems;
mod work;
mod worker;

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{Args, Part};
use results::Results;
use rounds::Block;
use systems::{Condition, Site};
use work::Work;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("worker") => worker::main().map(|()| true),
        Some("minimal") => http::minimal::main().map(|()| true),
        _ => measure(&Args::parse()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Progress, for people.
fn say(line: &str) {
    eprintln!("{line}");
}

fn measure(args: &Args) -> Result<bool> {
    let (begun, busy_before) = (machine::now(), machine::busy());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let results = runtime.block_on(run(args))?;
    runtime.shutdown_background();
    let machine = machine::lines(&args.dir, &begun, [busy_before, machine::busy()]);
    let text = report::text(&machine, &results);
    match &args.out {
        Some(path) => report::write(path, &text)?,
        None => println!("{text}"),
    }
    Ok(!results.failed())
}

async fn run(args: &Args) -> Result<Results> {
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&args.dir)?;
    // PostgreSQL runs as a user of its own if this is root.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
    let sockets = tempfile::Builder::new().prefix("kambana-").tempdir()?;
    let plain = Site {
        dir: dir.path().to_path_buf(),
        templates: args.dir.join("templates"),
        sockets: sockets.path().to_path_buf(),
        condition: Condition::Plain,
        preload: None,
        counts_statements: false,
    };
    let mut results = Results::default();
    let works = args.works();
    if !works.is_empty() || args.wants(Part::Costs) {
        let block = Block {
            condition: Condition::Plain,
            works,
            rounds: args.rounds(),
        };
        run_block(args, &plain, block, args.wants(Part::Costs), &mut results).await?;
    }
    let declarative = [Work::Insert, Work::Update, Work::Session];
    for (part, condition) in [
        (Part::SlowFlush, Condition::SlowFlush),
        (Part::SlowLink, Condition::SlowLink),
    ] {
        if !args.wants(part) {
            continue;
        }
        let mut site = plain.clone();
        site.condition = condition;
        if part == Part::SlowFlush {
            site.preload = Some(systems::slow_fsync(dir.path())?);
        }
        let block = Block {
            condition,
            works: declarative.to_vec(),
            rounds: args.fewer_rounds(),
        };
        run_block(args, &site, block, false, &mut results).await?;
    }
    if args.wants(Part::Profile) {
        profile::measure(args, &plain, &mut results).await?;
    }
    if args.wants(Part::Http) {
        Box::pin(http::measure(args, &plain, &mut results)).await?;
    }
    if args.wants(Part::Bulk) {
        Box::pin(bulk::measure(args, &plain, &mut results)).await?;
    }
    Ok(results)
}

async fn run_block(args: &Args, site: &Site, block: Block, costs: bool, results: &mut Results) -> Result<()> {
    let mut systems = rounds::start(args, site, results).await?;
    rounds::measure(args, &block, &mut systems, results).await?;
    if costs {
        rounds::costs(args, &mut systems, results).await?;
    }
    rounds::finish(&format!("{:?}", block.condition), systems, results).await
}
