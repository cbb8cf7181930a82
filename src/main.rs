//! The `camflow` program. See the library for how it works, `cli` for what can be typed.

use std::process::ExitCode;

fn main() -> ExitCode {
    camflow::cli::main().into()
}
