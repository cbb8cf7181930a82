//! Exit codes: what cron and scripts go by.

use std::process::ExitCode;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done,
    /// Done, but some samples failed.
    SomeFailed,
    /// Wrong arguments, or a job that cannot run.
    Usage,
    /// The run was aborted.
    Aborted,
    /// Another run of the same job holds the lock.
    Locked,
    /// Stopped cleanly on request.
    Interrupted,
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::SomeFailed => 1,
            Exit::Usage => 2,
            Exit::Aborted => 3,
            Exit::Locked => 4,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
