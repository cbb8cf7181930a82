//! Errors of the layers as values, by their texts.

use crate::{
    diagnostic::{Class, Diagnose, Diagnostic},
    fiftyone,
    media::MediaError,
    pipeline::RunError,
    program::{ExecError, ProgramError},
    storage::StorageError,
};

fn of(error: &(dyn std::error::Error + 'static)) -> Diagnostic {
    let text = error.to_string();
    let mut parts = text.split("\nhint: ");
    let found = Diagnostic::invalid(parts.next().unwrap_or_default());
    let found = parts.fold(found, Diagnostic::hint);
    error.source().map_or(found.clone(), |source| found.because(source))
}

impl Diagnose for fiftyone::Error {
    fn diagnose(&self) -> Diagnostic {
        let class = if matches!(self, fiftyone::Error::Locked { .. }) { Class::Locked } else { Class::Invalid };
        of(self).of_class(class)
    }
}

impl Diagnose for StorageError {
    fn diagnose(&self) -> Diagnostic {
        let class = if matches!(self, StorageError::Held { .. }) { Class::Locked } else { Class::Invalid };
        of(self).of_class(class)
    }
}

impl Diagnose for MediaError {
    fn diagnose(&self) -> Diagnostic {
        of(self)
    }
}

impl Diagnose for ProgramError {
    fn diagnose(&self) -> Diagnostic {
        of(self)
    }
}

impl Diagnose for ExecError {
    fn diagnose(&self) -> Diagnostic {
        of(self)
    }
}

impl Diagnose for RunError {
    fn diagnose(&self) -> Diagnostic {
        of(self).of_class(Class::Aborted)
    }
}

/// The text of an error, its causes and hints.
pub fn error_text(error: &Diagnostic) -> String {
    let one = |error: &Diagnostic| {
        let mut text = error.message.clone();
        for cause in &error.causes {
            if !text.contains(cause.as_str()) {
                text.push_str(&format!("\ncaused by: {}", cause.lines().next().unwrap_or_default()));
            }
        }
        error.hints.iter().for_each(|hint| text.push_str(&format!("\nhint: {hint}")));
        text
    };
    error.each().into_iter().map(one).collect::<Vec<_>>().join("\nerror: ")
}
