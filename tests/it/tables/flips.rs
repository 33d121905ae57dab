//! Whatever differs between two sides is named by a comparison, whatever its type, and nothing else is.

use std::collections::BTreeSet;

use kambana::multipool::compare;
use tokio_postgres::Client;

use super::{Twins, config};

const DDL: &str = "CREATE TABLE flips (a int, b text, c text, d numeric, e double precision, f char(4), g timestamptz, h text[],
        i boolean, j jsonb, k inet, l varchar(9), m bytea, n uuid, o interval, PRIMARY KEY (b, a))";

const ROWS: &str = "INSERT INTO flips SELECT n, 'key ' || n % 7, 'text ' || n, n, n / 3.0, 'x', timestamptz '2026-01-01' + n * interval '1 s',
        ARRAY[n::text, NULL], n % 2 = 0, jsonb_build_object('n', n), '10.0.0.1', NULL, decode(md5(n::text), 'hex'), md5(n::text)::uuid,
        n * interval '1 day' FROM generate_series(1, 3000) n";

/// What happens to a row of side b behind everybody's back, and the columns that are named.
const FLIPS: &[(i32, &str, &str)] = &[
    (10, "c = c || ' '", "c"),
    (20, "c = NULL", "c"),
    (30, "c = ''", "c"),
    (40, "d = 40.0", "d"),
    (50, "d = 'NaN'", "d"),
    (60, "e = e + 1e-13", "e"),
    (70, "f = 'X'", "f"),
    (80, "g = g + interval '1 microsecond'", "g"),
    (90, "h = ARRAY['90', 'NULL']", "h"),
    (100, "h = '[0:1]={100,NULL}'", "h"),
    (110, "i = NOT i", "i"),
    (120, "j = '{\"n\": 120.0}'", "j"),
    (130, "k = '10.0.0.1/31'", "k"),
    (140, "l = ''", "l"),
    (150, "c = l, l = left(c, 9)", "c l"),
    (160, "m = set_bit(m, 3, 1 - get_bit(m, 3))", "m"),
    (170, "n = md5('x')::uuid", "n"),
    (180, "o = '180 days 1 microsecond'", "o"),
    (190, "e = '-0'", "e"),
];

async fn behind(client: &Client, sql: &str) {
    let all = format!(
        "BEGIN; ALTER TABLE flips DISABLE TRIGGER USER; {sql}; ALTER TABLE flips ENABLE TRIGGER USER; COMMIT"
    );
    client
        .batch_execute(&all)
        .await
        .unwrap_or_else(|e| panic!("{:?}: {all}", e.as_db_error()));
}

/// Flips values on side b; returns the expected keys with the columns.
async fn flip(twins: &Twins) -> BTreeSet<(String, String)> {
    let mut expected = BTreeSet::new();
    for (row, set, columns) in FLIPS {
        behind(&twins.b, &format!("UPDATE flips SET {set} WHERE a = {row}")).await;
        expected.insert((format!("(\"key {}\",{row})", row % 7), (*columns).to_owned()));
    }
    // Two rows exchange a value: the values of the table are the same, and not where they were.
    behind(
        &twins.b,
        "UPDATE flips AS t SET c = u.c FROM flips AS u WHERE (t.a, u.a) IN ((201, 202), (202, 201))",
    )
    .await;
    for row in [201, 202] {
        expected.insert((format!("(\"key {}\",{row})", row % 7), "c".into()));
    }
    expected
}

async fn found(twins: &Twins) -> (BTreeSet<(String, String)>, bool) {
    let comparison = compare(&config(&twins.stack, "compare")).await.unwrap();
    let flips = comparison.tables.iter().find(|t| t.table == "flips").unwrap();
    let mut digests = flips.digest.iter().map(|(_, digest)| digest);
    let first = digests.next();
    assert_eq!(flips.differing, flips.differences.len());
    (
        flips
            .differences
            .iter()
            .map(|d| (d.key.clone(), d.columns.join(" ")))
            .collect(),
        digests.all(|digest| Some(digest) == first),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_value_is_named_however_the_sides_hash() {
    let twins = Twins::new(DDL, &["flips"]).await;
    for client in [&twins.a, &twins.b] {
        behind(client, ROWS).await;
        behind(client, "UPDATE flips SET e = 0 WHERE a = 190").await;
    }
    assert_eq!(found(&twins).await, (BTreeSet::new(), true));
    let expected = flip(&twins).await;
    assert_eq!(found(&twins).await, (expected.clone(), false));

    // A server of another kind, on which PostgreSQL's own hash gives other values: nothing else is named for that.
    twins
        .b
        .batch_execute(
            "CREATE SCHEMA other; CREATE FUNCTION other.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql
                AS 'SELECT pg_catalog.hashtextextended($1, $2) # 1';
             DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET search_path = other, pg_catalog, public', current_user); END $$",
        )
        .await
        .unwrap();
    assert_eq!(found(&twins).await, (expected, false));
    behind(
        &twins.b,
        &format!("TRUNCATE flips; {ROWS}; UPDATE flips SET e = 0 WHERE a = 190"),
    )
    .await;
    assert_eq!(
        found(&twins).await,
        (BTreeSet::new(), true),
        "the digests shown are the same, too"
    );
    twins.stop().await;
}

/// Images that would fill the memory are shortened, and their difference can still be seen.
#[tokio::test(flavor = "multi_thread")]
async fn long_rows_that_differ_are_shown_shortened() {
    let twins = Twins::new(
        "CREATE TABLE flips (id int PRIMARY KEY, t text, u text)",
        &["flips"],
    )
    .await;
    let rows =
        "INSERT INTO flips SELECT n, repeat(md5(n::text), 100000), 'short' FROM generate_series(1, 8) n";
    for client in [&twins.a, &twins.b] {
        behind(client, rows).await;
    }
    behind(
        &twins.b,
        "UPDATE flips SET t = overlay(t placing 'X' from 3000000)",
    )
    .await;
    let comparison = compare(&config(&twins.stack, "compare")).await.unwrap();
    let flips = comparison.tables.iter().find(|t| t.table == "flips").unwrap();
    assert_eq!((flips.differing, flips.differences.len()), (8, 8));
    let mut bytes = 0;
    for difference in &flips.differences {
        assert_eq!(difference.columns, ["t"], "{}", difference.key);
        bytes += difference
            .images
            .iter()
            .filter_map(|(_, i)| i.as_ref())
            .map(String::len)
            .sum::<usize>();
    }
    assert!(bytes < 9 << 20, "{bytes}");
    let last = flips.differences[7]
        .images
        .iter()
        .filter_map(|(_, i)| i.clone())
        .next()
        .unwrap();
    assert!(last.contains("3200000 bytes, md5 "), "{last}");
    twins.stop().await;
}
