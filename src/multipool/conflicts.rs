//! What a person sees and decides: conflicts with both images, and changes that another side refuses.
//!
//! A decision for the losing image is an ordinary operation under its own name, and only if the row still is what it was
//! when the conflict was kept. That the conflict is decided is noted on every side afterwards; if we die in between, a
//! repetition finds the losing image in effect and notes it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::Serialize;
use thiserror::Error;
use tokio_postgres::{Client, Row};

use super::catalog::Table;
use super::connection::{Conn, Failure, connect_all, words};
use super::status::{rfc3339, rfc3339_option};
use super::{Change, ConnectError, Fields, MultiPool, OpId, ReadError, SideId, Value, WriteError};
use crate::config::PoolConfig;

/// Which write counts when both sides have changed one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The higher epoch; in one epoch the newer by the sides' hybrid logical clocks.
    #[default]
    Newest,
    /// Always this side's.
    Side(SideId),
    /// The leader's row stays in effect until a person has decided.
    Ask,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Newest => f.write_str("newest"),
            Rule::Side(side) => side.fmt(f),
            Rule::Ask => f.write_str("ask"),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(s: &str) -> Result<Rule, String> {
        match s {
            "newest" => Ok(Rule::Newest),
            "ask" => Ok(Rule::Ask),
            side => side.parse().map(Rule::Side).map_err(|_| {
                format!("`{s}` is no rule; it takes newest, ask, or the name of a side (a, b, …)")
            }),
        }
    }
}

/// The rules of the watched tables.
pub(super) async fn rules(client: &Client) -> Result<BTreeMap<String, Rule>, Failure> {
    let rows = client
        .query(
            "-- conflicts::rules()\nSELECT tbl, on_conflict FROM kambana.watched",
            &[],
        )
        .await?;
    let rule = |row: &Row| (row.get(0), row.get::<_, &str>(1).parse().unwrap_or_default());
    Ok(rows.iter().map(rule).collect())
}

/// Sets the rule of watched tables on every side, or on none.
///
/// # Errors
/// A side that does not answer, a rule that names no side, or a table that is not watched, by name.
pub async fn set_rule(config: &PoolConfig, tables: &[&str], rule: Rule) -> Result<(), ConnectError> {
    if let Rule::Side(side) = rule
        && config.sides.get(side).is_none()
    {
        return Err(ConnectError(format!("there is no side {side}")));
    }
    let say = |(side, failure): (SideId, Failure)| ConnectError(format!("side {side}: {}", words(&failure)));
    let clients = connect_all(config).await.map_err(say)?;
    for (side, client) in clients.iter() {
        client
            .batch_execute("BEGIN")
            .await
            .map_err(|e| say((side, e.into())))?;
        for table in tables {
            let changed = client
                .execute(
                    "-- conflicts::set_rule()\nUPDATE kambana.watched SET on_conflict = $2 WHERE tbl = $1",
                    &[table, &rule.to_string()],
                )
                .await
                .map_err(|e| say((side, e.into())))?;
            if changed == 0 {
                return Err(ConnectError(format!(
                    "side {side}: table `{table}` is not watched"
                )));
            }
        }
    }
    for (side, client) in clients.iter() {
        client
            .batch_execute("COMMIT")
            .await
            .map_err(|e| say((side, e.into())))?;
    }
    Ok(())
}

/// How far a conflict is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictState {
    /// A person has to decide; the kept row is in effect.
    Open,
    /// The table's rule has decided.
    Rule,
    /// A person has confirmed the kept row.
    Kept,
    /// A person has put the losing row in effect.
    Lost,
    /// A person does not want to see it any more.
    Dismissed,
}

impl ConflictState {
    fn from_text(text: &str) -> ConflictState {
        match text {
            "rule" => ConflictState::Rule,
            "kept" => ConflictState::Kept,
            "lost" => ConflictState::Lost,
            "dismissed" => ConflictState::Dismissed,
            _ => ConflictState::Open,
        }
    }

    fn text(self) -> &'static str {
        match self {
            ConflictState::Open => "open",
            ConflictState::Rule => "rule",
            ConflictState::Kept => "kept",
            ConflictState::Lost => "lost",
            ConflictState::Dismissed => "dismissed",
        }
    }
}

/// One column of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConflictColumn {
    /// Its name.
    pub name: String,
    /// In the row that is in effect; `None` for NULL or a row that does not exist.
    pub kept: Option<String>,
    /// In the row that gave way.
    pub lost: Option<String>,
    /// Whether they differ.
    pub differs: bool,
}

