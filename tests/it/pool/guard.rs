//! The guard itself: which changes of other batches it finds, and that nothing else is one.

use crate::doors::{installed, sql};

/// On side a: what is asked of `kambana.guard`, and whether it finds a change that side b is not known to have.
struct Case {
    what: &'static str,
    lane: i64,
    batch: i64,
    table: &'static str,
    key: &'static str,
    old_key: Option<&'static str>,
    /// The last batch of lane 77 that is known to be on b.
    known: i64,
    foreigners: bool,
    found: bool,
}

const USUAL: Case = Case {
    what: "another row",
    lane: 99,
    batch: 1,
    table: "items",
    key: "(1)",
    old_key: None,
    known: 1,
    foreigners: false,
    found: false,
};

const CASES: [Case; 15] = [
    USUAL,
    Case {
        what: "a part of a key",
        key: "(60)",
        ..USUAL
    },
    Case {
        what: "a key with one in it",
        key: "(66)(6)",
        ..USUAL
    },
    Case {
        what: "the row",
        key: "(6)",
        found: true,
        ..USUAL
    },
    Case {
        what: "where it was",
        key: "(5)",
        found: true,
        ..USUAL
    },
    Case {
        what: "moved to where it is",
        old_key: Some("(6)"),
        found: true,
        ..USUAL
    },
    Case {
        what: "moved to where it was",
        old_key: Some("(5)"),
        found: true,
        ..USUAL
    },
    Case {
        what: "the same key of another table",
        table: "php_session",
        key: "(6)",
        ..USUAL
    },
    Case {
        what: "any row of an emptied table",
        table: "servers",
        known: 0,
        found: true,
        ..USUAL
    },
    Case {
        what: "known to be there",
        key: "(6)",
        known: 2,
        ..USUAL
    },
    Case {
        what: "the batch itself",
        lane: 77,
        batch: 2,
        key: "(6)",
        ..USUAL
    },
    Case {
        what: "a batch before it",
        lane: 77,
        batch: 3,
        key: "(6)",
        found: true,
        ..USUAL
    },
    Case {
        what: "a foreign write of the row",
        key: "(8)",
        foreigners: true,
        found: true,
        ..USUAL
    },
    Case {
        what: "a foreign write of another row",
        key: "(9)",
        foreigners: true,
        ..USUAL
    },
    Case {
        what: "who does not ask about foreign writes",
        key: "(8)",
        ..USUAL
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_what_the_other_side_may_lack_and_nothing_else() {
    let stack = installed().await;
    let a = sql(&stack, "a").await;
    // Of a lane that has ended nothing is open.
    a.batch_execute(
        "INSERT INTO kambana.lane (lane, instance, confirmed, closed) VALUES (77, 'dead', '{}', false), (78, 'old', '{}', true);
         INSERT INTO kambana.journal (lane, batch, op, tbl, kind, key, old_key, image) VALUES
           (77, 1, gen_random_uuid(), 'servers', 'T', '', NULL, NULL),
           (77, 2, gen_random_uuid(), 'items', 'U', '(6)', '(5)', '(6,x,,)'),
           (78, 9, gen_random_uuid(), 'items', 'U', '(1)', NULL, '(1,x,,)'),
           (0, 1, gen_random_uuid(), 'items', 'D', '(8)', NULL, NULL)",
    )
    .await
    .unwrap();
    for case in CASES {
        let row = a
            .query_one(
                "SELECT kambana.guard($1, $2, ARRAY[$3], ARRAY[$4], ARRAY[$5::text], 2, '{77}', ARRAY[$6::bigint], $7)",
                &[&case.lane, &case.batch, &case.table, &case.key, &case.old_key, &case.known, &case.foreigners],
            )
            .await
            .unwrap();
        let found: Option<Vec<i64>> = row.get(0);
        assert_eq!(found.is_some(), case.found, "{}: {found:?}", case.what);
    }
    stack.stop().await.unwrap();
}
