//! The sessions of `php_session`.

use std::collections::HashMap;
use std::time::Duration;

use actix_session::storage::{LoadError, SaveError, SessionKey, SessionStore, UpdateError};
use actix_web::cookie::time;

use crate::multipool::{MultiPool, WriteError};

/// Sessions in table `php_session`.
pub struct PhpSessionStore {
    _pool: MultiPool,
}

impl PhpSessionStore {
    /// Sessions unused for `lifetime` do not exist.
    pub fn new(pool: MultiPool, _lifetime: Duration) -> PhpSessionStore {
        PhpSessionStore { _pool: pool }
    }
}

/// Deletes sessions unused for `lifetime`.
///
/// # Errors
/// See [`WriteError`].
pub async fn delete_expired(_pool: &MultiPool, _lifetime: Duration) -> Result<usize, WriteError> {
    Ok(0)
}

impl SessionStore for PhpSessionStore {
    async fn load(&self, _: &SessionKey) -> Result<Option<HashMap<String, String>>, LoadError> {
        Ok(None)
    }

    async fn save(&self, _: HashMap<String, String>, _: &time::Duration) -> Result<SessionKey, SaveError> {
        Err(SaveError::Other(anyhow::anyhow!("not yet")))
    }

    async fn update(
        &self,
        _: SessionKey,
        _: HashMap<String, String>,
        _: &time::Duration,
    ) -> Result<SessionKey, UpdateError> {
        Err(UpdateError::Other(anyhow::anyhow!("not yet")))
    }

    async fn update_ttl(&self, _: &SessionKey, _: &time::Duration) -> Result<(), anyhow::Error> {
        Ok(())
    }

    async fn delete(&self, _: &SessionKey) -> Result<(), anyhow::Error> {
        Ok(())
    }
}
