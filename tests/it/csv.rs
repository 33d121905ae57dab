//! CSV files through the pages: all of a file or none of it, whatever dies meanwhile.

use std::fmt::Write;
use std::time::Duration;

use kambana::local::{Action, Stack, Target};

use crate::browser::{Browser, NAMES, Page};
use crate::support::{Running, assert_identical, connect, eventually, full, healed, instances, number, side};

const ITEMS: &str = "SELECT count(*) FROM items";

/// A field as a careful program writes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Name and content of every row in the order of the ids, as one side has them.
async fn stored(stack: &Stack, name: &str) -> Vec<(String, Option<String>)> {
    let client = connect(&stack.dsn(side(name))).await.unwrap();
    let rows = client
        .query("SELECT name, content FROM items ORDER BY id", &[])
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Rows of the file that is imported while a side is away: more chunks than a crash and a start take.
const MANY: usize = 15_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_import_through_haproxy_goes_on_while_a_side_crashes_and_returns() {
    let stack = full().await;
    let (proxy, person) = (stack.url(), Browser::new());
    let [a, b] = ["a", "b"].map(|name| stack.dsn(side(name)));
    let expected: Vec<_> = (0..MANY)
        .map(|n| {
            let name = NAMES[n % NAMES.len()];
            (format!("{n} {name}"), (n % 3 > 0).then(|| format!("{name}\n{n}")))
        })
        .collect();
    let mut file = String::from("content,name\n");
    for (name, content) in &expected {
        let content = content.as_deref().map(quoted).unwrap_or_default();
        writeln!(file, "{content},{}", quoted(name)).unwrap();
    }

    let form = person
        .open(&proxy, "/items/import")
        .await
        .form_to("/items/import?op_id=");
    let answer = person.upload(&proxy, &form, file.clone().into()).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    let progress = answer.header("location").to_owned();
    assert!(form.action.contains(answer.header("x-op-id")));
    eventually("some rows are in", Duration::from_secs(20), || async {
        number(&a, ITEMS).await > 0
    })
    .await;
    stack.act(Action::Crash, Target::Side(side("b"))).await.unwrap();
    let at_crash = number(&a, ITEMS).await;
    assert!(connect(&b).await.is_err(), "side b is dead");
    assert!(
        at_crash < MANY as i64 / 2,
        "too late to be in the middle: {at_crash}"
    );
    let running = person.open(&proxy, &progress).await;
    running.must_say("Importing 15,000 rows");
    eventually(
        "the import goes on without side b",
        Duration::from_secs(30),
        || async { number(&a, ITEMS).await > at_crash },
    )
    .await;
    assert_eq!(
        number(&a, "SELECT members::bigint FROM kambana.epoch").await,
        1,
        "side b is out"
    );
    stack.act(Action::Start, Target::Side(side("b"))).await.unwrap();

    eventually(
        "the progress page says that all is in",
        Duration::from_secs(60),
        || async {
            person
                .open(&proxy, &progress)
                .await
                .says("All 15,000 rows are saved.")
        },
    )
    .await;
    healed(&stack, Duration::from_secs(60)).await;
    for name in ["a", "b"] {
        let stored = stored(&stack, name).await;
        assert_eq!(stored.len(), expected.len(), "side {name}");
        let wrong = stored
            .iter()
            .zip(&expected)
            .find(|(stored, expected)| stored != expected);
        assert_eq!(wrong, None, "side {name}");
    }
    assert_identical(&stack).await;

    // The same file sent again under the same name is recognised, through any instance: nothing is imported twice.
    for index in [0, 1] {
        let again = person
            .upload(&stack.instance_url(index), &form, file.clone().into())
            .await;
        assert_eq!((again.status, again.header("location")), (303, progress.as_str()));
        let url = stack.instance_url(index);
        eventually("it ends at once", Duration::from_secs(30), || async {
            person
                .open(&url, &progress)
                .await
                .says("All 15,000 rows are saved.")
        })
        .await;
    }
    stack.stop().await.unwrap();
}

async fn import(stack: &Running, base: &str, subject: &str, file: impl Into<Vec<u8>>) -> Page {
    let person = Browser::new();
    let page = person.open(base, &format!("/{subject}/import")).await;
    let form = page.form_to(&format!("/{subject}/import?op_id="));
    let before = crate::support::dump(&stack.dsn(side("a"))).await.len();
    let answer = person.upload(base, &form, file.into()).await;
    if answer.status != 303 {
        // The form is there again, with the same name for the corrected file.
        assert_eq!(answer.form_to(&format!("/{subject}/import")).action, form.action);
        let after = crate::support::dump(&stack.dsn(side("a"))).await.len();
        assert_eq!(after, before, "nothing is imported of a file that is refused");
        return answer;
    }
    let progress = answer.header("location").to_owned();
    eventually("the import is complete", Duration::from_secs(30), || async {
        person.open(base, &progress).await.says("The import is complete")
    })
    .await;
    person.open(base, &progress).await
}

#[tokio::test]
async fn a_file_is_imported_as_a_whole_or_refused_with_its_lines() {
    let (stack, [web1, web2]) = instances().await;
    // One wrong row far down in a large file: the report names the line, and nothing is imported.
    let large = |row_40_000: &[u8]| {
        let mut file = b"name,content\n".to_vec();
        for n in 1..=45_000 {
            match n {
                40_000 => file.extend_from_slice(row_40_000),
                _ => write_line(&mut file, n),
            }
        }
        file
    };
    for (base, row, reason) in [
        (&web1, &b" ,no name\n"[..], "Please fill this in."),
        (
            &web2,
            b"one,two,three\n",
            "This row has 3 fields, the header has 2.",
        ),
        (&web1, b"not \xff UTF-8,x\n", "This row is not text in UTF-8."),
        (&web2, b"a \0 name,x\n", "a character that cannot be stored"),
    ] {
        let page = import(&stack, base, "items", large(row)).await;
        assert_eq!(page.status, 422, "{}", page.text());
        page.must_say("Nothing was imported.");
        page.must_say(reason);
        assert!(
            page.html().contains("<td class=\"num\">40,001</td>"),
            "{}",
            page.text()
        );
    }
    let lost_quote = import(&stack, &web1, "items", large(b"\"lost,quote\n")).await;
    assert_eq!(lost_quote.status, 422);
    // It goes on to the next quote, on the line below.
    lost_quote.must_say("Line 40002: after the quote that ends a field there must be a comma");
    // Everything wrong at once, and files that are no rows at all.
    let wrong = "name,host,port,active\n,h,1,\nx,no host!,2,\nx,h,65536,\nx,h,abc,maybe\n";
    let page = import(&stack, &web2, "servers", wrong).await;
    assert_eq!(page.status, 422);
    page.must_say("4 of 4 rows cannot be taken.");
    for line in 2..=5 {
        assert!(
            page.html().contains(&format!("<td class=\"num\">{line}</td>")),
            "{}",
            page.text()
        );
    }
    for (subject, file, reason) in [
        ("items", &b""[..], "Choose a file first."),
        ("items", b"name\n", "The file has no rows below a header line."),
        ("items", b"nom\nx\n", "a column “nom” that nobody knows"),
        ("items", b"name,name\nx,y\n", "the column “name” twice"),
        ("servers", b"name,host\nx,y\n", "no column “port”"),
        ("items", b"\xff\nx\n", "The header line is not text in UTF-8."),
        (
            "items",
            b"name\nx\n\"a\ny\n",
            "Line 3: a field begins with a quote that never ends.",
        ),
        ("items", b"name\n\"a\"b\n", "after the quote that ends a field"),
        (
            "items",
            &[0x50, 0x4b, 3, 4, 0xff, 0xfe, 0, 0],
            "not text in UTF-8",
        ),
    ] {
        let page = import(&stack, &web1, subject, file).await;
        assert_eq!(page.status, 422, "{}", page.text());
        page.must_say(reason);
    }
    assert_eq!(number(&stack.dsn(side("b")), ITEMS).await, 0);

    // What is exported can be imported, byte for byte; so can a file of a spreadsheet.
    let mut spreadsheet = b"\xef\xbb\xbfName, Content\r\n".to_vec();
    for name in NAMES {
        spreadsheet.extend_from_slice(
            format!("{},{}\r\n", quoted(name), quoted(&format!("{name}\r\n{name}"))).as_bytes(),
        );
    }
    spreadsheet.extend_from_slice(b"without content,\r\n");
    import(&stack, &web2, "items", spreadsheet)
        .await
        .must_say("All 10 rows are saved.");
    let first = stored(&stack, "b").await;
    let names: Vec<_> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..NAMES.len()], NAMES);
    assert_eq!(
        first[0].1.as_deref(),
        Some(format!("{0}\r\n{0}", NAMES[0]).as_str())
    );
    assert_eq!(first[9], ("without content".into(), None));

    let exported = Browser::new().open(&web1, "/items/export.csv").await;
    assert_eq!(exported.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(
        exported.header("content-disposition"),
        "attachment; filename=\"items.csv\""
    );
    let page = import(&stack, &web2, "items", exported.bytes.clone()).await;
    page.must_say("All 10 rows are saved.");
    let both = stored(&stack, "a").await;
    assert_eq!(both[..10], first);
    assert_eq!(
        both[10..],
        first,
        "the same rows once more, with ids of their own"
    );

    let servers = "port,active,host,name\n80,yes,h,one\n65535,,::1,two\n1,0,10.0.0.1,three\n";
    import(&stack, &web1, "servers", servers).await;
    let exported = Browser::new().open(&web2, "/servers/export.csv").await;
    let again = import(&stack, &web1, "servers", exported.bytes).await;
    again.must_say("All 3 rows are saved.");
    let sql = "SELECT count(*) FROM (SELECT name, host, port, active FROM servers GROUP BY 1, 2, 3, 4 HAVING count(*) = 2) AS twice
               WHERE (name, host, port, active) IN (('one', 'h', 80, true), ('two', '::1', 65535, true), ('three', '10.0.0.1', 1, false))";
    for name in ["a", "b"] {
        assert_eq!(number(&stack.dsn(side(name)), sql).await, 3, "side {name}");
    }
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

fn write_line(file: &mut Vec<u8>, n: usize) {
    file.extend_from_slice(format!("row {n},\"content, of {n}\"\n").as_bytes());
}
