//! Foreign keys, unique indexes, exclusion constraints: what only goes together arrives together.

use super::{Kind, Twins, live};

const KINDS: &[Kind] = &[
    Kind {
        name: "cascades",
        ddl: "CREATE TABLE z_parent (id int PRIMARY KEY, v text);
              CREATE TABLE a_child (id int PRIMARY KEY, parent int NOT NULL REFERENCES z_parent ON DELETE CASCADE ON UPDATE CASCADE, v text);
              CREATE TABLE m_grandchild (child int REFERENCES a_child ON DELETE CASCADE, n int, PRIMARY KEY (child, n))",
        tables: &["a_child", "m_grandchild", "z_parent"],
        life: &[
            &["INSERT INTO z_parent VALUES ({n}, 'p'), ({m}, 'q')", "INSERT INTO a_child VALUES ({n}, {n}, 'c'), ({m}, {n}, 'd'), (-{n}, {m}, 'e')",
              "INSERT INTO m_grandchild SELECT {n}, g FROM generate_series(1, 5) g", "INSERT INTO m_grandchild VALUES (-{n}, 1)"],
            &["UPDATE z_parent SET id = id + 50 WHERE id = {n}", "UPDATE a_child SET v = 'moved' WHERE parent = {n} + 50"],
            &["DELETE FROM z_parent WHERE id = {n} + 50", "INSERT INTO z_parent VALUES ({n}, 'again')", "INSERT INTO a_child VALUES ({n}, {n}, 'again')"],
        ],
    },
    Kind {
        name: "restrict, set null, set default; a child goes to another parent, whose parent goes",
        ddl: "CREATE TABLE owner (id int PRIMARY KEY, email text UNIQUE);
              CREATE TABLE strict (id int PRIMARY KEY, owner int NOT NULL REFERENCES owner ON DELETE RESTRICT);
              CREATE TABLE loose (id int PRIMARY KEY, owner int REFERENCES owner ON DELETE SET NULL);
              CREATE TABLE given (id int PRIMARY KEY, owner int DEFAULT 0 REFERENCES owner ON DELETE SET DEFAULT);
              INSERT INTO owner VALUES (0, 'nobody')",
        tables: &["given", "loose", "owner", "strict"],
        life: &[
            &["INSERT INTO owner VALUES ({n}, 'x{n}'), ({m}, 'y{n}')", "INSERT INTO strict VALUES ({n}, {n})",
              "INSERT INTO loose VALUES ({n}, {n}), ({m}, {m})", "INSERT INTO given VALUES ({n}, {n})"],
            &["UPDATE strict SET owner = {m} WHERE owner = {n}", "DELETE FROM owner WHERE id = {n}", "UPDATE owner SET email = 'x{n}' WHERE id = {m}"],
            &["UPDATE loose SET owner = {m} WHERE id = {n}", "INSERT INTO owner VALUES ({n}, 'y{n}')"],
        ],
    },
    Kind {
        name: "trees, written by one statement in any order",
        ddl: "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree, name text, UNIQUE (up, name))",
        tables: &["tree"],
        life: &[
            &["INSERT INTO tree VALUES ({n} * 10 + 3, {n} * 10 + 2, 'x'), ({n} * 10 + 2, {n} * 10 + 1, 'x'), ({n} * 10 + 1, NULL, 'x')"],
            &["UPDATE tree SET id = id + 5, up = up + 5 WHERE id / 10 = {n}"],
            &["UPDATE tree SET up = {n} * 10 + 8 WHERE id = {n} * 10 + 7", "UPDATE tree SET up = NULL WHERE id = {n} * 10 + 8",
              "DELETE FROM tree WHERE id = {n} * 10 + 6", "INSERT INTO tree VALUES ({n} * 10 + 6, {n} * 10 + 7, 'x')"],
        ],
    },
    Kind {
        name: "one statement that writes two tables, the child first",
        ddl: "CREATE TABLE invoice (id int PRIMARY KEY, total int); CREATE TABLE line (id int PRIMARY KEY, invoice int NOT NULL REFERENCES invoice, n int)",
        tables: &["invoice", "line"],
        life: &[
            &["WITH i AS (INSERT INTO invoice VALUES ({n}, 1), ({m}, 2)) INSERT INTO line VALUES ({n}, {n}, 1), ({m}, {m}, 2)"],
            &["WITH l AS (DELETE FROM line WHERE invoice = {n}) DELETE FROM invoice WHERE id = {n}"],
        ],
    },
    Kind {
        name: "circles, checked at once and late",
        ddl: "CREATE TABLE team (id int PRIMARY KEY, boss int); CREATE TABLE person (id int PRIMARY KEY, team int NOT NULL REFERENCES team ON DELETE CASCADE);
              ALTER TABLE team ADD CONSTRAINT boss FOREIGN KEY (boss) REFERENCES person ON DELETE SET NULL;
              CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL); CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES hen);
              ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED",
        tables: &["egg", "hen", "person", "team"],
        life: &[
            &["INSERT INTO team VALUES ({n}, NULL), ({m}, NULL)", "INSERT INTO person VALUES ({n}, {n}), ({m}, {m})", "UPDATE team SET boss = {n} WHERE id IN ({n}, {m})",
              "INSERT INTO hen VALUES ({n}, {n})", "INSERT INTO egg VALUES ({n}, {n})"],
            &["DELETE FROM team WHERE id = {n}", "UPDATE hen SET egg = {m} WHERE id = {n}", "INSERT INTO egg VALUES ({m}, {n})", "DELETE FROM egg WHERE id = {n}"],
            &["INSERT INTO team VALUES ({n}, {m})", "INSERT INTO person VALUES ({n}, {m})"],
        ],
    },
    Kind {
        name: "rows that exchange unique values",
        ddl: "CREATE TABLE place (id int PRIMARY KEY, list int NOT NULL, pos int NOT NULL, UNIQUE (list, pos));
              CREATE TABLE pinned (id int PRIMARY KEY, place int NOT NULL REFERENCES place ON DELETE CASCADE);
              CREATE TABLE late (id int PRIMARY KEY, pos int UNIQUE DEFERRABLE);
              CREATE TABLE coded (id int PRIMARY KEY, code text, live bool NOT NULL DEFAULT true);
              CREATE UNIQUE INDEX ON coded (lower(code)) WHERE live;
              CREATE TABLE booked (id int PRIMARY KEY, during int4range NOT NULL, EXCLUDE USING gist (during WITH &&))",
        tables: &["booked", "coded", "late", "pinned", "place"],
        life: &[
            &["INSERT INTO place SELECT {n} * 10 + g, {n}, g FROM generate_series(1, 4) g", "INSERT INTO pinned SELECT id, id FROM place WHERE list = {n}",
              "INSERT INTO late VALUES ({n}, {n}), ({m}, {m})", "INSERT INTO coded VALUES ({n}, 'A{n}'), ({m}, 'b{n}')",
              "INSERT INTO booked VALUES ({n}, int4range({n} * 10, {n} * 10 + 5)), ({m}, int4range({n} * 10 + 5, {n} * 10 + 10))"],
            &["UPDATE place SET pos = pos + 100 WHERE list = {n}", "UPDATE place SET pos = 105 - pos WHERE list = {n}",
              "UPDATE late SET pos = 2 * {n} + 1 - pos WHERE id IN ({n}, {m})", "UPDATE coded SET live = false WHERE id = {n}", "UPDATE coded SET code = 'a{n}' WHERE id = {m}",
              "UPDATE coded SET code = 'B{n}', live = true WHERE id = {n}", "DELETE FROM booked WHERE id = {n}",
              "UPDATE booked SET during = int4range({n} * 10, {n} * 10 + 5) WHERE id = {m}", "INSERT INTO booked VALUES ({n}, int4range({n} * 10 + 5, {n} * 10 + 10))"],
        ],
    },
    Kind {
        name: "a foreign key to a unique value that passes to another row",
        ddl: "CREATE TABLE badge (id int PRIMARY KEY, code text UNIQUE NOT NULL);
              CREATE TABLE visit (id int PRIMARY KEY, code text REFERENCES badge (code) ON DELETE CASCADE ON UPDATE CASCADE)",
        tables: &["badge", "visit"],
        life: &[
            &["INSERT INTO badge VALUES ({n}, 'one{n}'), ({m}, 'two{n}')", "INSERT INTO visit VALUES ({n}, 'one{n}'), ({m}, 'two{n}')"],
            &["DELETE FROM badge WHERE id = {n}", "INSERT INTO badge VALUES (-{n}, 'one{n}')", "INSERT INTO visit VALUES (-{n}, 'one{n}')"],
            &["UPDATE badge SET code = 'tmp{n}' WHERE id = -{n}", "UPDATE badge SET code = 'one{n}' WHERE id = {m}", "UPDATE badge SET code = 'two{n}' WHERE id = -{n}"],
        ],
    },
    Kind {
        name: "truncate with its children",
        ddl: "CREATE TABLE box (id int PRIMARY KEY); CREATE TABLE thing (id int PRIMARY KEY, box int REFERENCES box)",
        tables: &["box", "thing"],
        life: &[
            &["INSERT INTO box VALUES ({n})", "INSERT INTO thing VALUES ({n}, {n})"],
            &["TRUNCATE box CASCADE", "INSERT INTO box VALUES ({m})", "INSERT INTO thing VALUES ({m}, {m})"],
        ],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_depend_on_each_other_arrive_together() {
    live(KINDS).await;
}

/// More than one portion of the catch-up, with references across portions, while writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_family_is_caught_up_in_an_order_that_no_constraint_refuses() {
    let ddl = "CREATE TABLE z_customer (id int PRIMARY KEY, email text UNIQUE NOT NULL);
               CREATE TABLE a_order (id int PRIMARY KEY, customer int NOT NULL REFERENCES z_customer ON DELETE CASCADE, note text);
               CREATE INDEX ON a_order (customer)";
    let mut twins = Twins::new(ddl, &["z_customer", "a_order"]).await;
    let write = |sql: &'static str| vec![sql.to_owned()];
    twins
        .write(&write(
            "INSERT INTO z_customer SELECT g, 'c' || g FROM generate_series(1, 3000) g",
        ))
        .await;
    twins
        .write(&write(
            "INSERT INTO a_order SELECT g, 1 + g % 3000, 'old' FROM generate_series(1, 6000) g",
        ))
        .await;
    twins.healed().await;
    twins.b_leaves().await;
    for sql in [
        "INSERT INTO z_customer SELECT g, 'n' || g FROM generate_series(3001, 6000) g",
        "UPDATE a_order SET customer = customer + 3000 WHERE id % 2 = 0",
        "DELETE FROM z_customer WHERE id <= 500",
        "UPDATE z_customer SET email = 'c' || (id - 3000) WHERE id BETWEEN 3001 AND 3500",
        "UPDATE z_customer SET email = email || '!' WHERE id BETWEEN 600 AND 700",
        "INSERT INTO a_order SELECT g, 3000 + g % 3000, 'new' FROM generate_series(6002, 9000) g WHERE g % 3000 > 0",
    ] {
        twins.write(&write(sql)).await;
    }
    twins.b_returns().await;
    twins.healed().await;
    twins.assert_same("after the return").await;
    assert!(twins.count("a_order").await > 5000);
    twins.stop().await;
}

