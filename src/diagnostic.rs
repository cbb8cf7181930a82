//! An error as a value: what happened, what to do, what caused it, and of which class it is. Nothing is taken out of texts again.
//!
//! The error types of the layers implement [`Diagnose`], so that `?` turns them into a [`Diagnostic`]. How one looks is for
//! whoever shows it.

use std::fmt;

/// What an error means for whoever started the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// What was asked cannot be done: an argument, a job file, a model or the dataset does not fit.
    Invalid,
    /// Another run holds what this one needs. It ends by itself.
    Locked,
    /// Something that is needed does not work now, such as a database that does not answer. The same command may succeed later.
    Unavailable,
    /// The run could not go on.
    Aborted,
    /// Somebody asked it to stop.
    Interrupted,
}

/// An error for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What it means.
    pub class: Class,
    /// What happened, and to which dataset, sample, file or node. Neither a full stop nor `error:`.
    pub message: String,
    /// What to do about it, the best first.
    pub hints: Vec<String>,
    /// Why it happened, from near to far.
    pub causes: Vec<String>,
    /// What else is wrong, found in the same look.
    pub others: Vec<Diagnostic>,
}

impl Diagnostic {
    /// An error without hint or cause.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Diagnostic { class, message: message.into(), hints: Vec::new(), causes: Vec::new(), others: Vec::new() }
    }

    /// What was asked cannot be done.
    pub fn invalid(message: impl Into<String>) -> Self {
        Diagnostic::new(Class::Invalid, message)
    }

    /// The run could not go on.
    pub fn aborted(message: impl Into<String>) -> Self {
        Diagnostic::new(Class::Aborted, message)
    }

    /// The same with something to do, after what was there.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same with that error and its sources as causes, after those that are there.
    pub fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            self.causes.push(error.to_string());
            cause = error.source();
        }
        self
    }

    /// The same of another class.
    pub fn of_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// What was being done when this happened: that is the message now, and what was the message a cause. Hints stay.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, cause);
        self
    }

    /// The same, and what else is wrong.
    pub fn and(mut self, other: Diagnostic) -> Self {
        self.others.push(other);
        self
    }

    /// This one and what else is wrong, each by itself.
    pub fn each(&self) -> Vec<&Diagnostic> {
        let others = self.others.iter().flat_map(Diagnostic::each);
        std::iter::once(self).chain(others).collect()
    }

    /// All of them as one; `None` where nothing is wrong.
    pub fn join(found: impl IntoIterator<Item = Diagnostic>) -> Option<Self> {
        let mut found = found.into_iter();
        let first = found.next()?;
        Some(found.fold(first, Diagnostic::and))
    }
}

/// The message alone.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Nothing is behind it: causes are texts here.
impl std::error::Error for Diagnostic {}

/// An error that can say all of that about itself.
pub trait Diagnose {
    /// The error as a value.
    fn diagnose(&self) -> Diagnostic;
}

impl<E: Diagnose> From<E> for Diagnostic {
    fn from(error: E) -> Self {
        error.diagnose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_being_done_comes_before_what_happened_then() {
        let error = std::io::Error::other("no space");
        let found = Diagnostic::aborted("cannot write `a`").because(&error).hint("make room").context("cannot store sample `1`");
        assert_eq!(found.message, "cannot store sample `1`");
        assert_eq!(found.causes, ["cannot write `a`", "no space"]);
        assert_eq!(found.hints, ["make room"]);
    }

    #[test]
    fn several_mistakes_are_one_error() {
        let of = |text: &str| Diagnostic::invalid(text);
        assert_eq!(Diagnostic::join([]), None);
        let all = Diagnostic::join([of("a"), of("b"), of("c")]).expect("three");
        assert_eq!((all.message.as_str(), all.others.len()), ("a", 2));
    }
}
