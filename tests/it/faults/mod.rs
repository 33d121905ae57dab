//! The fault table: each case breaks something on purpose, proves that it broke, and then asks the databases by SQL of
//! its own whether anything was lost, doubled, left over or different. Cases bear the numbers of the table.
//!
//! `points` and the links of a stack are the tools, `tools` tests them; `scene` is what a case stands in and how it is
//! judged; `stage` is what the cases of clients, pauses and differences share. What takes minutes is called `torture_…`
//! and ignored: `cargo nextest run --run-ignored all torture_`.

mod clients;
mod database_dies;
mod databases_return;
mod differences;
mod hangs;
mod instance_dies;
mod overload;
mod pauses;
pub mod points;
mod same_bytes;
pub mod scene;
mod sequences;
mod soak;
mod stage;
mod tools;
