//! Random schemas and random changes: whatever is not refused ends identical on both sides.
//!
//! `KAMBANA_SEEDS=20` runs more seeds, `KAMBANA_SEEDS=7,13` exactly these. A failure prints its seed and its schema.

use std::fmt::Write as _;

use kambana::multipool::{Change, Fields, MultiPool, OpId, WriteError, install};
use tokio_postgres::Client;

use super::{Twins, config};
use crate::load::Dice;
use crate::support::{connect, pair, side};

/// Seeds of an ordinary run; about a minute together.
const SEEDS: u64 = 4;

/// A refusal that is not in this list is a failure.
const REASONS: &[&str] = &[
    "equal values can be written differently",
    "text depends on the server",
    "is unlogged",
    "GENERATED ALWAYS AS IDENTITY columns outside its primary key",
    "triggers of its own",
    "deferrable primary key",
];

/// Column types with values of theirs, as text.
const TYPES: &[(&str, &[&str])] = &[
    ("int", &["0", "-1", "7", "2147483647"]),
    ("text", &["", "é, \"x\" \\ (y)", "NULL", "a\nb\t'"]),
    ("double precision", &["NaN", "-0", "Infinity", "0.1", "5e-324"]),
    (
        "numeric",
        &["NaN", "1.50", "1.5", "-123456789012345678901234567890.000001"],
    ),
    (
        "timestamptz",
        &[
            "infinity",
            "2020-02-30 00:00+00",
            "2020-02-29 12:00:00.000001+05:30",
            "0044-03-15 00:00+00 BC",
        ],
    ),
    ("interval", &["1 mon -2 days 00:00:00.000001", "24:00", "1 day"]),
    ("jsonb", &["null", "{\"a\": [1.50, null, \"\\u00e9\"]}", "-0.0"]),
    ("json", &["null", "{\"a\":  1, \"a\": null}"]),
    ("int[]", &["{}", "[2:3]={7,NULL}", "{{1,2},{3,4}}"]),
    ("text[]", &["{\"\",NULL,\"NULL\",\"a,\\\"b\\\"\"}", "{}"]),
    ("bytea", &["\\x", "\\x00ff5c27"]),
    ("mood", &["sad", "it's, \"ok\""]),
    ("pair", &["(1,\"a \"\"b\"\"\")", "(,)", "(2,)"]),
    ("int4range", &["empty", "[1,5)", "(,3]"]),
    ("char(4)", &["", "ab", "é"]),
    ("bit varying", &["", "0101"]),
    ("inet", &["10.0.0.1/8", "::1"]),
];

const KEYS: &[&str] = &[
    "int",
    "int",
    "int",
    "bigint GENERATED ALWAYS AS IDENTITY",
    "text",
    "uuid",
    "mood",
    "numeric(6,2)",
    "timestamptz",
    "bytea",
];
const ODD_KEYS: &[&str] = &["double precision", "numeric", "interval", "int[]"];
const ACTIONS: &[&str] = &[
    "",
    "ON DELETE CASCADE",
    "ON DELETE SET NULL",
    "ON DELETE RESTRICT",
    "ON DELETE CASCADE ON UPDATE CASCADE",
];

struct Column {
    name: String,
    values: Vec<String>,
}

struct Table {
    name: String,
    /// Key columns, then others; generated ones left out.
    key: Vec<Column>,
    columns: Vec<Column>,
    /// Whether the key may be given in an insert.
    given_key: bool,
}

fn pick<'a, T>(dice: &mut Dice, of: &'a [T]) -> &'a T {
    &of[dice.below(of.len() as u64) as usize]
}

fn key_values(sql_type: &str) -> Vec<String> {
    let make = |n: i32| match sql_type.split(' ').next().unwrap_or_default() {
        "text" => ["", "a,b", "(\"", "é", " x ", "\\", "A", "a"][n as usize % 8].to_owned(),
        "uuid" => format!("00000000-0000-0000-0000-{n:012}"),
        "mood" => ["sad", "it's, \"ok\"", "fine"][n as usize % 3].to_owned(),
        "numeric(6,2)" => format!("{n}.50"),
        "timestamptz" => format!("2020-01-{n:02} 00:00:00.00000{}+00", n % 10),
        "bytea" => format!("\\x{n:04x}"),
        _ => n.to_string(),
    };
    (1..=12).map(make).collect()
}

