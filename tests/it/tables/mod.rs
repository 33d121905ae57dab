//! Any table: carried faithfully through every door and through repair, or refused by `watch` with the reason.
//! docs/tables.md lists the kinds; each names its test here.

mod big;
mod constraints;
mod flips;
mod kinds;
mod many;
mod random;
mod refusals;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use kambana::config::PoolConfig;
use kambana::local::{Action, Target};
use kambana::multipool::{MultiPool, OpId, install};
use tokio_postgres::Client;

use crate::support::{Running, connect, healed, number, pair, side, whole};

const HEAL: Duration = Duration::from_secs(60);

/// Two databases with watched tables of the test's own, and one instance as a library.
pub struct Twins {
    pub stack: Running,
    pub pool: MultiPool,
    pub a: Client,
    pub b: Client,
    tables: Vec<String>,
}

pub fn config(stack: &Running, instance: &str) -> PoolConfig {
    let mut config = PoolConfig::new(stack.side_configs(), instance);
    config.state_dir = stack.place().dir.join("state");
    config
}

impl Twins {
    /// Runs `ddl` on both sides and watches `tables`, given as `kambana watch` takes them.
    pub async fn new(ddl: &str, tables: &[&str]) -> Twins {
        let stack = pair().await;
        let (a, b) = (
            connect(&stack.dsn(side("a"))).await.unwrap(),
            connect(&stack.dsn(side("b"))).await.unwrap(),
        );
        for client in [&a, &b] {
            client
                .batch_execute(ddl)
                .await
                .unwrap_or_else(|e| panic!("{:?}: {ddl}", e.as_db_error()));
        }
        install(&config(&stack, "init"), tables).await.unwrap();
        Twins::over(stack, tables).await
    }

    /// An instance over databases that are ready.
    pub async fn over(stack: Running, tables: &[&str]) -> Twins {
        let (a, b) = (
            connect(&stack.dsn(side("a"))).await.unwrap(),
            connect(&stack.dsn(side("b"))).await.unwrap(),
        );
        let pool = MultiPool::connect(config(&stack, "web1")).await.unwrap();
        let tables = tables.iter().map(|t| (*t).to_owned()).collect();
        Twins {
            stack,
            pool,
            a,
            b,
            tables,
        }
    }

    /// One transaction of the general door.
    pub async fn write(&self, sql: &[String]) {
        let sql = sql.to_vec();
        let done = self.pool.transaction(OpId::new(), move |tx| {
            let sql = sql.clone();
            Box::pin(async move {
                for text in &sql {
                    tx.execute(text, &[]).await?;
                }
                Ok(())
            })
        });
        done.await.unwrap();
    }

    /// One transaction of somebody else.
    pub async fn write_foreign(&self, name: &str, sql: &[String]) {
        let client = if name == "a" { &self.a } else { &self.b };
        let all = format!("BEGIN; {}; COMMIT", sql.join("; "));
        client
            .batch_execute(&all)
            .await
            .unwrap_or_else(|e| panic!("{:?}: {all}", e.as_db_error()));
    }

    pub async fn healed(&self) {
        healed(&self.stack, HEAL).await;
    }

    /// Side b crashes; the pool notices and goes on without it.
    pub async fn b_leaves(&self) {
        self.stack
            .act(Action::Crash, Target::Side(side("b")))
            .await
            .unwrap();
        crate::support::eventually("side b is out", HEAL, || async {
            number(
                &self.stack.dsn(side("a")),
                "SELECT members::bigint FROM kambana.epoch",
            )
            .await
                == 1
        })
        .await;
    }

    pub async fn b_returns(&mut self) {
        self.b_answers().await;
        whole(&self.stack, HEAL).await;
    }

    /// Side b answers; whether it is taken back is the pool's business.
    pub async fn b_answers(&mut self) {
        self.stack
            .act(Action::Start, Target::Side(side("b")))
            .await
            .unwrap();
        self.b = connect(&self.stack.dsn(side("b"))).await.unwrap();
    }

    /// Every watched table on both sides, by the test's own SQL: as text, and as PostgreSQL's own bytes.
    pub async fn assert_same(&self, when: &str) {
        for table in &self.tables {
            let (a, b) = (dump(&self.a, table).await, dump(&self.b, table).await);
            let only = |x: &BTreeMap<String, Vec<u8>>, y: &BTreeMap<String, Vec<u8>>| -> Vec<String> {
                x.iter()
                    .filter(|(k, v)| y.get(*k) != Some(v))
                    .take(5)
                    .map(|(k, _)| k.clone())
                    .collect()
            };
            assert!(
                a == b,
                "{when}: table {table} differs\nonly on a: {:#?}\nonly on b: {:#?}",
                only(&a, &b),
                only(&b, &a)
            );
        }
    }

    pub async fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {}", quoted(table));
        self.a.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Ends the instance and starts another one later: in between nobody brings the sides together.
    pub async fn pause(&mut self) {
        self.pool.close().await;
    }

