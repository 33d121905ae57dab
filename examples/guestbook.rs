//! Somebody else's program: a guest book in a table of its own, kept identical in two databases.
//!
//! ```sh
//! # DB1_* and DB2_* as in env.example, with `kambana init` done once
//! cargo run --example guestbook -- "Hello from Antananarivo"
//! ```

use kambana::config::PoolConfig;
use kambana::multipool::{Change, Fields, MultiPool, OpId, Value, install};
use tokio_postgres::NoTls;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS guestbook (
    id SERIAL PRIMARY KEY, message TEXT NOT NULL, likes INTEGER NOT NULL DEFAULT 0,
    written_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let message = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "Hello from nowhere".to_owned());
    let mut config = PoolConfig::from_vars(|name| std::env::var(name).ok())?;
    config.instance = "guestbook".to_owned();

    // Once: the table on every side, by the program's own role, and its capture.
    for (_, side) in config.sides.iter() {
        let address = format!(
            "host={} port={} user={} dbname={}",
            side.host, side.port, side.user, side.database
        );
        let mut server: tokio_postgres::Config = address.parse()?;
        let (client, connection) = server.password(side.password.expose()).connect(NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(TABLE).await?;
    }
    for line in install(&config, &["guestbook"]).await? {
        println!("{line}");
    }

    let pool = MultiPool::connect(config).await?;

    // The declarative door: the leader gives id and time stamp, every side gets the same row.
    let entry = Fields::new().with("message", message);
    let applied = pool
        .change(OpId::new(), vec![Change::insert("guestbook", entry)])
        .await?;
    let id = applied.rows[0]
        .id()
        .ok_or("a guest book entry has an integer id")?;

    // The general door: any SQL. The same name sent twice is one like, not two.
    let like = OpId::new();
    for _ in 0..2 {
        let (applied, likes) = pool
            .transaction(like, move |tx| {
                Box::pin(async move {
                    let sql = "UPDATE guestbook SET likes = likes + 1 WHERE id = $1 RETURNING likes";
                    let rows = tx.query(sql, &[Value::from(id)]).await?;
                    Ok(rows[0].get::<_, i32>(0))
                })
            })
            .await?;
        println!("entry {id} has {likes} like(s); replayed: {}", applied.replayed);
    }

    for row in pool
        .read(
            "SELECT id, message, likes FROM guestbook ORDER BY id DESC LIMIT 5",
            &[],
        )
        .await?
    {
        println!(
            "{:>5}  {}  ({} likes)",
            row.get::<_, i32>(0),
            row.get::<_, &str>(1),
            row.get::<_, i32>(2)
        );
    }
    println!("active sides: {}", pool.status().members);
    pool.close().await;
    Ok(())
}
