//! Case 56: whatever a statement says, both sides give the same verdict and hold the same bytes afterwards.

use std::time::Duration;

use futures::StreamExt;
use kambana::config::PoolConfig;
use kambana::multipool::{Change, Fields, MultiPool, OpId, Value, install};

use tokio_postgres::Client;

use super::stage::run;
use crate::load::Dice;
use crate::support::{Running, connect, healed, pair, setting, side};

const DDL: &str = "CREATE TABLE odd (
    id serial PRIMARY KEY,
    t text DEFAULT md5(random()::text),
    f8 double precision DEFAULT random(),
    f4 real,
    n numeric,
    ts timestamp DEFAULT now(),
    tz timestamptz DEFAULT clock_timestamp(),
    d date DEFAULT CURRENT_DATE,
    iv interval,
    by bytea,
    j json,
    jb jsonb,
    l int[],
    u uuid DEFAULT gen_random_uuid(),
    b boolean,
    c char(5),
    v varchar(10),
    i2 smallint CHECK (i2 <> 13),
    by_whom name DEFAULT current_user
)";

/// Columns and what may be written into them: expressions that differ every time they are evaluated, values at the
/// edge of their type, and values that must be refused.
const COLUMNS: &[(&str, &[&str])] = &[
    (
        "t",
        &[
            "md5(random()::text)",
            "repeat('x', 3000)",
            "'a' || chr(0)",
            "E'\\xff'",
            "convert_from('\\xc3', 'UTF8')",
            "U&'\\+01F600'",
            "E'\\t\\n\\\\ \"''(,)'",
            "''",
            "txid_current()::text",
        ],
    ),
    (
        "f8",
        &[
            "random()",
            "'NaN'",
            "'-0'",
            "'Infinity'",
            "1e308 * 1e308",
            "5e-324",
            "0.1 + 0.2",
            "1 / 0",
            "exp(random())",
        ],
    ),
    ("f4", &["random()", "'-0'", "1e-45", "16777217", "1e39", "0.1"]),
    (
        "n",
        &[
            "1.10",
            "'NaN'",
            "1e1000",
            "random()::numeric",
            "0.000",
            "-0.0",
            "1e200000",
        ],
    ),
    (
        "ts",
        &[
            "now()",
            "clock_timestamp()",
            "'infinity'",
            "'0044-03-15 BC'",
            "'294277-01-01'",
            "'tomorrow'",
        ],
    ),
    (
        "tz",
        &[
            "now()",
            "'-infinity'",
            "'2024-03-31 02:30 Europe/Paris'",
            "clock_timestamp()",
        ],
    ),
    (
        "d",
        &["CURRENT_DATE", "'2024-02-29'", "'2023-02-29'", "'infinity'"],
    ),
    (
        "iv",
        &[
            "'1 mon -1 day 00:00:00.000001'",
            "age(now(), '2000-01-01')",
            "'178000000 years'",
            "'200000000 years'",
        ],
    ),
    (
        "by",
        &["'\\x00ff'", "decode(md5(random()::text), 'hex')", "'\\xzz'", "''"],
    ),
    (
        "j",
        &["'{\"a\":  1, \"a\": null}'", "'null'", "'{'", "'\"\\u0000\"'"],
    ),
    (
        "jb",
        &[
            "'{\"a\":  1.0, \"a\": null}'",
            "'null'",
            "'\"\\u0000\"'",
            "to_jsonb(random())",
        ],
    ),
    (
        "l",
        &[
            "'[2:3]={7,8}'",
            "'{}'",
            "'{NULL,1}'",
            "array[1, 2 / 0]",
            "'{{1,2},{3,4}}'",
        ],
    ),
    ("u", &["gen_random_uuid()", "'x'"]),
    ("b", &["random() < 0.5", "NULL"]),
    ("c", &["'ab'", "'toolong'", "'é'", "''"]),
    ("v", &["'0123456789'", "'01234567890'", "'ééééééééé'"]),
    ("i2", &["13", "32767", "32768", "(random() * 100)::int"]),
];

fn pick<'a, T>(dice: &mut Dice, from: &'a [T]) -> &'a T {
    &from[dice.below(from.len() as u64) as usize]
}

