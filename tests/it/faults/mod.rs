//! The fault table: each case breaks something on purpose, proves that it broke, and then asks the databases by SQL of
//! its own whether anything was lost, doubled, left over or different.
//!
//! `points` are the tools; `scene` is what every case stands in and how it is judged; `stage` is what the cases of
//! clients, pauses and differences share. Cases bear the numbers of the table.

mod clients;
mod differences;
mod overload;
mod pauses;
pub mod points;
mod same_bytes;
mod sequences;
mod soak;
mod stage;
mod tools;
