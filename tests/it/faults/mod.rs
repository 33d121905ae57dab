//! The fault table: each case breaks something on purpose, proves that it broke, and then asks the databases by SQL of
//! its own whether anything was lost, doubled, left over or different.
//!
//! `points` are the tools; `scene` is what every case stands in and how it is judged. Cases bear the numbers
//! of the table.

pub mod points;
mod tools;
