//! The tools themselves: does a link do what it says to a real server?

use std::time::Duration;

use kambana::local::{Fault, Link, Passing, Then, Way};
use tokio_postgres::{Client, NoTls};

use crate::support::{Running, connect, eventually, number, pair, side};

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

/// Connected over the link.
async fn over(stack: &Running, link: &Link) -> Result<Client, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = stack.dsn(side("a")).parse().unwrap();
    let mut wired = tokio_postgres::Config::new();
    wired
        .host("127.0.0.1")
        .port(link.port())
        .user(config.get_user().unwrap())
        .password(config.get_password().unwrap())
        .dbname(config.get_dbname().unwrap());
    config = wired;
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn count(stack: &Running) -> i64 {
    number(&stack.dsn(side("a")), "SELECT count(*) FROM items").await
}

/// A transaction as a lane makes it: prepared statements, then COMMIT as a simple query.
async fn begin(client: &Client) {
    client.batch_execute("BEGIN").await.unwrap();
    let insert = client
        .prepare("-- test::insert()\nINSERT INTO items (name) VALUES ($1)")
        .await
        .unwrap();
    client.execute(&insert, &[&"x"]).await.unwrap();
}

async fn is_silent<T>(work: impl Future<Output = T>) -> bool {
    tokio::time::timeout(SHORT, work).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_breaks_a_connection_at_the_chosen_message() {
    let stack = pair().await;
    let port = stack.record().sides["a"].port;
    let link = Link::open(port).await.unwrap();
    let client = over(&stack, &link).await.unwrap();
    // Large values pass unharmed.
    let large = "x".repeat(3_000_000);
    let back: String = client
        .query_one("SELECT $1::text || 'y'", &[&large])
        .await
        .unwrap()
        .get(0);
    assert!(back.len() == large.len() + 1 && back.ends_with("xy"));

    // The answer to a COMMIT is lost; the COMMIT is not.
    let of_test = || Passing::CommitOf("test::insert()".into());
    link.set_once(Fault::LoseCommitReply(of_test(), Then::Hang));
    client.batch_execute("BEGIN; COMMIT").await.unwrap();
    assert_eq!(
        (link.hits(), link.counts().lost),
        (0, 0),
        "another transaction is not meant"
    );
    begin(&client).await;
    let commit = client.batch_execute("COMMIT");
    assert!(is_silent(commit).await, "nothing comes back");
    assert_eq!((link.hits(), link.counts().lost, count(&stack).await), (1, 1, 1));
    link.heal();
    assert!(
        client.batch_execute("SELECT 1").await.is_err(),
        "who lost a reply is cut"
    );

    let client = over(&stack, &link).await.unwrap();
    link.set_once(Fault::LoseCommitReply(Passing::Commit, Then::Cut));
    begin(&client).await;
    assert!(client.batch_execute("COMMIT").await.is_err());
    assert_eq!((link.counts().lost, count(&stack).await), (2, 2));

    // A COMMIT is held, and arrives when it is let go, however late.
    let client = over(&stack, &link).await.unwrap();
    link.set_once(Fault::HoldAt(of_test()));
    begin(&client).await;
    let commit = tokio::spawn(async move { client.batch_execute("COMMIT").await });
    eventually("the COMMIT is held", LONG, || async { link.counts().held == 1 }).await;
    assert_eq!(count(&stack).await, 2);
    let other = over(&stack, &link).await.unwrap();
    begin(&other).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(count(&stack).await, 3, "only the first one is held");
    link.release();
    commit.await.unwrap().unwrap();
    assert_eq!(count(&stack).await, 4);

    // Cut at a prepared statement, which only its name identifies.
    let client = over(&stack, &link).await.unwrap();
    let named = client.prepare("-- test::named()\nSELECT 1").await.unwrap();
    link.set(Fault::CutAt(Passing::Text("test::named()".into())));
    client.batch_execute("SELECT 2").await.unwrap();
    assert!(client.query(&named, &[]).await.is_err());
    assert_eq!(link.hits(), 1);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_a_black_hole_or_a_cut_cable() {
    let stack = pair().await;
    let link = Link::open(stack.record().sides["a"].port).await.unwrap();

    for way in [Way::Both, Way::ToServer, Way::ToClient] {
        let client = over(&stack, &link).await.unwrap();
        link.set(Fault::Hold(way));
        let insert = client.batch_execute("INSERT INTO items (name) VALUES ('held')");
        tokio::pin!(insert);
        assert!(is_silent(&mut insert).await);
        assert!(
            is_silent(over(&stack, &link)).await,
            "new connections are taken and answered nothing"
        );
        assert!(link.hits() > 0);
        let arrived = count(&stack).await;
        assert_eq!(arrived == 1, way == Way::ToClient, "{way:?}");
        link.heal();
        insert.await.unwrap();
        assert_eq!(count(&stack).await, 1, "late, but not lost");
        client.batch_execute("DELETE FROM items").await.unwrap();
    }

    let client = over(&stack, &link).await.unwrap();
    link.set(Fault::DropReplies);
    assert!(is_silent(client.batch_execute("INSERT INTO items (name) VALUES ('unheard')")).await);
    assert_eq!(count(&stack).await, 1);
    link.heal();
    assert!(
        client.batch_execute("SELECT 1").await.is_err(),
        "who lost a reply is cut"
    );

    let client = over(&stack, &link).await.unwrap();
    link.set(Fault::Cut);
    assert!(client.batch_execute("SELECT 1").await.is_err());
    assert!(over(&stack, &link).await.is_err());
    assert!(link.counts().cut >= 2 && link.hits() >= 2);
    link.heal();

    let client = over(&stack, &link).await.unwrap();
    let delay = Duration::from_millis(30);
    link.set(Fault::Delay(delay));
    let started = std::time::Instant::now();
    // Sent together, delayed once.
    futures::future::join_all((0..10).map(|_| client.batch_execute("SELECT 1"))).await;
    let together = started.elapsed();
    assert!(together >= delay && together < delay * 8, "{together:?}");
    link.set(Fault::None);

    // A request to cancel passes like any other connection.
    let client = over(&stack, &link).await.unwrap();
    let token = client.cancel_token();
    let asleep = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    let dsn = stack.dsn(side("a"));
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
    eventually("it sleeps", LONG, || async { number(&dsn, running).await == 1 }).await;
    token.cancel_query(NoTls).await.unwrap();
    assert!(asleep.await.unwrap().is_err());

    // The server moves; a link that is dropped cuts.
    let client = over(&stack, &link).await.unwrap();
    link.aim(1);
    assert!(over(&stack, &link).await.is_err());
    drop(link);
    eventually("the connection is cut", LONG, || async { client.is_closed() }).await;
    assert!(connect(&dsn).await.is_ok());
    stack.stop().await.unwrap();
}