const CLASH: &str = "CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE);
    CREATE TABLE letter (id int PRIMARY KEY, account int NOT NULL REFERENCES account, note text);
    INSERT INTO account VALUES (1, 'one'), (2, 'two'), (3, 'three')";

/// Each side holds rows that the other must refuse: the leader's stay, the others are kept as conflicts.
async fn clash_is_decided(twins: &Twins) {
    twins.healed().await;
    twins.assert_same("after the clash").await;
    let rows = |sql: &'static str| async move {
        let rows = twins.b.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    assert_eq!(
        rows("SELECT a::text FROM account a ORDER BY id").await,
        ["(1,one)", "(3,three)", "(10,both)", "(12,\"only on b\")"]
    );
    assert_eq!(
        rows("SELECT l::text FROM letter l ORDER BY id").await,
        ["(21,12,fine)", "(22,1,fine)"]
    );
    // The columns of an image are sorted by name.
    let kept = "SELECT coalesce(lost_image, key) FROM kambana.conflict WHERE rule = 'constraint' ORDER BY 1";
    assert_eq!(rows(kept).await, ["(2,20,\"to nobody\")", "(both,11)"]);
}

const ON_A: [&str; 2] = [
    "INSERT INTO account VALUES (10, 'both')",
    "DELETE FROM account WHERE id = 2",
];
const ON_B: [&str; 5] = [
    "INSERT INTO account VALUES (11, 'both')",
    "INSERT INTO letter VALUES (20, 2, 'to nobody')",
    "INSERT INTO account VALUES (12, 'only on b')",
    "INSERT INTO letter VALUES (21, 12, 'fine')",
    "INSERT INTO letter VALUES (22, 1, 'fine')",
];

#[tokio::test(flavor = "multi_thread")]
async fn foreign_writes_that_do_not_go_together_keep_the_leaders_rows_and_both_images() {
    let mut twins = Twins::new(CLASH, &["account", "letter"]).await;
    twins.pause().await;
    for sql in ON_A {
        twins.write_foreign("a", &[sql.into()]).await;
    }
    for sql in ON_B {
        twins.write_foreign("b", &[sql.into()]).await;
    }
    twins.resume().await;
    clash_is_decided(&twins).await;
    twins.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_was_written_while_it_was_out_gives_way_where_it_must() {
    let mut twins = Twins::new(CLASH, &["account", "letter"]).await;
    twins.b_leaves().await;
    for sql in ON_A {
        twins.write(&[sql.into()]).await;
    }
    twins.pause().await;
    twins.b_answers().await;
    for sql in ON_B {
        twins.write_foreign("b", &[sql.into()]).await;
    }
    twins.resume().await;
    crate::support::whole(&twins.stack, super::HEAL).await;
    clash_is_decided(&twins).await;
    twins.stop().await;
}
