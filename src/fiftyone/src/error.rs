//! What can go wrong between camflow and FiftyOne's database, in the user's words. No message ever shows a credential:
//! addresses come from [`super::config::ConnectionUri`], which only prints host names.

use std::path::PathBuf;

use super::{driver_error::DriverError, service::Stranger, shard::Shard};
use camflow_media::shown;
use camflow_names::{existing, word};
use camflow_pipeline::RunError;
use camflow_storage::StorageError;

/// A fault of the database, the dataset or what is asked of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// FiftyOne's configuration file is there but not usable.
    #[error(
        "cannot read FiftyOne's configuration `{}`: {reason}\nhint: correct the file, or point FIFTYONE_CONFIG_PATH to another",
        shown(path)
    )]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two places for one database.
    #[error(
        "`--database-uri` and `--database-dir` exclude each other\nhint: the first connects to a running server, the second to FiftyOne's own service for that folder"
    )]
    UriAndDir,
    /// Not a connection string.
    #[error(
        "`{address}`, from {from}, is not a MongoDB connection string\nhint: it looks like `mongodb://user:password@host:27017`, with `%`-escapes for special characters in the password"
    )]
    InvalidUri {
        /// Redacted.
        address: String,
        /// Where the string was found.
        from: &'static str,
    },
    /// No server answers.
    #[error("no MongoDB server answers at `{address}`\nhint: {hint}")]
    Unreachable {
        /// Redacted.
        address: String,
        /// What to try.
        hint: &'static str,
        /// The driver's own words.
        #[source]
        source: Box<DriverError>,
    },
    /// The server wants other credentials.
    #[error(
        "the MongoDB server at `{address}` refuses the credentials, or wants some\nhint: put user and password into the connection string, and `authSource` if they are not kept in `admin`; FiftyOne reads it from FIFTYONE_DATABASE_URI or `database_uri` in its config.json"
    )]
    Credentials {
        /// Redacted.
        address: String,
    },
    /// A server answers, but the two do not trust each other.
    #[error("no secure connection to the MongoDB server at `{address}`: {reason}\nhint: {hint}")]
    Tls {
        /// Redacted.
        address: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: &'static str,
        /// The driver's own words.
        #[source]
        source: Box<DriverError>,
    },
    /// Older than FiftyOne supports.
    #[error("the MongoDB server at `{address}` is version {version}; FiftyOne needs 6.0 or newer\nhint: upgrade the server")]
    ServerTooOld {
        /// Redacted.
        address: String,
        /// As the server says.
        version: String,
    },
    /// The database belongs to another edition of FiftyOne.
    #[error(
        "database `{database}` at `{address}` is of type `{kind}`, not of the open-source FiftyOne's\nhint: choose another database with `--database-name`"
    )]
    ClientType {
        /// The database's name.
        database: String,
        /// Redacted.
        address: String,
        /// The type it says.
        kind: String,
    },
    /// The running service serves another folder.
    #[error(
        "FiftyOne's database service is running (process {pid}) with the folder `{}`, not with `{}`\nhint: FiftyOne uses the running service whatever folder is configured; close the Python and App processes that use it, or run camflow with `--database-dir {}`",
        shown(running),
        shown(configured),
        word(running)
    )]
    ServiceElsewhere {
        /// The service's process.
        pid: i32,
        /// Its folder.
        running: PathBuf,
        /// Ours.
        configured: PathBuf,
    },
    /// The service is there but does not answer.
    #[error(
        "FiftyOne's database service (process {pid}) does not answer: {reason}\nhint: if no Python or App uses FiftyOne any more, end that process and run the same command again"
    )]
    ServiceSilent {
        /// The service's process.
        pid: i32,
        /// What was waited for.
        reason: String,
    },
    /// The service cannot be started.
    #[error("cannot start FiftyOne's database service for `{}`: {reason}\nhint: {hint}", shown(dir))]
    ServiceStart {
        /// The database's folder.
        dir: PathBuf,
        /// What happened.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// Processes cannot be listed on this system.
    #[error(
        "finding FiftyOne's own database service works on Linux only so far\nhint: pass `--database-uri mongodb://127.0.0.1:PORT`; in a Python with FiftyOne running, the port is `os.environ[\"FIFTYONE_PRIVATE_DATABASE_PORT\"]`"
    )]
    NoProcessTable,
    /// No Python with FiftyOne.
    #[error(
        "no Python with FiftyOne found; looked at {tried}\nhint: name one with CAMFLOW_PYTHON, activate its environment, or `pip install fiftyone`"
    )]
    NoPython {
        /// The interpreters that were tried.
        tried: String,
    },
    /// A Python was found that somebody else may have put there.
    #[error(
        "the Python `{}` is not used: `{}` belongs to {}, not to you\nhint: start camflow in another folder, or name a Python that you trust with `--python` or CAMFLOW_PYTHON",
        shown(python), shown(&stranger.path), stranger.owner
    )]
    PythonOfAnother {
        /// The interpreter.
        python: PathBuf,
        /// What is not the user's.
        stranger: Stranger,
    },
    /// The Python that was named is no use.
    #[error(
        "`{}` cannot be used as the Python with FiftyOne: {reason}\nhint: name another, or `{} -m pip install fiftyone`",
        shown(path),
        word(path)
    )]
    PythonWithoutFiftyone {
        /// The interpreter.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// No such dataset.
    #[error("{}", unknown_dataset(name, database, known))]
    UnknownDataset {
        /// As asked for.
        name: String,
        /// The database's name.
        database: String,
        /// The datasets there are.
        known: Vec<String>,
    },
    /// A dataset that has no plain images.
    #[error("dataset `{name}` {reason}\nhint: {hint}")]
    UnsupportedDataset {
        /// The dataset.
        name: String,
        /// What it is instead.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The dataset's document does not look as FiftyOne writes it.
    #[error("dataset `{name}` cannot be read: {reason}\nhint: load it in FiftyOne, which repairs and migrates what it can")]
    MalformedDataset {
        /// The dataset.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A label field that does not exist or is of no use.
    #[error("{problem} in dataset `{dataset}`\nhint: {hint}")]
    LabelField {
        /// What is wrong with it.
        problem: String,
        /// The dataset.
        dataset: String,
        /// What there is instead.
        hint: String,
    },
    /// A class that the masks do not know.
    #[error("{problem} in the mask targets of field `{field}` of dataset `{dataset}`\nhint: {hint}")]
    MaskTargets {
        /// What is wrong.
        problem: String,
        /// The label field.
        field: String,
        /// The dataset.
        dataset: String,
        /// What to do.
        hint: String,
    },
    /// A selection that cannot be made.
    #[error("cannot select samples of dataset `{dataset}`: {reason}\nhint: {hint}")]
    Selection {
        /// The dataset.
        dataset: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A field of ours whose name is taken or not allowed.
    #[error(
        "cannot store heatmaps in field `{field}` of dataset `{dataset}`: {reason}\nhint: choose another name with `--field`"
    )]
    HeatmapField {
        /// The field.
        field: String,
        /// The dataset.
        dataset: String,
        /// What is in the way.
        reason: String,
    },
    /// Deleted by somebody while we worked on it.
    #[error("dataset `{name}` was deleted while camflow worked on it\nhint: the files that were written stay where they are")]
    DatasetGone {
        /// The dataset's name, as it was opened.
        name: String,
    },
    /// Another run writes the same fields.
    #[error(
        "another camflow run writes these fields of dataset `{dataset}`{}: process {process} on `{host}`, begun at {since}\nhint: wait until it is done; if it was cut off, its lock runs out within two minutes",
        of_shard(*shard)
    )]
    Locked {
        /// The dataset.
        dataset: String,
        /// What part of it the other run writes.
        shard: Shard,
        /// The process that holds the lock.
        process: u32,
        /// The machine it runs on.
        host: String,
        /// When it began.
        since: String,
    },
    /// Another run took over.
    #[error(
        "the lock on dataset `{dataset}` (lease {number}) ran out, and another camflow run has taken it\nhint: this run was held up for longer than its lock lasts; what it had committed stays, and the other run does the rest"
    )]
    LockLost {
        /// The dataset.
        dataset: String,
        /// The number of the lease.
        number: i64,
    },
    /// Commands do not fall into the time of the lease, although it is renewed.
    #[error(
        "updates of dataset `{dataset}` come after the end of the lease under which they were sent\nhint: the clock of the database server jumps, or it takes more than a minute for a command; run the same command again to go on"
    )]
    OutOfTime {
        /// The dataset.
        dataset: String,
    },
    /// The output folder, while samples were updated.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The server did not answer in time.
    #[error(
        "the database did not answer within {seconds} s while {doing}\nhint: run the same command again to go on; what was committed stays"
    )]
    Timeout {
        /// How long was waited.
        seconds: u64,
        /// What was being done.
        doing: String,
    },
    /// Anything else the driver reports.
    #[error("the database failed while {doing}\nhint: run the same command again to go on; what was committed stays")]
    Driver {
        /// What was being done, with the dataset.
        doing: String,
        /// The driver's own words.
        #[source]
        source: Box<DriverError>,
    },
    /// The asynchronous runtime cannot be started.
    #[error("cannot start the threads that talk to the database: {0}\nhint: the system may be out of threads or memory")]
    Runtime(#[source] std::io::Error),
}