/// A row that was changed on two sides at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Short name, the same on every side.
    pub id: String,
    /// Table of the row.
    pub table: String,
    /// Record text of the key; empty for a truncate, which concerns the whole table.
    pub key: String,
    /// Side whose row is in effect.
    pub kept_side: String,
    /// Whether the row exists there.
    pub kept_exists: bool,
    /// Side whose row gave way.
    pub lost_side: String,
    /// Whether the row existed there.
    pub lost_exists: bool,
    /// Why: a rule (`newest`, `a`, `b`, `ask`), `pool` (a write of the pool itself), or `return` (the side was out).
    pub rule: String,
    /// How far it is decided.
    pub state: ConflictState,
    /// When it was found.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// When it was decided.
    #[serde(serialize_with = "rfc3339_option")]
    pub decided_at: Option<SystemTime>,
    /// Both images, column by column.
    pub columns: Vec<ConflictColumn>,
}

/// A change that another side refuses; it is tried again by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldChange {
    /// Table of the row.
    pub table: String,
    /// Record text of the key; empty: every open change of the table.
    pub key: String,
    /// Side that has the change.
    pub from: String,
    /// Side that refuses it.
    pub to: String,
    /// What that side says.
    pub reason: String,
    /// How often it was tried.
    pub tries: i32,
    /// Since when.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
}

/// What a person decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The row in effect is right.
    Kept,
    /// The other one is right: it is written as an ordinary operation.
    Lost,
    /// Neither matters any more.
    Dismiss,
}

/// What a decision did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    /// Noted; no row was changed.
    Noted,
    /// The losing image is in effect now.
    Written,
    /// The losing image was in effect already.
    AlreadyInEffect,
}

/// Why a decision was not carried out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// No conflict has this name.
    #[error("there is no conflict {0}")]
    NotFound(String),
    /// A truncate has no single image.
    #[error("this conflict concerns a whole table; there is no single row to choose")]
    WholeTable,
    /// The row was changed since: nothing was written.
    #[error(
        "the row was changed after the conflict was kept, so nothing was written; look at it and edit it"
    )]
    Changed,
    /// The write had no ordinary outcome.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The conflicts could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

const LIST_SQL: &str = "-- conflicts::list()
SELECT id, tbl, key, kept_side, kept_image, lost_side, lost_image, rule, state, at, decided_at FROM kambana.conflict
WHERE $1::text IS NULL OR id = $1 ORDER BY state = 'open' DESC, at DESC, id LIMIT $2";

/// So many conflicts and held changes are listed at most.
const LIST_LIMIT: i64 = 500;

