//! The same through HTTP and HAProxy: H1 point read, H2 list, H3 write, and a page with a session.

mod client;
mod front;
pub mod minimal;
mod php;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::meter::memory_mb;
use crate::results::{Line, Results, Wanted, Whose};
use crate::say;
use crate::systems::{Condition, Kind, Measured, Site};
use crate::work::{Step, Work};
use crate::worker::{Answer, Doer, Order, run_clients};
use client::{Client, get, post};
use front::Front;

/// What is measured: the names are those of the works without HTTP.
const WORKS: [Work; 4] = [Work::Point, Work::List, Work::Insert, Work::Session];

/// Measures everything through HTTP.
pub async fn measure(args: &Args, site: &Site, results: &mut Results) -> Result<()> {
    let mut web = front::web(&site.within("http-web"))
        .await
        .context("the web application does not start")?;
    idle(&web, results).await?;
    let mut minimal = front::minimal(&site.within("http-minimal"))
        .await
        .context("the minimal program does not start")?;
    let mut php = match php::build(&site.within("http-php")).await {
        Ok(php) => Some(php),
        Err(error) => {
            say(&format!("skipped: PHP-FPM: {error:#}"));
            results
                .skipped
                .push((Condition::Http, Kind::Single, format!("PHP-FPM: {error:#}")));
            None
        }
    };
    let cookie = session(web.port)
        .await
        .context("a session of the web application")?;
    for round in 0..args.fewer_rounds() {
        for work in WORKS {
            for clients in args.clients() {
                let seed = ((round * 7 + work as usize) * 1000 + clients) as u64 * 100_000;
                let order = Order {
                    work,
                    clients,
                    ms: args.cell().as_millis() as u64,
                    seed,
                };
                let mut line = format!(
                    "http {}/{} {work} {clients} clients:",
                    round + 1,
                    args.fewer_rounds()
                );
                let base = match work {
                    Work::Session => php.as_mut(),
                    _ => Some(&mut minimal),
                };
                let fronts = base.map(|base| (Kind::Single, base, php::SESSION_COOKIE));
                let fronts = fronts.into_iter().chain([(Kind::Two, &mut web, cookie.as_str())]);
                for (kind, front, cookie) in fronts {
                    let measured = cell(front, &order, cookie).await?;
                    line.push_str(&format!(
                        "  {} {:.0}/s",
                        if kind == Kind::Two { "kambana" } else { "other" },
                        measured.answer.done as f64 / measured.answer.seconds
                    ));
                    results.add(Condition::Http, work, clients, kind, round, measured);
                }
                say(&line);
            }
        }
    }
    busy(&web, results);
    for (name, front) in [
        ("web application", Some(web)),
        ("minimal program", Some(minimal)),
        ("PHP", php),
    ] {
        if let Some(front) = front {
            results
                .verdicts
                .push((format!("HTTP: {name}"), Whose::Ours, front.verdict().await?));
            front.stop().await?;
        }
    }
    Ok(())
}

/// What an instance needs before it has anything to do.
async fn idle(web: &Front, results: &mut Results) -> Result<()> {
    let ready = front::ready_again(&web.stack).await?;
    results.lines.push(Line {
        what: "an instance is ready".into(),
        wanted: Wanted::AtMost(1.0),
        measured: ready.as_secs_f64(),
        unit: "s",
    });
    // Its first seconds are over: connections are open, the first comparison is made.
    tokio::time::sleep(Duration::from_secs(2)).await;
    memory(web, "memory of an idle instance", 40.0, results);
    Ok(())
}

fn busy(web: &Front, results: &mut Results) {
    memory(
        web,
        "memory of an instance after all of HTTP, at most",
        150.0,
        results,
    );
}

fn memory(web: &Front, what: &str, most: f64, results: &mut Results) {
    let record = web.stack.record();
    let instance = record.instances.values().find_map(|instance| instance.process);
    if let Some((now, peak)) = instance.and_then(memory_mb) {
        results.lines.push(Line {
            what: what.into(),
            wanted: Wanted::AtMost(most),
            measured: if most > 100.0 { peak } else { now },
            unit: "MB",
        });
    }
}

/// A cookie with a session that has content.
async fn session(port: u16) -> Result<String> {
    let mut client = Client::connect(port).await?;
    let form = "application/x-www-form-urlencoded";
    let (status, _) = client
        .ask(&post("/session/set", form, "name=user&value=hasina", None))
        .await?;
    if status != 303 {
        bail!("the form was answered {status}");
    }
    let cookie = client.cookie.clone().context("no cookie was set")?;
    // The message of the form is shown once; after that the session does not change any more.
    for _ in 0..2 {
        let (status, body) = client.ask(&get("/", Some(&cookie))).await?;
        if status != 200 || !body.windows(6).any(|part| part == b"hasina") {
            bail!("the page was answered {status} without what is in the session");
        }
    }
    Ok(cookie)
}

async fn cell(front: &mut Front, order: &Order, cookie: &str) -> Result<Measured> {
    let mut doers = Vec::new();
    for _ in 0..order.clients {
        doers.push(HttpClient {
            client: Client::connect(front.port).await?,
            work: order.work,
            page: get("/", Some(cookie)),
        });
    }
    let cpu = front.cpu_s();
    let answer: Answer = run_clients(order, doers).await;
    let after = front.cpu_s();
    if order.work == Work::Insert {
        front.inserted.acknowledged += answer.acknowledged;
        front.inserted.doubtful += answer.failed;
    }
    Ok(Measured {
        answer,
        cpu_s: [after[0] - cpu[0], after[1] - cpu[1]],
        log_bytes: 0,
    })
}

struct HttpClient {
    client: Client,
    work: Work,
    page: Vec<u8>,
}

impl Doer for HttpClient {
    async fn act(&mut self, step: Step) -> Result<()> {
        let (status, wanted) = match self.work {
            Work::Point => {
                let request = get(&format!("/api/items/{}", step.id), None);
                (self.client.ask(&request).await?.0, 200)
            }
            Work::List => (self.client.ask(&get("/api/items", None)).await?.0, 200),
            Work::Insert => {
                let body = format!(r#"{{"name":"{}","content":"{}"}}"#, step.name(), step.content());
                let request = post("/api/items", "application/json", &body, None);
                (self.client.ask(&request).await?.0, 201)
            }
            _ => (self.client.ask(&self.page).await?.0, 200),
        };
        if status != wanted {
            bail!("answered {status} instead of {wanted}");
        }
        Ok(())
    }
}