/// One of these as a literal.
fn picked(dice: &mut Dice, of: &[String]) -> String {
    literal(pick::<String>(dice, of))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Tables and the DDL that makes them.
fn schema(dice: &mut Dice) -> (String, Vec<Table>) {
    let mut ddl = "CREATE TYPE mood AS ENUM ('sad', 'it''s, \"ok\"', 'fine'); CREATE TYPE pair AS (x int, \"y y\" text);\n".to_owned();
    let mut tables: Vec<Table> = Vec::new();
    let mut referable: Vec<String> = Vec::new();
    for n in 0..2 + dice.below(3) {
        // Names against the order of references, some with quotes.
        let name = format!(
            "{}{n}{}",
            ["z", "m", "a", "É "][(n % 4) as usize],
            pick(dice, &["", "\"q", "x"])
        );
        let quoted = super::quoted(&name);
        let odd = dice.below(25) == 0;
        let (mut lines, mut key, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        let parts = 1 + dice.below(4) / 3;
        let mut given_key = true;
        for part in 0..parts {
            let sql_type = if odd {
                pick(dice, ODD_KEYS)
            } else {
                pick(dice, KEYS)
            };
            let sql_type = if parts > 1 {
                sql_type.split(" GEN").next().unwrap_or_default()
            } else {
                sql_type
            };
            given_key &= !sql_type.contains("ALWAYS");
            if parts == 1 && sql_type == "int" {
                referable.push(name.clone());
            }
            lines.push(format!("k{part} {sql_type}"));
            key.push(Column {
                name: format!("k{part}"),
                values: key_values(sql_type),
            });
        }
        lines.push(format!(
            "PRIMARY KEY ({})",
            (0..parts).map(|p| format!("k{p}")).collect::<Vec<_>>().join(", ")
        ));
        for c in 0..1 + dice.below(4) {
            let (sql_type, values) = pick(dice, TYPES);
            lines.push(format!("\"c {c}\" {sql_type}"));
            columns.push(Column {
                name: format!("c {c}"),
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            });
        }
        for (r, target) in referable.clone().iter().enumerate() {
            if dice.below(2) == 0 {
                let late = pick(dice, &["", "", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"]);
                lines.push(format!(
                    "r{r} int REFERENCES {} {} {late}",
                    super::quoted(target),
                    pick(dice, ACTIONS)
                ));
                columns.push(Column {
                    name: format!("r{r}"),
                    values: key_values("int"),
                });
            }
        }
        if dice.below(2) == 0 {
            lines.push(format!("u int UNIQUE {}", pick(dice, &["", "", "DEFERRABLE"])));
            columns.push(Column {
                name: "u".into(),
                values: (1..=6).map(|v| v.to_string()).collect(),
            });
        }
        match dice.below(6) {
            0 => lines.push("g int GENERATED ALWAYS AS (coalesce(length(k0::text), 0)) STORED".into()),
            1 => lines.push("i int GENERATED BY DEFAULT AS IDENTITY".into()),
            2 => lines
                .push("w timestamp DEFAULT clock_timestamp(), x double precision DEFAULT random()".into()),
            _ => {}
        }
        if odd && dice.below(2) == 0 {
            lines.push("i2 int GENERATED ALWAYS AS IDENTITY, price money".into());
        }
        // An enum key does not cast in a generated column (its output is not immutable).
        if lines
            .iter()
            .any(|l| l.starts_with("k0 mood") || l.starts_with("k0 timestamptz"))
        {
            lines.retain(|l| !l.starts_with("g int"));
        }
        let _ = writeln!(ddl, "CREATE TABLE {quoted} ({});", lines.join(", "));
        tables.push(Table {
            name,
            key,
            columns,
            given_key,
        });
    }
    (ddl, tables)
}

fn value(dice: &mut Dice, column: &Column) -> Option<String> {
    match dice.below(6) {
        0 => None,
        _ => Some(pick(dice, &column.values).clone()),
    }
}

fn sql_value(value: Option<String>) -> String {
    value.map_or("NULL".into(), |v| literal(&v))
}

/// One statement.
fn statement(dice: &mut Dice, tables: &[Table]) -> String {
    let table = pick(dice, tables);
    let name = super::quoted(&table.name);
    let by_key = |dice: &mut Dice| {
        let tests: Vec<String> = table
            .key
            .iter()
            .map(|k| format!("{}::text = {}", k.name, picked(dice, &k.values)))
            .collect();
        tests.join(" AND ")
    };
    let column = pick(dice, &table.columns);
    match dice.below(12) {
        0..=4 => insert(dice, table),
        5 | 6 => format!(
            "UPDATE {name} SET \"{}\" = {} WHERE {}",
            column.name,
            sql_value(value(dice, column)),
            by_key(dice)
        ),
        7 => {
            // Some rows at once, in whatever order they lie.
            let whole = sql_value(value(dice, column));
            format!(
                "UPDATE {name} SET \"{}\" = {whole} WHERE ascii(md5(k0::text)) % 3 = 0",
                column.name
            )
        }
        8 if table.given_key => {
            let to = picked(dice, &table.key[0].values);
            format!("UPDATE {name} SET k0 = {to} WHERE {}", by_key(dice))
        }
        9 => format!("DELETE FROM {name} WHERE ascii(md5(k0::text)) % 4 = 0"),
        10 if table.columns.iter().any(|c| c.name == "u") => format!("UPDATE {name} SET u = 7 - u"),
        _ => format!("DELETE FROM {name} WHERE {}", by_key(dice)),
    }
}

fn insert(dice: &mut Dice, table: &Table) -> String {
    let mut names = Vec::new();
    let mut values = Vec::new();
    for key in table.key.iter().filter(|_| table.given_key) {
        names.push(key.name.clone());
        values.push(picked(dice, &key.values));
    }
    for column in &table.columns {
        names.push(format!("\"{}\"", column.name));
        values.push(sql_value(value(dice, column)));
    }
    format!(
        "INSERT INTO {} ({}) VALUES ({})",
        super::quoted(&table.name),
        names.join(", "),
        values.join(", ")
    )
}

/// One change of the declarative door.
fn change(dice: &mut Dice, tables: &[Table]) -> Change {
    let table = pick(dice, tables);
    let mut key = Fields::new();
    for column in &table.key {
        key = key.with(&column.name, pick(dice, &column.values).as_str());
    }
    let mut set = Fields::new();
    for column in &table.columns {
        set = set.with(&column.name, value(dice, column));
    }
    let both = |fields: &Fields| {
        fields
            .iter()
            .fold(key.clone(), |all, (name, value)| all.with(name, value.clone()))
    };
    match dice.below(4) {
        0 => Change::delete(&table.name, key),
        1 => Change::update(&table.name, key, set),
        2 if table.given_key => Change::upsert(&table.name, both(&set)),
        _ if table.given_key => Change::insert(&table.name, both(&set)),
        _ => Change::insert(&table.name, set),
    }
}

/// Constraints and values refuse what chance has made; nothing else may.
fn refused_by_constraint(error: &WriteError) -> bool {
    match error {
        WriteError::Rejected { sqlstate, .. } => {
            sqlstate.starts_with("23")
                || sqlstate.starts_with("22")
                || sqlstate == "27000"
                || sqlstate == "21000"
        }
        WriteError::NotFound { .. } | WriteError::EditConflict { .. } => true,
        _ => false,
    }
}

/// Changes through both doors, alone and several at once. Returns how many were applied.
async fn through_the_pool(pool: &MultiPool, dice: &mut Dice, tables: &[Table], rounds: u64) -> usize {
    let mut applied = 0;
    for _ in 0..rounds {
        if dice.below(2) == 0 {
            let sql: Vec<String> = (0..1 + dice.below(4)).map(|_| statement(dice, tables)).collect();
            let done = pool.transaction(OpId::new(), move |tx| {
                let sql = sql.clone();
                Box::pin(async move {
                    for text in &sql {
                        tx.execute(text, &[]).await?;
                    }
                    Ok(())
                })
            });
            match done.await {
                Ok(_) => applied += 1,
                Err(error) => assert!(refused_by_constraint(&error), "{error:?}"),
            }
        } else {
            let many: Vec<Vec<Change>> = (0..1 + dice.below(8))
                .map(|_| (0..1 + dice.below(3)).map(|_| change(dice, tables)).collect())
                .collect();
            let answers =
                futures::future::join_all(many.into_iter().map(|changes| pool.change(OpId::new(), changes)));
            for answer in answers.await {
                match answer {
                    Ok(_) => applied += 1,
                    Err(error) => assert!(refused_by_constraint(&error), "{error:?}"),
                }
            }
        }
    }
    applied
}

async fn by_somebody_else(client: &Client, dice: &mut Dice, tables: &[Table], count: u64) {
    for _ in 0..count {
        let text = statement(dice, tables);
        if let Err(error) = client.batch_execute(&text).await {
            let code = error
                .as_db_error()
                .unwrap_or_else(|| panic!("{error:?}: {text}"))
                .code()
                .code()
                .to_owned();
            assert!(
                code.starts_with("23") || code.starts_with("22") || code == "27000",
                "{error:?}: {text}"
            );
        }
    }
}

/// How one seed ended.
enum End {
    Identical,
    Refused,
}

async fn one(seed: u64) -> End {
    let mut dice = Dice::new(seed);
    let (ddl, tables) = schema(&mut dice);
    println!("seed {seed}:\n{ddl}");
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    let stack = pair().await;
    for name in ["a", "b"] {
        let client = connect(&stack.dsn(side(name))).await.unwrap();
        client
            .batch_execute(&ddl)
            .await
            .unwrap_or_else(|e| panic!("{:?}", e.as_db_error()));
    }
    if let Err(refusal) = install(&config(&stack, "init"), &names).await {
        let text = refusal.to_string();
        assert!(REASONS.iter().any(|reason| text.contains(reason)), "{text}");
        stack.stop().await.unwrap();
        return End::Refused;
    }
    let mut twins = Twins::over(stack, &names).await;
    let applied = through_the_pool(&twins.pool, &mut dice, &tables, 30).await;
    assert!(applied > 0, "nothing was applied");
    assert!(
        twins.stack_whole().await,
        "a follower was given up for what its leader took"
    );
    twins.healed().await;
    twins.assert_same("through the pool").await;
    by_somebody_else(&twins.a, &mut dice, &tables, 15).await;
    twins.healed().await;
    twins.assert_same("foreign writes on a").await;
    by_somebody_else(&twins.b, &mut dice, &tables, 15).await;
    twins.healed().await;
    twins.assert_same("foreign writes on b").await;
    twins.b_leaves().await;
    through_the_pool(&twins.pool, &mut dice, &tables, 25).await;
    twins.b_returns().await;
    through_the_pool(&twins.pool, &mut dice, &tables, 5).await;
    twins.healed().await;
    twins.assert_same("after the return").await;
    // Both at once: who gives way is not said here, but both end alike.
    for _ in 0..4 {
        by_somebody_else(&twins.a, &mut dice, &tables, 2).await;
        by_somebody_else(&twins.b, &mut dice, &tables, 2).await;
    }
    twins.healed().await;
    twins
        .assert_same("after both were written by somebody else")
        .await;
    twins.stop().await;
    End::Identical
}

#[tokio::test(flavor = "multi_thread")]
async fn random_schemas_end_identical_or_are_refused_with_a_known_reason() {
    let wanted = std::env::var("KAMBANA_SEEDS").unwrap_or_default();
    let seeds: Vec<u64> = match wanted.parse::<u64>() {
        Ok(count) => (1..=count).collect(),
        Err(_) if wanted.contains(',') => wanted.split(',').filter_map(|s| s.trim().parse().ok()).collect(),
        Err(_) => (1..=SEEDS).collect(),
    };
    let mut refused = 0;
    for seed in &seeds {
        if matches!(one(*seed).await, End::Refused) {
            refused += 1;
        }
    }
    println!("{} seeds, {refused} refused", seeds.len());
    assert!(
        refused < seeds.len(),
        "every schema was refused: nothing was proved"
    );
}
