//! The `kambana` command.
fn main() {}
