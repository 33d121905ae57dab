use super::*;
use crate::listing::ErrorCode;

const LISTING: Listing = Listing {
    function: "test::list()",
    table: "t",
    columns: "id",
    searched: &["name", "content"],
    sorts: &[
        Sort {
            name: "id",
            expression: "id",
            cast: "integer",
            nullable: false,
        },
        Sort {
            name: "name",
            expression: "name COLLATE \"C\"",
            cast: "text",
            nullable: false,
        },
        Sort {
            name: "at",
            expression: "t.at",
            cast: "timestamp",
            nullable: true,
        },
    ],
};

fn query(sort: &str, descending: bool, cursor: Option<(bool, Option<&str>)>) -> ListQuery {
    ListQuery {
        sort: sort.into(),
        descending,
        cursor: cursor.map(|(backward, value)| Cursor {
            sort: sort.into(),
            descending,
            backward,
            value: value.map(str::to_owned),
            id: 7,
        }),
        ..ListQuery::default()
    }
}

#[test]
fn cursors_survive_the_link() {
    let cursor = query("name", true, Some((true, Some("Ünïcödé \"'"))))
        .cursor
        .unwrap();
    assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
    for bad in ["", "zz", "7", "7b7d", "é1", "ff"] {
        assert_eq!(Cursor::decode(bad), None, "{bad}");
    }
}

#[test]
fn statements() {
    let sql = |q: &ListQuery| list_statement(&LISTING, q).sql;
    let first = sql(&query("name", false, None));
    assert!(first.starts_with("-- test::list()\n"), "{first}");
    assert!(first.ends_with("ORDER BY name COLLATE \"C\" ASC, id ASC LIMIT 26"));
    let forward = sql(&query("name", true, Some((false, Some("m")))));
    assert!(forward.contains("((name COLLATE \"C\", id) < ($2::text::text, $1::text::integer))"));
    assert!(forward.contains("DESC, id DESC"));
    // By its key a page is found by the primary key's index alone.
    let by_key = sql(&query("id", false, Some((false, Some("7")))));
    assert!(
        by_key.ends_with("WHERE true AND id > $1::text::integer ORDER BY id ASC, id ASC LIMIT 26"),
        "{by_key}"
    );
    let forward = sql(&query("at", true, Some((false, Some("m")))));
    assert!(
        forward.contains("(t.at, id) < ($2::text::timestamp, $1::text::integer) OR (t.at) IS NULL"),
        "{forward}"
    );
    assert!(forward.contains("DESC NULLS LAST, id DESC"));
    let back = sql(&query("at", false, Some((true, None))));
    assert!(back.contains("(t.at IS NOT NULL OR (t.at IS NULL AND id < $1::text::integer))"));
    assert!(back.contains("DESC NULLS FIRST, id DESC"));
    // A sort column nobody allowed never reaches the statement.
    assert!(!sql(&query("1; drop table t", false, None)).contains("drop"));
}

#[test]
fn few_sizes_of_pages_are_prepared() {
    let sizes: std::collections::BTreeSet<u32> = (1..=MAX_LIMIT)
        .map(|limit| {
            let fetched = fetched(&ListQuery {
                limit,
                ..ListQuery::default()
            });
            assert!(fetched > limit);
            fetched
        })
        .collect();
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [2, 11, 26, 101]);
}

#[test]
fn search_is_literal() {
    assert_eq!(like_pattern(r"50%_\"), r"%50\%\_\\%");
    let mut q = query("id", false, None);
    q.search = "50%".into();
    let statement = list_statement(&LISTING, &q);
    assert!(
        statement
            .sql
            .contains("(name ILIKE $1::text OR content ILIKE $1::text)")
    );
    assert_eq!(statement.params[0], r"%50\%%");
}

#[test]
fn requests_are_checked() {
    let parse = |pairs: &[(&str, &'static str)]| {
        let pairs: Vec<(String, &'static str)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        ListQuery::parse(
            |name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| *v),
            &["id", "name"],
        )
    };
    assert_eq!(parse(&[]), Ok(ListQuery::default()));
    assert_eq!(parse(&[("sort", ""), ("search", " x ")]).unwrap().search, "x");
    let errors = parse(&[
        ("sort", "password"),
        ("order", "up"),
        ("limit", "101"),
        ("cursor", "zz"),
        ("search", "a\0"),
    ])
    .unwrap_err();
    assert_eq!(errors.iter().count(), 5);
    assert_eq!(
        errors.get("limit"),
        Some(ErrorCode::OutOfRange { min: 1, max: 100 })
    );
    let other_sort = query("name", false, Some((false, Some("x"))))
        .cursor
        .unwrap()
        .encode();
    let leaked: &'static str = Box::leak(other_sort.into_boxed_str());
    assert_eq!(
        parse(&[("cursor", leaked)]).unwrap_err().get("cursor"),
        Some(ErrorCode::InvalidCursor)
    );
    assert!(parse(&[("cursor", leaked), ("sort", "name")]).is_ok());
}
