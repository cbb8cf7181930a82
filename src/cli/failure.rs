//! The bridge from errors of `anyhow` to [`Diagnostic`], for the subcommands that still have them.

use super::Exit;
use crate::{
    diagnostic::{Class, Diagnose, Diagnostic},
    fiftyone,
    media::MediaError,
    pipeline::RunError,
    program::ProgramError,
    storage::StorageError,
};

/// Why a subcommand gave up, and with which exit code.
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Failure { exit: diagnosed(&error).class.into(), error }
    }
}

impl Diagnose for Failure {
    fn diagnose(&self) -> Diagnostic {
        let class = match self.exit {
            Exit::Locked => Class::Locked,
            Exit::Interrupted => Class::Interrupted,
            Exit::Aborted => Class::Aborted,
            Exit::Done | Exit::SomeFailed | Exit::Usage => Class::Invalid,
        };
        diagnosed(&self.error).of_class(class)
    }
}

/// The same as a value: with the class and the hints of the first of its causes that has any.
pub fn diagnosed(error: &anyhow::Error) -> Diagnostic {
    let mut whole: Option<Diagnostic> = None;
    for cause in error.chain() {
        let found = of_layer(cause);
        let ends = found.is_some();
        let found = found.unwrap_or_else(|| of_text(&cause.to_string()));
        whole = Some(match whole {
            None => found,
            Some(mut above) => {
                above.causes.push(found.message);
                above.causes.extend(found.causes);
                if above.hints.is_empty() {
                    above.hints = found.hints;
                }
                above.of_class(found.class)
            }
        });
        // What is behind it is among its causes.
        if ends {
            break;
        }
    }
    whole.unwrap_or_else(|| Diagnostic::invalid(error.to_string()))
}

fn of_layer(error: &(dyn std::error::Error + 'static)) -> Option<Diagnostic> {
    let database = || error.downcast_ref().map(fiftyone::Error::diagnose);
    let storage = || error.downcast_ref().map(StorageError::diagnose);
    let program = || error.downcast_ref().map(ProgramError::diagnose);
    let run = || error.downcast_ref().map(RunError::diagnose);
    let media = || error.downcast_ref().map(MediaError::diagnose);
    let value = || error.downcast_ref::<Diagnostic>().cloned();
    value().or_else(database).or_else(storage).or_else(program).or_else(run).or_else(media)
}

/// Errors and hints in one text: `a\nhint: b\nerror: c`.
fn of_text(text: &str) -> Diagnostic {
    let found = text.split("\nerror: ").map(|text| {
        let mut parts = text.split("\nhint: ");
        let found = Diagnostic::invalid(parts.next().unwrap_or_default());
        parts.fold(found, Diagnostic::hint)
    });
    Diagnostic::join(found).unwrap_or_else(|| Diagnostic::invalid(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::error_text;

    fn text_of(error: &anyhow::Error) -> String {
        error_text(&diagnosed(error))
    }

    #[test]
    fn hints_come_last() {
        let cause = anyhow::anyhow!("permission denied\nhint: ask somebody");
        let error = cause.context("cannot read `a`\nhint: see to `a`");
        assert_eq!(text_of(&error), "cannot read `a`\ncaused by: permission denied\nhint: see to `a`");
        let error = anyhow::anyhow!("permission denied\nhint: ask somebody").context("cannot read `a`");
        assert_eq!(text_of(&error), "cannot read `a`\ncaused by: permission denied\nhint: ask somebody");
    }

    #[test]
    fn an_error_keeps_its_class_below_others() {
        let locked = StorageError::LeaseLost { path: "/f".into() };
        assert_eq!(diagnosed(&anyhow::Error::from(locked).context("cannot go on")).class, Class::Aborted);
        let driver = fiftyone::Error::Runtime(std::io::Error::other("no threads"));
        let found = diagnosed(&anyhow::Error::from(driver).context("cannot begin"));
        assert_eq!((found.class, found.causes.len(), found.hints.len()), (Class::Unavailable, 2, 1));
    }
}