    pub async fn resume(&mut self) {
        self.pool = MultiPool::connect(config(&self.stack, "web1")).await.unwrap();
    }

    pub async fn stop(self) {
        self.pool.close().await;
        self.stack.stop().await.unwrap();
    }
}

/// `schema.table` or `table`, with quotes.
pub fn quoted(table: &str) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    match table.split_once('.') {
        Some((schema, table)) => format!("{}.{}", quote(schema), quote(table)),
        None => quote(table),
    }
}

/// Rows as text with their bytes as COPY sends them.
async fn dump(client: &Client, table: &str) -> BTreeMap<String, Vec<u8>> {
    client
        .batch_execute("SET TIME ZONE 'UTC'; SET extra_float_digits = 1")
        .await
        .unwrap();
    let sql = format!(
        "SELECT \"~\"::text FROM {0} AS \"~\" ORDER BY \"~\"::text COLLATE \"C\"",
        quoted(table)
    );
    let texts: Vec<String> = client
        .query(&sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    // Object numbers of types of one's own are part of the bytes of arrays and composites, and differ between servers.
    let columns: Vec<String> = client
        .query(
            "SELECT quote_ident(a.attname) || CASE WHEN y.typnamespace = 'pg_catalog'::regnamespace THEN '' ELSE '::text' END
             FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
             WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname",
            &[&quoted(table)],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let copy = format!(
        "COPY (SELECT {} FROM {} AS \"~\" ORDER BY \"~\"::text COLLATE \"C\") TO STDOUT (FORMAT binary)",
        columns.join(", "),
        quoted(table)
    );
    let bytes: Vec<u8> = client
        .copy_out(&copy)
        .await
        .unwrap()
        .try_fold(Vec::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .unwrap();
    let mut rows: BTreeMap<String, Vec<u8>> = texts.into_iter().map(|text| (text, Vec::new())).collect();
    rows.insert("all rows as bytes".into(), bytes);
    rows
}

/// A kind of table, with a life for some of its rows.
pub struct Kind {
    pub name: &'static str,
    /// Run on both sides.
    pub ddl: &'static str,
    /// As `kambana watch` takes them.
    pub tables: &'static [&'static str],
    /// One transaction each; `{n}` is a number of its own every time the life is lived, `{m}` the one after it.
    pub life: &'static [&'static [&'static str]],
}

fn lived(statements: &[&str], n: i64) -> Vec<String> {
    statements
        .iter()
        .map(|s| {
            s.replace("{n}", &n.to_string())
                .replace("{m}", &(n + 1).to_string())
        })
        .collect()
}

/// Lives every kind's life through the pool, as a foreign write on each side, while side b is out, and half before and
/// half after it has left.
pub async fn live(kinds: &[Kind]) {
    let ddl: Vec<&str> = kinds.iter().map(|k| k.ddl).collect();
    let tables: Vec<&str> = kinds.iter().flat_map(|k| k.tables).copied().collect();
    let mut twins = Twins::new(&ddl.join(";\n"), &tables).await;
    for kind in kinds {
        for part in kind.life {
            twins.write(&lived(part, 100)).await;
        }
        assert!(
            twins.stack_whole().await,
            "{}: a follower was given up for what its leader took",
            kind.name
        );
        twins.healed().await;
        twins
            .assert_same(&format!("{} through the pool", kind.name))
            .await;
    }
    for (name, n) in [("a", 200), ("b", 300)] {
        for place in 0..kinds.iter().map(|k| k.life.len()).max().unwrap_or(0) {
            for part in kinds.iter().filter_map(|k| k.life.get(place)) {
                twins.write_foreign(name, &lived(part, n)).await;
            }
            twins.healed().await;
            twins.assert_same(&format!("foreign writes on {name}")).await;
        }
    }
    // Half of each life before b leaves, half while it is out; and a whole one.
    for kind in kinds {
        for part in kind.life.iter().take(kind.life.len() / 2) {
            twins.write(&lived(part, 400)).await;
        }
    }
    twins.healed().await;
    twins.b_leaves().await;
    for kind in kinds {
        for part in kind.life.iter().skip(kind.life.len() / 2) {
            twins.write(&lived(part, 400)).await;
        }
        for part in kind.life {
            twins.write(&lived(part, 500)).await;
        }
    }
    twins.b_returns().await;
    twins.healed().await;
    twins.assert_same("after the return of b").await;
    for table in twins.tables.clone() {
        assert!(
            twins.count(&table).await > 0,
            "table {table} is empty: nothing was proved"
        );
    }
    twins.stop().await;
}

impl Twins {
    /// Whether both sides are still members of the first epoch.
    pub async fn stack_whole(&self) -> bool {
        number(&self.stack.dsn(side("a")), "SELECT n FROM kambana.epoch").await == 1
    }
}
