//! The `camflow` program. See the library for how it works, `cli` for what can be typed.

use std::io::Write;

fn main() -> ! {
    let exit = camflow::cli::main();
    // Standard error has no buffer. Whether standard output could be written has been asked; nothing is in it but after a failure.
    let _ = std::io::stdout().flush();
    // `exit` would have libtorch take its tables of operators apart, one entry after the other: a third of the time of a short run.
    // SAFETY: it ends the process and does nothing else. What camflow wrote is complete, and no temporary file is open any more.
    unsafe { libc::_exit(exit.code().into()) }
}
