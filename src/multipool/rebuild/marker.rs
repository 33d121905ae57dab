//! The row of `kambana.rebuild`: a side that has one is half rebuilt and must not be used, whoever began and died.

use tokio_postgres::Client;
use uuid::Uuid;

use crate::multipool::connection::Failure;
use crate::multipool::{Loss, Progress, SideFault};

/// A refusal that needs no decision is tried again after this many seconds: perhaps somebody has mended it.
const TRY_AGAIN_S: f64 = 20.0;

/// A repairer writes its progress more often than this, in seconds.
const FRESH_S: f64 = 5.0;

/// What is stored about a rebuild on the side that is rebuilt.
#[derive(Clone, Debug)]
pub(in crate::multipool) struct Marker {
    /// Of the repairer who wrote it, or of nobody: a person has marked an active side.
    pub token: Uuid,
    pub loss: Loss,
    pub consent: bool,
    /// Tables that are complete.
    pub done: Vec<String>,
    progress: Progress,
    refusal: Option<String>,
    asks: bool,
    age_s: f64,
}

impl Marker {
    /// What is wrong with the side, by this row.
    pub fn fault(&self) -> SideFault {
        match &self.refusal {
            Some(why) if self.asks || self.age_s < TRY_AGAIN_S => SideFault::Unfit(why.clone()),
            _ => SideFault::Lost(Loss::Unfinished),
        }
    }

    /// How far it has come, while somebody is at it.
    pub fn shown(&self) -> Option<Progress> {
        (self.refusal.is_none() && self.age_s < FRESH_S).then(|| self.progress.clone())
    }
}

/// The name under which a reason is stored.
pub(super) fn code(loss: Loss) -> &'static str {
    match loss {
        Loss::Empty => "empty",
        Loss::Stripped => "stripped",
        Loss::Restored => "restored",
        Loss::TooOld => "too_old",
        Loss::Unfinished => "unfinished",
        Loss::Asked => "asked",
    }
}

/// Reads the row, if there is one.
pub(in crate::multipool) async fn read(client: &Client) -> Result<Option<Marker>, Failure> {
    let row = client
        .query_opt(
            "-- rebuild::marker()\nSELECT loss, consent, done, tbl, rows, about, refusal, asks, \
             extract(epoch FROM clock_timestamp() - at)::float8, token FROM kambana.rebuild",
            &[],
        )
        .await?;
    Ok(row.map(|row| {
        let stored: String = row.get(0);
        Marker {
            token: row.get(9),
            loss: Loss::ALL
                .into_iter()
                .find(|loss| code(*loss) == stored)
                .unwrap_or(Loss::Stripped),
            consent: row.get(1),
            done: row.get(2),
            progress: Progress {
                table: row.get(3),
                rows: row.get(4),
                about: row.get(5),
            },
            refusal: row.get(6),
            asks: row.get(7),
            age_s: row.get::<_, f64>(8).max(0.0),
        }
    }))
}

/// What a database without schema `kambana` is.
pub(in crate::multipool) async fn missing(client: &Client) -> Result<Loss, Failure> {
    let row = client
        .query_one(
            "-- rebuild::missing()\nSELECT EXISTS (SELECT FROM pg_class WHERE relkind = 'r' \
             AND relnamespace = to_regnamespace('public'))",
            &[],
        )
        .await?;
    Ok(match row.get(0) {
        true => Loss::Stripped,
        false => Loss::Empty,
    })
}

/// Says how far the table in hand has come. On a connection of its own: the copy is not committed yet.
pub(super) async fn note(client: &Client, token: Uuid, progress: &Progress) -> Result<(), Failure> {
    client
        .execute(
            "-- rebuild::note()\nUPDATE kambana.rebuild SET tbl = $2, rows = $3, about = $4, at = clock_timestamp() \
             WHERE token = $1",
            &[&token, &progress.table, &progress.rows, &progress.about],
        )
        .await?;
    Ok(())
}

/// Says why it does not go on. `asks`: not before a person has decided.
pub(super) async fn refuse(client: &Client, token: Uuid, why: &str, asks: bool) -> Result<(), Failure> {
    client
        .execute(
            "-- rebuild::refuse()\nUPDATE kambana.rebuild SET refusal = $2, asks = $3, at = clock_timestamp() \
             WHERE token = $1",
            &[&token, &why, &asks],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(refusal: Option<&str>, asks: bool, age_s: f64) -> Marker {
        Marker {
            token: Uuid::nil(),
            loss: Loss::Empty,
            consent: false,
            done: vec![],
            progress: Progress::default(),
            refusal: refusal.map(str::to_owned),
            asks,
            age_s,
        }
    }

    #[test]
    fn a_half_rebuilt_side_is_never_well() {
        let again = SideFault::Lost(Loss::Unfinished);
        assert_eq!(marker(None, false, 1.0).fault(), again);
        let unfit = SideFault::Unfit("why".into());
        assert_eq!(marker(Some("why"), true, 1e9).fault(), unfit, "a person decides");
        assert_eq!(marker(Some("why"), false, 1.0).fault(), unfit);
        assert_eq!(marker(Some("why"), false, 60.0).fault(), again, "tried again");
        assert!(marker(None, false, 1.0).shown().is_some() && marker(None, false, 60.0).shown().is_none());
    }
}
