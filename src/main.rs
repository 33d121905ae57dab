//! The `kambana` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    kambana::cli::main()
}
