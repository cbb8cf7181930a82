//! What each error of the database means to whoever started camflow, and what to do about it.

use super::error::Error;
use camflow_diagnostic::{Class, Diagnose, Diagnostic};
use camflow_names::{existing, word};
use camflow_pipeline::RunError;

const GO_ON: &str = "run the same command again to go on; what was committed stays";

fn class(error: &Error) -> Class {
    match error {
        Error::Config { .. }
        | Error::UriAndDir
        | Error::InvalidUri { .. }
        | Error::ServerTooOld { .. }
        | Error::ClientType { .. }
        | Error::ServiceElsewhere { .. }
        | Error::NoProcessTable
        | Error::NoPython { .. }
        | Error::PythonOfAnother { .. }
        | Error::PythonWithoutFiftyone { .. }
        | Error::UnknownDataset { .. }
        | Error::UnsupportedDataset { .. }
        | Error::MalformedDataset { .. }
        | Error::LabelField { .. }
        | Error::MaskTargets { .. }
        | Error::Selection { .. }
        | Error::HeatmapField { .. }
        | Error::PredictionField { .. }
        | Error::LocalizedField { .. } => Class::Invalid,
        Error::Unreachable { .. }
        | Error::Credentials { .. }
        | Error::Tls { .. }
        | Error::ServiceSilent { .. }
        | Error::ServiceStart { .. }
        | Error::Timeout { .. }
        | Error::Driver { .. }
        | Error::Runtime(_) => Class::Unavailable,
        Error::Locked { .. } => Class::Locked,
        Error::DatasetGone { .. } | Error::LockLost { .. } | Error::OutOfTime { .. } => Class::Aborted,
        Error::Storage(cause) => cause.diagnose().class,
    }
}

fn hint(error: &Error) -> String {
    match error {
        Error::Config { .. } => "correct the file, or point FIFTYONE_CONFIG_PATH to another".into(),
        Error::UriAndDir => "the first connects to a running server, the second to FiftyOne's own service for that folder".into(),
        Error::InvalidUri { .. } => {
            "it looks like `mongodb://user:password@host:27017`, with `%`-escapes for special characters in the password".into()
        }
        Error::Unreachable { hint, .. } | Error::Tls { hint, .. } => (*hint).into(),
        Error::Credentials { .. } => "put user and password into the connection string, and `authSource` if they are not kept \
             in `admin`; FiftyOne reads it from FIFTYONE_DATABASE_URI or `database_uri` in its config.json"
            .into(),
        Error::ServerTooOld { .. } => "upgrade the server".into(),
        Error::ClientType { .. } => "choose another database with `--database-name`".into(),
        Error::ServiceElsewhere { running, .. } => format!(
            "FiftyOne uses the running service whatever folder is configured; close the Python and App processes that use it, \
             or run camflow with `--database-dir {}`",
            word(running)
        ),
        Error::ServiceSilent { .. } => {
            "if no Python or App uses FiftyOne any more, end that process and run the same command again".into()
        }
        Error::ServiceStart { hint, .. }
        | Error::UnsupportedDataset { hint, .. }
        | Error::LabelField { hint, .. }
        | Error::MaskTargets { hint, .. }
        | Error::Selection { hint, .. } => hint.clone(),
        Error::NoProcessTable => "pass `--database-uri mongodb://127.0.0.1:PORT`; in a Python with FiftyOne running, the port \
             is `os.environ[\"FIFTYONE_PRIVATE_DATABASE_PORT\"]`"
            .into(),
        Error::NoPython { .. } => "name one with CAMFLOW_PYTHON, activate its environment, or `pip install fiftyone`".into(),
        Error::PythonOfAnother { .. } => {
            "start camflow in another folder, or name a Python that you trust with `--python` or CAMFLOW_PYTHON".into()
        }
        Error::PythonWithoutFiftyone { path, .. } => format!("name another, or `{} -m pip install fiftyone`", word(path)),
        Error::UnknownDataset { known, .. } if known.is_empty() => {
            "the database has no datasets; check `--database-name`, `--database-dir` and `--database-uri`".into()
        }
        Error::UnknownDataset { name, known, .. } => {
            format!("{}; `camflow doctor` lists them", existing("datasets", name, known))
        }
        Error::MalformedDataset { .. } => "load it in FiftyOne, which repairs and migrates what it can".into(),
        Error::HeatmapField { .. } => "choose another name with `--field`".into(),
        Error::PredictionField { field, .. } => format!(
            "choose another name with `--predictions`; what is not needed any more goes in FiftyOne: `dataset.delete_sample_field(\"{field}\")`"
        ),
        Error::LocalizedField { what, .. } => format!("choose another name with `--{what}`"),
        Error::DatasetGone { .. } => "the files that were written stay where they are".into(),
        Error::Locked { .. } => "wait until it is done; if it was cut off, its lock expires within two minutes".into(),
        Error::LockLost { .. } => "this run was held up for longer than its lock lasts; what it had committed stays, and the \
             other run does the rest"
            .into(),
        Error::OutOfTime { .. } => "the clock of the database server jumps, or it takes more than a minute for a command; run \
             the same command again to go on"
            .into(),
        Error::Timeout { .. } | Error::Driver { .. } => GO_ON.into(),
        Error::Runtime(_) => "the system may be out of threads or memory".into(),
        // It has its own.
        Error::Storage(_) => String::new(),
    }
}

impl Diagnose for Error {
    fn diagnose(&self) -> Diagnostic {
        if let Error::Storage(error) = self {
            return error.diagnose();
        }
        let found = Diagnostic::new(class(self), self.to_string()).hint(hint(self));
        match std::error::Error::source(self) {
            Some(source) => found.because(source),
            None => found,
        }
    }
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        RunError::Database(error.diagnose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(known: Vec<String>) -> Diagnostic {
        Error::UnknownDataset { name: "quickstrat".into(), database: "fiftyone".into(), known }.diagnose()
    }

    #[test]
    fn a_few_datasets_are_all_listed() {
        let found = unknown(vec!["a".into(), "quickstart".into()]);
        assert_eq!(found.message, "no dataset `quickstrat` in database `fiftyone`");
        assert_eq!(found.hints, ["the datasets are `quickstart`, `a`; `camflow doctor` lists them"]);
        assert!(unknown(Vec::new()).hints[0].contains("has no datasets"));
    }

    #[test]
    fn of_many_datasets_the_nearest_are_named() {
        let mut many: Vec<String> = (0..100).map(|n| format!("other-{n}")).collect();
        many.push("quickstart".into());
        assert_eq!(unknown(many).hints, ["the nearest of its 101 datasets are `quickstart`; `camflow doctor` lists them"]);
    }

    #[test]
    fn a_run_keeps_what_an_error_says() {
        let RunError::Database(found) = Error::Runtime(std::io::Error::other("no threads")).into() else {
            panic!("a database error")
        };
        assert!(found.message.starts_with("cannot start the threads") && found.hints.len() == 1, "{found:?}");
        assert_eq!(found.causes, ["no threads"]);
    }
}
