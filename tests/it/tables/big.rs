//! Long rows.
