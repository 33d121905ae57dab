//! A side as a voter: one row in `kambana.vote`, changed over a candidate's connection.
//!
//! The row is read, the same pure function as everywhere decides, and the row is replaced if nobody changed it in between.
//! The fence is not taken: a vote waits for no write and stops none.

use serde_json::Value as Json;
use tokio_postgres::Client;
use uuid::Uuid;

use super::acceptor::{Answer, Ask, Memory, Seen};
use super::remote::{Question, Reply};
use crate::multipool::connection::{Conn, Failure, words};
use crate::multipool::epoch::Epoch;
use crate::multipool::inner::Inner;
use crate::multipool::{PerSide, SideId};

/// How often two candidates may change the row before each other.
const TRIES: u32 = 5;

const LOOK_SQL: &str = "-- votes::look()
SELECT e.n, e.parent, e.members, e.generation, i.side, i.lineage, v.change, v.from_epoch, v.memory
FROM kambana.epoch AS e CROSS JOIN kambana.identity AS i LEFT JOIN kambana.vote AS v ON v.side = i.side";

const VOTE_SQL: &str = "-- votes::vote()
UPDATE kambana.vote SET memory = $3, change = change + 1 WHERE side = $1 AND change = $2";

/// Asks a side for its vote.
pub(super) async fn ask(inner: &Inner, side: SideId, question: &Question) -> Result<Reply, String> {
    let answer = vote(inner, side, question).await.map_err(|f| words(&f))?;
    Ok(Reply {
        // Sides are told apart by their identity; no instance has such a name.
        voter: Uuid::from_u128(side.index() as u128),
        name: side.to_string(),
        answer,
    })
}

async fn vote(inner: &Inner, side: SideId, question: &Question) -> Result<Answer, Failure> {
    let conn = Conn::open(&inner.sides[side].writes).await?;
    let (look, vote) = (conn.prepare(LOOK_SQL).await?, conn.prepare(VOTE_SQL).await?);
    let client = conn.client()?;
    for _ in 0..TRIES {
        let row = client.query_one(&look, &[]).await?;
        let known = Epoch::from_row(&row, 0);
        let (name, lineage): (String, Uuid) = (row.get(4), row.get(5));
        if name != side.to_string() || lineage != question.lineage {
            return Ok(Answer::Refused("it belongs to another pool or place".into()));
        }
        let from: Option<i64> = row.get(7);
        let (Some(from), Some(change)) = (from, row.get::<_, Option<i64>>(6)) else {
            return Ok(match question.ask {
                Ask::Look | Ask::Begin { .. } => Answer::Seen(Seen {
                    newest: known,
                    from: None,
                    accepted: None,
                }),
                Ask::Promise(_) | Ask::Accept(..) => Answer::Abstains(None),
            });
        };
        let before = match row.get::<_, Option<Json>>(8) {
            None => Memory::new(from),
            Some(json) => match serde_json::from_value::<Memory>(json) {
                Ok(memory) => Memory { from, ..memory },
                Err(e) => {
                    return Ok(Answer::Refused(format!(
                        "its row in kambana.vote is damaged: {e}"
                    )));
                }
            },
        };
        let mut after = before.clone();
        let answer = after.answer(&known, &question.parent, &question.ask);
        if after == before {
            return Ok(answer);
        }
        let Ok(json) = serde_json::to_value(&after) else {
            return Ok(Answer::Refused("its memory cannot be written".into()));
        };
        if client.execute(&vote, &[&name, &change, &json]).await? == 1 {
            return Ok(answer);
        }
    }
    Ok(Answer::Refused("other candidates keep asking it".into()))
}

/// Whether no side has ever voted, nor knows of any voter: a new pool.
pub(in crate::multipool) async fn nobody_votes(clients: &PerSide<Client>) -> Result<bool, (SideId, Failure)> {
    for (side, client) in clients.iter() {
        let row = client
            .query_one(
                "-- votes::nobody_votes()\nSELECT NOT EXISTS (SELECT FROM kambana.vote) AND NOT EXISTS (SELECT FROM kambana.voter)",
                &[],
            )
            .await
            .map_err(|e| (side, e.into()))?;
        if !row.get::<_, bool>(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first row of a side: a side of a new pool votes from the start, any other when it is readmitted.
pub(in crate::multipool) async fn introduce(
    client: &Client,
    side: SideId,
    new_pool: bool,
) -> Result<(), Failure> {
    client
        .execute(
            "-- votes::introduce()\nINSERT INTO kambana.vote (side, from_epoch) VALUES ($1, CASE WHEN $2 THEN 0::bigint END) \
             ON CONFLICT DO NOTHING",
            &[&side.to_string(), &new_pool],
        )
        .await?;
    Ok(())
}

/// Under both fences, when `other` becomes a member of epoch `n`: it learns who has voted, and votes from there on if it
/// has no memory of before.
pub(in crate::multipool) async fn admit(
    lead: &Client,
    other: &Client,
    side: SideId,
    n: i64,
) -> Result<(), (bool, Failure)> {
    let rows = lead
        .query("-- votes::admit()\nSELECT name, voter FROM kambana.voter", &[])
        .await
        .map_err(|e| (true, e.into()))?;
    let (names, voters): (Vec<String>, Vec<Uuid>) = rows
        .iter()
        .map(|r| (r.get::<_, String>(0), r.get::<_, Uuid>(1)))
        .unzip();
    let learned = async {
        other
            .execute(
                "-- votes::admit()\nINSERT INTO kambana.voter (name, voter) \
                 SELECT * FROM unnest($1::text[], $2::uuid[]) ON CONFLICT DO NOTHING",
                &[&names, &voters],
            )
            .await?;
        other
            .execute(
                "-- votes::admit()\nINSERT INTO kambana.vote AS v (side, from_epoch) VALUES ($1, $2) \
                 ON CONFLICT (side) DO UPDATE SET from_epoch = coalesce(v.from_epoch, EXCLUDED.from_epoch)",
                &[&side.to_string(), &n],
            )
            .await?;
        Ok::<_, Failure>(())
    };
    learned.await.map_err(|f| (false, f))
}
