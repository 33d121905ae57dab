//! One row and many rows get the same verdict and the same bytes.

use kambana::multipool::{Change, Fields, OpId, WriteError};

use super::Twins;

const DDL: &str = "CREATE DOMAIN short AS varchar(5); CREATE DOMAIN shorter AS short CHECK (value <> 'no');
    CREATE TYPE mood AS ENUM ('sad', 'fine');
    CREATE TABLE kinds (id serial PRIMARY KEY, vc varchar(5), ch char(5), bi bit(3), vb bit varying(3), nu numeric(4,1), ti time(0),
        ts timestamp(3), iv interval(0), am numeric(4,1)[], ds shorter, mo mood, qc \"char\", bo boolean, by bytea, js jsonb)";

/// Column and value, good and bad.
const VALUES: &[(&str, &str)] = &[
    ("vc", "12345"),
    ("vc", "123456"),
    ("vc", "12345   "),
    ("ch", "ab"),
    ("ch", "abcdef"),
    ("ch", "abcde "),
    ("bi", "101"),
    ("bi", "1010"),
    ("bi", "1"),
    ("vb", "10"),
    ("vb", "1010"),
    ("nu", "12.25"),
    ("nu", "12345"),
    ("nu", "999.96"),
    ("nu", "NaN"),
    ("ti", "10:00:00.7"),
    ("ts", "2026-01-02 03:04:05.6789"),
    ("iv", "1 day 00:00:01.6"),
    ("am", "{1.25,NULL}"),
    ("am", "{12345}"),
    ("ds", "12345"),
    ("ds", "123456"),
    ("ds", "no"),
    ("mo", "fine"),
    ("mo", "glad"),
    ("qc", "xyz"),
    ("bo", "yes"),
    ("by", "\\x00ff"),
    ("js", "{\"a\": 1.50}"),
    ("js", "{"),
];

/// `None`: refused, with the SQLSTATE.
async fn written(twins: &Twins, change: Change) -> Result<Vec<i64>, String> {
    match twins.pool.change(OpId::new(), vec![change]).await {
        Ok(applied) => Ok(applied.rows.iter().filter_map(|row| row.id()).collect()),
        Err(WriteError::Rejected { sqlstate, .. }) => Err(sqlstate),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_and_many_rows_get_the_same_verdict_and_the_same_bytes() {
    let twins = Twins::new(DDL, &["kinds"]).await;
    let mut refused = 0;
    for (column, value) in VALUES {
        let row = || Fields::new().with(column, *value);
        let one = written(&twins, Change::insert("kinds", row())).await;
        let many = written(&twins, Change::insert_many("kinds", vec![row(), row()])).await;
        match (one, many) {
            (Ok(one), Ok(many)) => {
                let sql =
                    format!("SELECT count(DISTINCT {column}::text), count(*) FROM kinds WHERE id = ANY($1)");
                let ids: Vec<i32> = one.into_iter().chain(many).map(|id| id as i32).collect();
                let found = twins.a.query_one(&sql, &[&ids]).await.unwrap();
                assert_eq!(
                    (found.get::<_, i64>(0), found.get::<_, i64>(1)),
                    (1, 3),
                    "{column} {value}"
                );
            }
            (Err(one), Err(many)) => {
                refused += 1;
                assert_eq!(one, many, "{column} {value}");
            }
            (one, many) => panic!("{column} {value}: one row {one:?}, many rows {many:?}"),
        }
    }
    assert!(refused >= 8, "{refused}");
    twins.healed().await;
    twins.assert_same("after all").await;
    twins.stop().await;
}