impl MultiPool {
    /// Conflicts, undecided ones first, then the newest.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, ReadError> {
        let rows = self.read(LIST_SQL, &[&None::<&str>, &LIST_LIMIT]).await?;
        Ok(rows.iter().map(|row| self.conflict_from(row).0).collect())
    }

    /// One conflict.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn conflict(&self, id: &str) -> Result<Option<Conflict>, ReadError> {
        let rows = self.read(LIST_SQL, &[&Some(id), &1i64]).await?;
        Ok(rows.first().map(|row| self.conflict_from(row).0))
    }

    /// Changes that a side refuses, the oldest first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn held_changes(&self) -> Result<Vec<HeldChange>, ReadError> {
        let sql = "-- conflicts::held()\nSELECT tbl, key, from_side, to_side, reason, tries, since FROM kambana.held \
                   ORDER BY since, tbl, key LIMIT $1";
        let rows = self.read(sql, &[&LIST_LIMIT]).await?;
        let held = |row: &Row| HeldChange {
            table: row.get(0),
            key: row.get(1),
            from: row.get(2),
            to: row.get(3),
            reason: row.get(4),
            tries: row.get(5),
            since: row.get(6),
        };
        Ok(rows.iter().map(held).collect())
    }

    /// Carries out a person's decision. Repeating it with the same `op_id` writes nothing twice.
    ///
    /// # Errors
    /// See [`ChooseError`]; all but an unknown outcome of the write mean that no row was changed.
    pub async fn choose(&self, op_id: OpId, id: &str, choice: Choice) -> Result<Chosen, ChooseError> {
        let rows = self.read(LIST_SQL, &[&Some(id), &1i64]).await?;
        let Some(row) = rows.first() else {
            return Err(ChooseError::NotFound(id.to_owned()));
        };
        let (conflict, images) = self.conflict_from(row);
        let (chosen, state) = match choice {
            Choice::Kept => (Chosen::Noted, ConflictState::Kept),
            Choice::Dismiss => (Chosen::Noted, ConflictState::Dismissed),
            Choice::Lost if conflict.key.is_empty() => return Err(ChooseError::WholeTable),
            Choice::Lost => (
                self.write_lost(op_id, &conflict, images).await?,
                ConflictState::Lost,
            ),
        };
        let op = (chosen == Chosen::Written).then(|| op_id.uuid());
        self.note(id, state, op).await;
        Ok(chosen)
    }

    /// Puts the losing image in effect, if the row still is the kept one.
    async fn write_lost(
        &self,
        op_id: OpId,
        conflict: &Conflict,
        (kept, lost): (Option<String>, Option<String>),
    ) -> Result<Chosen, ChooseError> {
        let catalog = self.inner().catalog();
        let table = catalog.get(&conflict.table).ok_or_else(|| {
            WriteError::Invalid(format!("table {} is not watched any more", conflict.table))
        })?;
        let key = table.key_fields(&conflict.key);
        let image = |image: &Option<String>| image.as_ref().map(|image| table.image_fields(image));
        let change = match (image(&kept), image(&lost)) {
            (Some(kept), Some(lost)) => {
                Change::update(&table.name, key, without_key(table, lost)).expecting(kept)
            }
            (Some(kept), None) => Change::delete(&table.name, key).expecting(kept),
            (None, Some(lost)) => Change::insert(&table.name, lost),
            (None, None) => return Ok(Chosen::AlreadyInEffect),
        };
        let refused = match self.change(op_id, vec![change]).await {
            Ok(_) => return Ok(Chosen::Written),
            Err(refused) => refused,
        };
        let moved = match &refused {
            WriteError::EditConflict { .. } | WriteError::NotFound { .. } => true,
            WriteError::Rejected { sqlstate, .. } => sqlstate == "23505" && kept.is_none(),
            _ => false,
        };
        if !moved {
            return Err(refused.into());
        }
        let rows = self
            .read(&table.images_sql, &[&vec![conflict.key.as_str()]])
            .await?;
        let now: Option<String> = rows.first().and_then(|row| row.get(1));
        match now == lost {
            true => Ok(Chosen::AlreadyInEffect),
            false => Err(ChooseError::Changed),
        }
    }

    /// Notes a decision on every active side. A side that misses it gets it with the next merge.
    async fn note(&self, id: &str, state: ConflictState, op: Option<uuid::Uuid>) {
        let inner = self.inner();
        for side in inner.view().epoch.members.and(inner.well()).iter() {
            let noted = async {
                let conn = Conn::open(&inner.sides[side].writes).await?;
                conn.client()?
                    .execute(
                        "-- conflicts::note()\nUPDATE kambana.conflict SET state = $2, decided_at = $3, \
                         decided_op = coalesce($4, decided_op) WHERE id = $1",
                        &[&id, &state.text(), &SystemTime::now(), &op],
                    )
                    .await?;
                Ok::<_, Failure>(())
            };
            match tokio::time::timeout(inner.config.probe_deadline, noted).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => tracing::warn!(%side, why = words(&failure), "a decision was not noted"),
                Err(_) => tracing::warn!(%side, "a decision was not noted in time"),
            }
        }
    }

    /// A conflict and its images from a row of [`LIST_SQL`].
    fn conflict_from(&self, row: &Row) -> (Conflict, (Option<String>, Option<String>)) {
        let table: String = row.get(1);
        let (kept, lost): (Option<String>, Option<String>) = (row.get(4), row.get(6));
        let catalog = self.inner().catalog();
        let conflict = Conflict {
            id: row.get(0),
            columns: catalog
                .get(&table)
                .map_or_else(Vec::new, |table| columns(table, kept.as_deref(), lost.as_deref())),
            table,
            key: row.get(2),
            kept_side: row.get(3),
            kept_exists: kept.is_some(),
            lost_side: row.get(5),
            lost_exists: lost.is_some(),
            rule: row.get(7),
            state: ConflictState::from_text(row.get(8)),
            at: row.get(9),
            decided_at: row.get(10),
        };
        (conflict, (kept, lost))
    }
}

fn without_key(table: &Table, fields: Fields) -> Fields {
    fields
        .iter()
        .filter(|(name, _)| !table.key.iter().any(|k| k == name))
        .fold(Fields::new(), |kept, (name, value)| {
            kept.with(name, value.clone())
        })
}

fn columns(table: &Table, kept: Option<&str>, lost: Option<&str>) -> Vec<ConflictColumn> {
    let fields = |image: Option<&str>| image.map(|image| table.image_fields(image)).unwrap_or_default();
    let (kept_fields, lost_fields) = (fields(kept), fields(lost));
    let text = |fields: &Fields, name: &str| fields.get(name).and_then(Value::as_text).map(str::to_owned);
    let column = |name: &String| {
        let (kept_value, lost_value) = (text(&kept_fields, name), text(&lost_fields, name));
        ConflictColumn {
            name: name.clone(),
            differs: kept_value != lost_value || kept.is_some() != lost.is_some(),
            kept: kept_value,
            lost: lost_value,
        }
    };
    table.columns.iter().map(|c| column(&c.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multipool::catalog::Column;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in ["newest", "ask", "a", "b"] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert!("leader".parse::<Rule>().is_err());
    }

    #[test]
    fn differing_columns_are_marked() {
        let column = |name: &str| Column {
            name: name.into(),
            sql_type: "text".into(),
        };
        let table = Table::new("t", vec![column("id"), column("x")], vec!["id".into()]);
        let marks =
            |kept, lost| -> Vec<bool> { columns(&table, kept, lost).iter().map(|c| c.differs).collect() };
        assert_eq!(marks(Some("(1,y)"), Some("(1,z)")), [false, true]);
        assert_eq!(marks(Some("(1,)"), None), [true, true]);
    }
}