impl Error {
    /// Says what was being done when the driver failed.
    pub(super) fn driver(doing: impl Into<String>, source: mongodb::error::Error) -> Self {
        Error::Driver { doing: doing.into(), source: source.into() }
    }

    /// Whether trying again may help: the connection broke, a server stepped down, a cursor was lost.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Timeout { .. } => true,
            Error::Unreachable { source, .. } | Error::Driver { source, .. } => is_transient(source),
            _ => false,
        }
    }
}

/// Server error codes that mean "not now": the retryable codes of MongoDB's retry specification, and lost cursors.
const TRANSIENT_CODES: [i32; 15] = [6, 7, 43, 89, 91, 134, 189, 237, 262, 9001, 10107, 11600, 11602, 13435, 13436];

fn is_transient(error: &mongodb::error::Error) -> bool {
    use mongodb::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::ServerSelection { .. } => true,
        ErrorKind::Command(command) => TRANSIENT_CODES.contains(&command.code),
        _ => false,
    }
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        RunError::Database {
            message: error.to_string(),
            source: match error {
                Error::Driver { source, .. } | Error::Unreachable { source, .. } | Error::Tls { source, .. } => Some(source),
                _ => None,
            },
        }
    }
}

fn of_shard(shard: Shard) -> String {
    if shard.is_whole() { String::new() } else { format!(" in shard {shard}") }
}

