//! What `kambana watch` refuses, in its own words.

use kambana::multipool::install;

use super::config;
use crate::support::{connect, pair, side};

/// What is created, what is watched, and a part of the refusal.
const REFUSED: &[(&str, &[&str], &str)] = &[
    ("CREATE TABLE odd (n int)", &["odd"], "no primary key"),
    ("CREATE TABLE odd (n int PRIMARY KEY DEFERRABLE)", &["odd"], "deferrable primary key"),
    ("CREATE TABLE odd (n int PRIMARY KEY) PARTITION BY RANGE (n)", &["odd"], "partitions are truncated, attached and detached"),
    ("CREATE TABLE whole (n int PRIMARY KEY) PARTITION BY RANGE (n); CREATE TABLE odd PARTITION OF whole DEFAULT", &["odd"], "partitions are truncated"),
    ("CREATE VIEW odd AS SELECT 1 AS n", &["odd"], "a view"),
    ("CREATE TABLE base (n int PRIMARY KEY); CREATE TABLE odd (PRIMARY KEY (n)) INHERITS (base)", &["odd"], "inherits or is inherited"),
    ("CREATE TABLE odd (n int PRIMARY KEY); CREATE TABLE heir () INHERITS (odd)", &["odd"], "inherits or is inherited"),
    ("CREATE UNLOGGED TABLE odd (n int PRIMARY KEY)", &["odd"], "is unlogged"),
    ("CREATE TEMPORARY TABLE odd (n int PRIMARY KEY)", &["odd"], "is missing"),
    ("SELECT 1", &["odd"], "is missing in schema public"),
    ("CREATE SCHEMA s; CREATE TABLE s.odd (n int PRIMARY KEY)", &["odd"], "is missing in schema public"),
    ("SELECT 1", &["s.odd"], "SCHEMA.TABLE"),
    ("CREATE TABLE odd (n int PRIMARY KEY)", &["public.odd"], "leave out `public.`"),
    ("CREATE TABLE \"o.d.d\" (n int PRIMARY KEY)", &["o.d.d"], "names with a point"),
    ("CREATE TABLE odd (n serial PRIMARY KEY); ALTER SEQUENCE odd_n_seq CACHE 20", &["odd"], "CACHE"),
    ("CREATE TABLE odd (a int, g int GENERATED ALWAYS AS (a) STORED PRIMARY KEY)", &["odd"], "generated column in its primary key (g)"),
    ("CREATE TABLE odd (n double precision PRIMARY KEY)", &["odd"], "equal values can be written differently (n double precision)"),
    ("CREATE TABLE odd (n numeric PRIMARY KEY)", &["odd"], "(n numeric)"),
    ("CREATE TABLE odd (n jsonb, m int, PRIMARY KEY (n, m))", &["odd"], "(n jsonb)"),
    ("CREATE TABLE odd (n interval PRIMARY KEY)", &["odd"], "(n interval)"),
    ("CREATE TABLE odd (n int[] PRIMARY KEY)", &["odd"], "(n integer[])"),
    ("CREATE DOMAIN odd_domain AS real; CREATE TABLE odd (n odd_domain PRIMARY KEY)", &["odd"], "(n odd_domain)"),
    ("CREATE TYPE odd_type AS (x int); CREATE TABLE odd (n odd_type PRIMARY KEY)", &["odd"], "(n odd_type)"),
    ("CREATE COLLATION odd_collation (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
      CREATE TABLE odd (n text COLLATE odd_collation PRIMARY KEY)", &["odd"], "different texts are equal (n)"),
    ("CREATE TABLE odd (n int PRIMARY KEY, price money)", &["odd"], "text depends on the server (price money)"),
    ("CREATE DOMAIN odd_domain AS money; CREATE TABLE odd (n int PRIMARY KEY, prices odd_domain[])", &["odd"], "(prices odd_domain[])"),
    ("CREATE TABLE odd (n int PRIMARY KEY, what regclass)", &["odd"], "(what regclass)"),
    ("CREATE TABLE odd (n int PRIMARY KEY, m int GENERATED ALWAYS AS IDENTITY)", &["odd"], "GENERATED ALWAYS AS IDENTITY columns outside its primary key (m)"),
    ("CREATE TABLE odd (n int PRIMARY KEY); ALTER TABLE odd ENABLE ROW LEVEL SECURITY; ALTER TABLE odd FORCE ROW LEVEL SECURITY", &["odd"], "row-level security"),
    ("CREATE TABLE odd (n int PRIMARY KEY); CREATE RULE r AS ON DELETE TO odd DO INSTEAD NOTHING", &["odd"], "has rules"),
    ("CREATE TABLE odd (n int PRIMARY KEY); CREATE TRIGGER mine BEFORE UPDATE ON odd FOR EACH ROW
      EXECUTE FUNCTION suppress_redundant_updates_trigger()", &["odd"], "triggers of its own (mine)"),
    ("CREATE TABLE odd (n int PRIMARY KEY); CREATE TRIGGER mine BEFORE UPDATE ON odd FOR EACH ROW
      WHEN (current_setting('kambana.apply', true) IS DISTINCT FROM 'on' OR NEW.n > 1)
      EXECUTE FUNCTION suppress_redundant_updates_trigger()", &["odd"], "triggers of its own (mine)"),
    ("CREATE TABLE odd (n int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER \"!early\" AFTER UPDATE ON odd FOR EACH ROW
      WHEN (current_setting('kambana.apply', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION f()", &["odd"], "sort before \"!kambana\""),
    ("CREATE TABLE parent (n int PRIMARY KEY); CREATE TABLE odd (n int PRIMARY KEY REFERENCES parent)", &["odd"], "not watched (odd_n_fkey: parent)"),
    ("CREATE TABLE odd (n int PRIMARY KEY); CREATE TABLE child (n int PRIMARY KEY REFERENCES odd)", &["odd"], "not watched (child_n_fkey: child)"),
];

const CLEAN: &str = "DROP TABLE IF EXISTS child, heir, whole, parent CASCADE; DROP VIEW IF EXISTS odd_view;
    DO $$ BEGIN EXECUTE (SELECT format('DROP %s public.%I CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, relname)
      FROM pg_class WHERE relname IN ('odd', 'o.d.d') AND relnamespace = 'public'::regnamespace); EXCEPTION WHEN null_value_not_allowed THEN NULL; END $$;
    DROP TABLE IF EXISTS base, pg_temp.odd CASCADE; DROP SCHEMA IF EXISTS s CASCADE; DROP TYPE IF EXISTS odd_type;
    DROP DOMAIN IF EXISTS odd_domain; DROP COLLATION IF EXISTS odd_collation; DROP FUNCTION IF EXISTS f()";

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_is_refused_with_the_reason_and_leaves_nothing() {
    let stack = pair().await;
    let (a, b) = (
        connect(&stack.dsn(side("a"))).await.unwrap(),
        connect(&stack.dsn(side("b"))).await.unwrap(),
    );
    for (ddl, tables, words) in REFUSED {
        for client in [&a, &b] {
            client
                .batch_execute(ddl)
                .await
                .unwrap_or_else(|e| panic!("{:?}: {ddl}", e.as_db_error()));
        }
        let refused = install(&config(&stack, "init"), tables).await;
        let text = refused.expect_err(ddl).to_string();
        assert!(text.contains(words), "{ddl}\n{text}\nwithout: {words}");
        for client in [&a, &b] {
            let nothing = "SELECT to_regnamespace('kambana') IS NULL";
            assert!(
                client.query_one(nothing, &[]).await.unwrap().get::<_, bool>(0),
                "{ddl}"
            );
            client
                .batch_execute(CLEAN)
                .await
                .unwrap_or_else(|e| panic!("{:?}: after {ddl}", e.as_db_error()));
        }
    }
    stack.stop().await.unwrap();
}
