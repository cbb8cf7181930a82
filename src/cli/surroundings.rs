//! What a process is born into, and what would otherwise end it without a word: limits, folders that are gone, closed streams.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

use crate::diagnostic::Diagnostic;

/// A file that reaches the limit on its size (`ulimit -f`) is an error of writing then, instead of the end of the process.
pub(super) fn ignore_size_signal() {
    #[cfg(unix)]
    // SAFETY: sets how this process takes a signal.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN)
    };
}

/// As many open files as the system allows anyway: images, heatmaps and connections to the database are open at once.
pub(super) fn raise_open_files() {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads and sets a limit of this process.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            }
        }
    }
}

/// Whether the process began in a folder that is gone.
#[cfg(target_os = "linux")]
static IS_GONE: AtomicBool = AtomicBool::new(false);

/// MKL, a library of libtorch's, ends the process where there is no current folder, while it is loaded: before `main`. So this runs
/// before that, and goes elsewhere.
#[cfg(target_os = "linux")]
#[used]
// SAFETY: the system's loader calls what stands in this section of a program, once, before the constructors of its libraries. What
// it calls uses nothing of Rust's runtime.
#[unsafe(link_section = ".preinit_array")]
static LEAVE_GONE_FOLDER: extern "C" fn() = {
    extern "C" fn leave() {
        let mut path = [0; libc::PATH_MAX as usize];
        // SAFETY: the buffer is as long as is said, and the other path ends in a zero.
        unsafe {
            if libc::getcwd(path.as_mut_ptr(), path.len()).is_null() {
                IS_GONE.store(true, Ordering::Relaxed);
                libc::chdir(c"/".as_ptr());
            }
        }
    }
    leave
};

/// Makes sure that there is a current folder.
///
/// # Errors
/// It was deleted, or may not be seen.
pub(super) fn check_current_folder() -> Result<(), Diagnostic> {
    #[cfg(target_os = "linux")]
    let is_gone = IS_GONE.load(Ordering::Relaxed);
    #[cfg(not(target_os = "linux"))]
    let is_gone = std::env::current_dir().is_err();
    if is_gone {
        let error = Diagnostic::invalid("the current folder is gone, or you may not see it");
        return Err(error.hint("go to another one with `cd`, and start camflow there again"));
    }
    Ok(())
}