fn unknown_dataset(name: &str, database: &str, known: &[String]) -> String {
    let hint = if known.is_empty() {
        "the database has no datasets; check `--database-name`, `--database-dir` and `--database-uri`".to_owned()
    } else {
        format!("{}; `camflow doctor` lists them", existing("datasets", name, known))
    };
    format!("no dataset `{name}` in database `{database}`\nhint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(known: Vec<String>) -> String {
        Error::UnknownDataset { name: "quickstrat".into(), database: "fiftyone".into(), known }.to_string()
    }

    #[test]
    fn a_few_datasets_are_all_listed() {
        assert_eq!(
            unknown(vec!["a".into(), "quickstart".into()]),
            "no dataset `quickstrat` in database `fiftyone`\nhint: the datasets are `a`, `quickstart`; `camflow doctor` lists them"
        );
        assert!(unknown(Vec::new()).contains("has no datasets"));
    }

    #[test]
    fn of_many_datasets_the_nearest_are_named() {
        let mut many: Vec<String> = (0..100).map(|n| format!("other-{n}")).collect();
        many.push("quickstart".into());
        assert!(unknown(many).ends_with("the nearest of its 101 datasets are `quickstart`; `camflow doctor` lists them"));
    }

    #[test]
    fn run_errors_keep_the_hint() {
        let RunError::Database { message, source } = Error::DatasetGone { name: "d".into() }.into() else {
            panic!("a database error")
        };
        assert!(message.starts_with("dataset `d` was deleted") && message.contains("\nhint: "));
        assert!(source.is_none());
    }
}
