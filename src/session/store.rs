//! The sessions of `php_session`.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_session::storage::{LoadError, SaveError, SessionKey, SessionStore, UpdateError};
use actix_web::cookie::time;
use anyhow::anyhow;
use uuid::Uuid;

use super::state::{self, State};
use crate::multipool::{Change, Fields, MultiPool, OpId, ReadError, Value, WriteError};

const TABLE: &str = "php_session";
/// A session that is only read is marked as used at most this often.
const TOUCH_AFTER_S: f64 = 60.0;
/// The largest row: a page loads its session with every request.
const MAX_BYTES: usize = 1 << 20;
/// Requests of one browser that write one session at the same moment.
const MAX_RACES: usize = 10;
/// Expired sessions deleted by one operation.
const GC_CHUNK: usize = 500;
/// Ids remembered between reading a session and marking it used; more only if handlers die in between.
const MAX_STALE: usize = 10_000;

/// Sessions in table `php_session`, which PHP programs may share.
///
/// A row that cannot be decoded is an error for its request and stays as it is; it is never answered as
/// `LoadError::Deserialization`, which the session layer takes for an empty session and saves over the row.
pub struct PhpSessionStore {
    pool: MultiPool,
    lifetime: Duration,
    /// Sessions read lately whose time stamp is due.
    stale: Mutex<HashSet<String>>,
}

impl PhpSessionStore {
    /// Sessions unused for `lifetime` do not exist.
    pub fn new(pool: MultiPool, lifetime: Duration) -> PhpSessionStore {
        PhpSessionStore {
            pool,
            lifetime,
            stale: Mutex::default(),
        }
    }

    /// The row, unless it has expired, and whether its time stamp is due.
    async fn row(&self, id: &str) -> Result<Option<(Vec<u8>, bool)>, ReadError> {
        let sql = "-- session::row()\n\
            SELECT data, coalesce(age > make_interval(secs => $3), true) AS stale \
            FROM (SELECT data, (CURRENT_TIMESTAMP AT TIME ZONE 'UTC') - date_change AS age \
                  FROM php_session WHERE id = $1) AS found \
            WHERE coalesce(age <= make_interval(secs => $2), true)";
        let rows = self
            .pool
            .read(sql, &[&id, &self.lifetime.as_secs_f64(), &TOUCH_AFTER_S])
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let data: Option<Vec<u8>> = row.try_get("data").map_err(crate::listing::unreadable)?;
        let stale = row.try_get("stale").map_err(crate::listing::unreadable)?;
        Ok(Some((data.unwrap_or_default(), stale)))
    }

    fn take_stale(&self, id: &str) -> bool {
        self.stale
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
    }

    async fn insert(&self, state: &State) -> Result<SessionKey, anyhow::Error> {
        let base = state::base(state).unwrap_or_default();
        let data = checked(state::merge(&base, state)?)?;
        // 244 random bits.
        let id = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let row = key(&id)
            .with("data", Value::bytes(&data))
            .with("date_change", Value::Now);
        let change = Change::insert(TABLE, row);
        self.pool
            .change(OpId::new(), vec![change])
            .await
            .map_err(without_id)?;
        SessionKey::try_from(id).map_err(|error| anyhow!("{error}"))
    }

    /// Writes what the request changed over the row as it is now, again if another request was quicker.
    async fn write(&self, id: SessionKey, state: &State) -> Result<SessionKey, anyhow::Error> {
        self.take_stale(id.as_ref());
        let (mut current, mut is_null) = (state::base(state), false);
        for _ in 0..MAX_RACES {
            let seen = match current.take() {
                Some(row) => row,
                None => match self.row(id.as_ref()).await? {
                    Some((row, _)) => row,
                    // Ended by another request, which must not be undone: what remains becomes a new session.
                    None => return self.insert(state).await,
                },
            };
            let data = checked(state::merge(&seen, state)?)?;
            let set = Fields::new()
                .with("data", Value::bytes(&data))
                .with("date_change", Value::Now);
            let expected = if is_null { Value::Null } else { Value::bytes(&seen) };
            let expected = Fields::new().with("data", expected);
            let change = Change::update(TABLE, key(id.as_ref()), set).expecting(expected);
            match self.pool.change(OpId::new(), vec![change]).await {
                Ok(_) => return Ok(id),
                // A row without data reads like an empty one.
                Err(WriteError::EditConflict { current, .. }) => {
                    is_null = current.get("data") == Some(&Value::Null);
                }
                Err(WriteError::NotFound { .. }) => {}
                Err(error) => return Err(without_id(error)),
            }
        }
        Err(anyhow!("too many requests write this session at once"))
    }
}

