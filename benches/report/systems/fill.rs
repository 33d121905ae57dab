//! The rows that are there before anything is measured: the same on every copy, in every system.

use anyhow::Result;
use tokio_postgres::Client;

use crate::work::ROWS;

/// Fills the application's tables of one copy.
pub async fn fill(client: &Client) -> Result<()> {
    client
        .batch_execute(&format!(
            "INSERT INTO items (id, name, content, updated_at)
             SELECT g, 'item ' || g, 'content of ' || lpad(g::text, 20, '0') || ', written by the benchmark',
                    '2026-01-01' FROM generate_series(1, {ROWS}) AS g;
             SELECT setval('items_id_seq', {ROWS});
             INSERT INTO php_session (id, data, date_change)
             SELECT 'session-' || lpad(g::text, 8, '0'), convert_to(repeat('x', 200), 'UTF8'), '2026-01-01'
             FROM generate_series(1, {ROWS}) AS g"
        ))
        .await?;
    Ok(client.batch_execute("VACUUM ANALYZE").await?)
}
