//! The one file that knows the session's keys.
//!
//! `_flash` and `_lang` are ours; every other variable belongs to the user and is shown and edited on the session page.
//! Variables are top-level, so a PHP program reads them as `$_SESSION['name']`.

use std::collections::BTreeMap;
use std::future::{Ready, ready};

use actix_session::{Session, SessionExt};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::state::BASE;
use crate::listing::{ErrorCode, FieldErrors};

const FLASH: &str = "_flash";
const LANG: &str = "_lang";

/// The longest name of a value, in characters.
pub const MAX_NAME: usize = 100;
/// The longest value, in characters.
pub const MAX_VALUE: usize = 10_000;
/// All values together, in bytes of JSON (and the row they were read from): the store refuses rows of a megabyte.
const MAX_HELD: usize = 1 << 20;
/// Messages kept for somebody who never looks; the oldest go first.
const MAX_FLASHES: usize = 10;

/// A message for the next page, to be translated there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// Which message.
    pub code: String,
    /// What stands in it.
    #[serde(with = "pairs")]
    pub params: BTreeMap<String, String>,
}

/// An empty PHP array is a list and a map at once; a list of pairs is always a list.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        map: &BTreeMap<String, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, String>, D::Error> {
        Ok(Vec::<(String, String)>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

fn is_ours(name: &str) -> bool {
    matches!(name, FLASH | LANG | BASE)
}

/// The session by its keys. A change is saved when the request ends.
pub struct TypedSession(Session);

impl FromRequest for TypedSession {
    type Error = actix_web::Error;
    type Future = Ready<Result<TypedSession, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(TypedSession(request.get_session())))
    }
}

impl TypedSession {
    /// Leaves a message for the next page.
    pub fn flash(&self, code: &str, params: &[(&str, &str)]) {
        let params = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut flashes = self.flashes();
        flashes.push(Flash {
            code: code.to_owned(),
            params: params.collect(),
        });
        let surplus = flashes.len().saturating_sub(MAX_FLASHES);
        flashes.drain(..surplus);
        self.insert(FLASH, &flashes);
    }

    /// The messages left so far, taken out of the session.
    pub fn take_flashes(&self) -> Vec<Flash> {
        let flashes = self.flashes();
        // Removing marks the session changed and costs a write: only when there is something.
        if self.0.contains_key(FLASH) {
            self.0.remove(FLASH);
        }
        flashes
    }

    fn flashes(&self) -> Vec<Flash> {
        // Written by somebody else in another shape: not ours to fail on.
        self.0.get(FLASH).ok().flatten().unwrap_or_default()
    }

    /// Language chosen in this session.
    pub fn lang(&self) -> Option<String> {
        self.0.get(LANG).ok().flatten()
    }

    /// Chooses a language.
    pub fn set_lang(&self, lang: &str) {
        if self.lang().as_deref() != Some(lang) {
            self.insert(LANG, lang);
        }
    }

    /// The user's values by name; a value that is no text is shown as JSON.
    pub fn values(&self) -> BTreeMap<String, String> {
        let entries = self.0.entries();
        entries
            .iter()
            .filter(|(name, _)| !is_ours(name))
            .map(|(name, json)| match serde_json::from_str(json) {
                Ok(Json::String(text)) => (name.clone(), text),
                _ => (name.clone(), json.clone()),
            })
            .collect()
    }

    /// Sets one value of the user.
    ///
    /// # Errors
    /// What is wrong with the fields `name` and `value`: a name that PHP's format cannot hold, or one of ours.
    pub fn set_value(&self, name: &str, value: &str) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        let name = name.trim();
        errors.check_required("name", name, MAX_NAME);
        // `|` ends a name, `!` begins an unset one, and PHP turns a name of digits into a number and drops it.
        let number = name
            .strip_prefix('-')
            .unwrap_or(name)
            .bytes()
            .all(|b| b.is_ascii_digit());
        if name.starts_with(['!', '_']) || name.contains('|') || number {
            errors.push("name", ErrorCode::InvalidName);
        }
        errors.check_text("value", value, MAX_VALUE);
        let held: usize = self.0.entries().values().map(String::len).sum();
        if held + value.len() > MAX_HELD {
            errors.push("value", ErrorCode::TooLong { max: 0 });
        }
        errors.or(())?;
        self.insert(name, value);
        Ok(())
    }

    /// Removes one value of the user; whether there was one.
    pub fn remove_value(&self, name: &str) -> bool {
        !is_ours(name) && self.0.contains_key(name) && self.0.remove(name).is_some()
    }

    /// Ends the session: the row and the cookie go.
    pub fn destroy(&self) {
        self.0.purge();
    }

    fn insert(&self, key: &str, value: impl Serialize) {
        if let Err(error) = self.0.insert(key, value) {
            tracing::error!(key, %error, "a session value cannot be written as JSON");
        }
    }
}
