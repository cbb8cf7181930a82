//! Exit codes: what cron and scripts go by.

use std::process::ExitCode;

use super::Outcome;
use camflow_diagnostic::{Class, Diagnostic};
use camflow_report::Ending;

/// How the program ended, from good to bad: a run of several jobs ends as the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done, or nothing to do.
    Done,
    /// Another run of the same job holds the lock.
    Locked,
    /// Done, but some samples failed.
    SomeFailed,
    /// Wrong arguments, or a job that cannot run.
    Usage,
    /// The run was aborted.
    Aborted,
    /// Stopped cleanly on request.
    Interrupted,
}

impl Exit {
    /// How a run ended.
    pub fn of(result: &Result<Outcome, Diagnostic>) -> Exit {
        result.as_ref().map_or_else(|error| error.class.into(), |outcome| outcome.exit)
    }

    /// The number and a word for it, for reports.
    pub fn ending(self) -> Ending {
        let name = match self {
            Exit::Done => "done",
            Exit::SomeFailed => "some_failed",
            Exit::Usage => "cannot_start",
            Exit::Aborted => "aborted",
            Exit::Locked => "locked",
            Exit::Interrupted => "interrupted",
        };
        Ending { exit_code: self.code(), name }
    }

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

/// What an error means to whoever started the program.
impl From<Class> for Exit {
    fn from(class: Class) -> Exit {
        match class {
            Class::Invalid => Exit::Usage,
            Class::Locked => Exit::Locked,
            Class::Unavailable | Class::Aborted => Exit::Aborted,
            Class::Interrupted => Exit::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