fn key(id: &str) -> Fields {
    Fields::new().with("id", id)
}

fn checked(data: Vec<u8>) -> Result<Vec<u8>, anyhow::Error> {
    if data.len() > MAX_BYTES {
        return Err(anyhow!("the session would be larger than {MAX_BYTES} bytes"));
    }
    Ok(data)
}

/// The error without the session's id: who knows the id and the secret has the session.
fn without_id(error: WriteError) -> anyhow::Error {
    match error {
        WriteError::NotFound { .. } => anyhow!("the session does not exist"),
        WriteError::EditConflict { .. } => anyhow!("the session was changed by another request"),
        other => anyhow!(other),
    }
}

impl SessionStore for PhpSessionStore {
    async fn load(&self, id: &SessionKey) -> Result<Option<State>, LoadError> {
        let row = self
            .row(id.as_ref())
            .await
            .map_err(|error| LoadError::Other(error.into()))?;
        let Some((data, stale)) = row else { return Ok(None) };
        let state = state::load(&data).map_err(|error| LoadError::Other(error.into()))?;
        if stale {
            let mut ids = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
            if ids.len() >= MAX_STALE {
                ids.clear();
            }
            ids.insert(id.as_ref().to_owned());
        }
        Ok(Some(state))
    }

    async fn save(&self, state: State, _: &time::Duration) -> Result<SessionKey, SaveError> {
        Box::pin(self.insert(&state)).await.map_err(SaveError::Other)
    }

    async fn update(
        &self,
        id: SessionKey,
        state: State,
        _: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        Box::pin(self.write(id, &state)).await.map_err(UpdateError::Other)
    }

    /// Marks the session as used. A failure is no reason to fail a request that was answered.
    async fn update_ttl(&self, id: &SessionKey, _: &time::Duration) -> Result<(), anyhow::Error> {
        if self.take_stale(id.as_ref()) {
            let set = Fields::new().with("date_change", Value::Now);
            let change = Change::update(TABLE, key(id.as_ref()), set);
            match self.pool.change(OpId::new(), vec![change]).await {
                Ok(_) | Err(WriteError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::info!(error = %without_id(error), "a session could not be marked as used")
                }
            }
        }
        Ok(())
    }

    async fn delete(&self, id: &SessionKey) -> Result<(), anyhow::Error> {
        self.take_stale(id.as_ref());
        let change = Change::delete(TABLE, key(id.as_ref()));
        match self.pool.change(OpId::new(), vec![change]).await {
            Ok(_) | Err(WriteError::NotFound { .. }) => Ok(()),
            Err(error) => Err(without_id(error)),
        }
    }
}

/// Deletes sessions unused for `lifetime` and says how many. Several instances may do so at the same moment.
///
/// # Errors
/// See [`WriteError`]; those deleted before stay deleted.
pub async fn delete_expired(pool: &MultiPool, lifetime: Duration) -> Result<usize, WriteError> {
    let lifetime_s = lifetime.as_secs_f64().to_string();
    let sql = format!(
        "-- session::delete_expired()\n\
         DELETE FROM php_session WHERE id IN (SELECT id FROM php_session \
         WHERE date_change < (CURRENT_TIMESTAMP AT TIME ZONE 'UTC') - make_interval(secs => $1::double precision) \
         ORDER BY date_change, id LIMIT {GC_CHUNK} FOR UPDATE SKIP LOCKED)"
    );
    let mut deleted = 0;
    loop {
        let applied = pool
            .transactional_write(&sql, &[Value::from(lifetime_s.as_str())])
            .await?;
        deleted += applied.rows.len();
        if applied.rows.len() < GC_CHUNK {
            return Ok(deleted);
        }
    }
}