/// One statement of arbitrary SQL.
fn statement(dice: &mut Dice) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for _ in 0..1 + dice.below(3) {
        let (column, values) = pick(dice, COLUMNS);
        if columns.iter().all(|(known, _)| known != column) {
            columns.push((column, pick::<&str>(dice, values)));
        }
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value)| *value).collect();
    match dice.below(6) {
        0 | 1 => format!(
            "INSERT INTO odd ({}) VALUES ({})",
            names.join(", "),
            values.join(", ")
        ),
        2 => format!(
            "INSERT INTO odd ({}) SELECT {} FROM generate_series(1, {})",
            names.join(", "),
            values.join(", "),
            1 + dice.below(4)
        ),
        3 => {
            let set: Vec<String> = columns.iter().map(|(c, v)| format!("{c} = {v}")).collect();
            format!("UPDATE odd SET {} WHERE random() < 0.3", set.join(", "))
        }
        4 => format!(
            "INSERT INTO odd (id, {}) VALUES ({}, {}) ON CONFLICT (id) DO UPDATE SET t = 'again ' || random()",
            names.join(", "),
            1 + dice.below(40),
            values.join(", ")
        ),
        _ => "DELETE FROM odd WHERE id IN (SELECT id FROM odd ORDER BY random() LIMIT 2)".to_owned(),
    }
}

/// One declarative insert of values as texts, as a form or a file brings them.
fn declared(dice: &mut Dice) -> Vec<Change> {
    let texts: &[(&str, &[&str])] = &[
        ("t", &["nul\0byte", "plain", "\u{feff}", "\\x00", "NULL"]),
        ("f8", &["NaN", "-0", "1e400", "0.1", "1e-400", "four"]),
        ("n", &["1.100", "-0.00", "Infinity", "1,5"]),
        ("tz", &["now", "2024-01-01 00:00:00+14", "yesterday", "25:00"]),
        ("i2", &["13", "-32768", "40000", " 7 "]),
        ("jb", &["{\"b\":1,\"a\":2}", "[", "\"\\u0000\""]),
    ];
    let mut fields = Fields::new();
    for _ in 0..2 {
        let (column, values) = pick(dice, texts);
        if fields.get(column).is_none() {
            fields = fields.with(column, Value::from(*pick::<&str>(dice, values)));
        }
    }
    vec![Change::insert("odd", fields)]
}

/// The whole table as PostgreSQL's own binary format has it: every bit of every value.
async fn bytes(client: &Client) -> Vec<u8> {
    let copy = "COPY (SELECT * FROM odd ORDER BY id) TO STDOUT (FORMAT binary)";
    let stream = client.copy_out(copy).await.unwrap();
    let chunks: Vec<_> = stream.collect().await;
    chunks
        .into_iter()
        .flat_map(|chunk| chunk.unwrap().to_vec())
        .collect()
}

async fn texts(stack: &Running, name: &str) -> Vec<String> {
    crate::support::rows(&stack.dsn(side(name)), "SELECT * FROM odd ORDER BY id").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_56_the_same_verdict_and_the_same_bytes() {
    let stack = pair().await;
    for name in ["a", "b"] {
        run(&connect(&stack.dsn(side(name))).await.unwrap(), &[DDL]).await;
    }
    let config = |instance: &str| {
        let mut config = PoolConfig::new(stack.side_configs(), instance);
        config.state_dir = stack.place().dir.join("state");
        config
    };
    install(&config("init"), &["odd", "items", "servers", "php_session"])
        .await
        .unwrap();
    let pool = MultiPool::connect(config("web1")).await.unwrap();
    let on_a = connect(&stack.dsn(side("a"))).await.unwrap();
    let on_b = connect(&stack.dsn(side("b"))).await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for seed in 1..=setting("KAMBANA_SEEDS", 4) {
        let mut dice = Dice::new(seed);
        for step in 0..120 {
            let before = (step % 10 == 0).then_some(bytes(&on_a).await);
            let (said, outcome) = if dice.below(4) == 0 {
                let changes = declared(&mut dice);
                let said = format!("{changes:?}");
                (said, pool.change(OpId::new(), changes).await.map(|_| ()))
            } else {
                let sql = statement(&mut dice);
                let outcome = pool.transactional_write(&sql, &[]).await.map(|_| ());
                (sql, outcome)
            };
            let what = format!("seed {seed}, step {step}: {said}: {outcome:?}");
            match outcome {
                Ok(()) => taken += 1,
                Err(_) => {
                    refused += 1;
                    if let Some(before) = before {
                        assert!(before == bytes(&on_a).await, "{what}: refused, and yet changed");
                    }
                }
            }
            if bytes(&on_a).await != bytes(&on_b).await {
                // As text, to be readable; equal texts with different bytes would show as such.
                let (a, b) = (texts(&stack, "a").await, texts(&stack, "b").await);
                let differing: Vec<_> = a.iter().zip(&b).filter(|(x, y)| x != y).collect();
                panic!("{what}: {} and {} rows; {differing:#?}", a.len(), b.len());
            }
        }
    }
    println!("{taken} statements were taken, {refused} refused");
    assert!(taken > 100 && refused > 50, "both kinds were tried");
    healed(&stack, Duration::from_secs(10)).await;
    let epoch = super::stage::epoch(&stack, "a").await;
    assert_eq!(epoch, 1, "no statement made a side look broken");
    pool.close().await;
    stack.stop().await.unwrap();
}
