//! Sessions: PHP's session format (pure), the store of `php_session`, and the keys we use.
//!
//! Knows nothing of pages. Crash rule: a session is written by one operation of the pool, so it is on every side or on none.

pub mod php;
mod state;
mod store;
mod typed;

pub use store::{PhpSessionStore, delete_expired};
pub use typed::{Flash, TypedSession};

/// Name of the session cookie, as PHP calls it.
pub const COOKIE: &str = "PHPSESSID";
