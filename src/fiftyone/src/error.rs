//! What can go wrong between camflow and FiftyOne's database, in the user's words. No message ever shows a credential:
//! addresses come from [`super::config::ConnectionUri`], which only prints host names.

use std::path::PathBuf;

use super::{driver_error::DriverError, service::Stranger, shard::Shard};
use camflow_media::shown;
use camflow_storage::StorageError;

/// A fault of the database, the dataset or what is asked of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// FiftyOne's configuration file is there but not usable.
    #[error("cannot read FiftyOne's configuration `{}`: {reason}", shown(path))]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two places for one database.
    #[error("`--database-uri` and `--database-dir` exclude each other")]
    UriAndDir,
    /// Not a connection string.
    #[error("`{address}`, from {from}, is not a MongoDB connection string")]
    InvalidUri {
        /// Redacted.
        address: String,
        /// Where the string was found.
        from: &'static str,
    },
    /// No server answers.
    #[error("no MongoDB server answers at `{address}`")]
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
    #[error("the MongoDB server at `{address}` refuses the credentials, or wants some")]
    Credentials {
        /// Redacted.
        address: String,
    },
    /// A server answers, but the two do not trust each other.
    #[error("no secure connection to the MongoDB server at `{address}`: {reason}")]
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
    #[error("the MongoDB server at `{address}` is version {version}; FiftyOne needs 6.0 or newer")]
    ServerTooOld {
        /// Redacted.
        address: String,
        /// As the server says.
        version: String,
    },
    /// The database belongs to another edition of FiftyOne.
    #[error("database `{database}` at `{address}` is of type `{kind}`, not of the open-source FiftyOne's")]
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
        "FiftyOne's database service is running (process {pid}) with the folder `{}`, not with `{}`",
        shown(running),
        shown(configured)
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
    #[error("FiftyOne's database service (process {pid}) does not answer: {reason}")]
    ServiceSilent {
        /// The service's process.
        pid: i32,
        /// What was waited for.
        reason: String,
    },
    /// The service cannot be started.
    #[error("cannot start FiftyOne's database service for `{}`: {reason}", shown(dir))]
    ServiceStart {
        /// The database's folder.
        dir: PathBuf,
        /// What happened.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// Processes cannot be listed on this system.
    #[error("finding FiftyOne's own database service works on Linux only so far")]
    NoProcessTable,
    /// No Python with FiftyOne.
    #[error("no Python with FiftyOne found; looked at {tried}")]
    NoPython {
        /// The interpreters that were tried.
        tried: String,
    },
    /// A Python was found that somebody else may have put there.
    #[error(
        "the Python `{}` is not used: `{}` belongs to {}, not to you",
        shown(python), shown(&stranger.path), stranger.owner
    )]
    PythonOfAnother {
        /// The interpreter.
        python: PathBuf,
        /// What is not the user's.
        stranger: Stranger,
    },
    /// The Python that was named is no use.
    #[error("`{}` cannot be used as the Python with FiftyOne: {reason}", shown(path))]
    PythonWithoutFiftyone {
        /// The interpreter.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// No such dataset.
    #[error("no dataset `{name}` in database `{database}`")]
    UnknownDataset {
        /// As asked for.
        name: String,
        /// The database's name.
        database: String,
        /// The datasets there are.
        known: Vec<String>,
    },
    /// A dataset that has no plain images.
    #[error("dataset `{name}` {reason}")]
    UnsupportedDataset {
        /// The dataset.
        name: String,
        /// What it is instead.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The dataset's document does not look as FiftyOne writes it.
    #[error("dataset `{name}` cannot be read: {reason}")]
    MalformedDataset {
        /// The dataset.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A label field that does not exist or is of no use.
    #[error("{problem} in dataset `{dataset}`")]
    LabelField {
        /// What is wrong with it.
        problem: String,
        /// The dataset.
        dataset: String,
        /// What there is instead.
        hint: String,
    },
    /// A class that the masks do not know.
    #[error("{problem} in the mask targets of field `{field}` of dataset `{dataset}`")]
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
    #[error("cannot select samples of dataset `{dataset}`: {reason}")]
    Selection {
        /// The dataset.
        dataset: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A field of ours whose name is taken or not allowed.
    #[error("cannot store heatmaps in field `{field}` of dataset `{dataset}`: {reason}")]
    HeatmapField {
        /// The field.
        field: String,
        /// The dataset.
        dataset: String,
        /// What is in the way.
        reason: String,
    },
    /// The same of a field for predictions.
    #[error("cannot store predictions in field `{field}` of dataset `{dataset}`: {reason}")]
    PredictionField {
        /// The field.
        field: String,
        /// The dataset.
        dataset: String,
        /// What is in the way.
        reason: String,
    },
    /// A field cannot take what heatmaps localize.
    #[error("field `{field}` of dataset `{dataset}` cannot hold the {what} of heatmaps: {reason}")]
    LocalizedField {
        /// The field.
        field: String,
        /// The dataset.
        dataset: String,
        /// Boxes or masks.
        what: &'static str,
        /// What is in the way.
        reason: String,
    },
    /// Deleted by somebody while we worked on it.
    #[error("dataset `{name}` was deleted while camflow worked on it")]
    DatasetGone {
        /// The dataset's name, as it was opened.
        name: String,
    },
    /// Another run writes the same fields.
    #[error(
        "another camflow run writes these fields of dataset `{dataset}`{}: process {process} on `{host}`, started at {since}",
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
    #[error("the lock on dataset `{dataset}` (lease {number}) ran out, and another camflow run has taken it")]
    LockLost {
        /// The dataset.
        dataset: String,
        /// The number of the lease.
        number: i64,
    },
    /// Commands do not fall into the time of the lease, although it is renewed.
    #[error("updates of dataset `{dataset}` come after the end of the lease under which they were sent")]
    OutOfTime {
        /// The dataset.
        dataset: String,
    },
    /// The output folder, while samples were updated.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The server did not answer in time.
    #[error("the database did not answer within {seconds} s while {doing}")]
    Timeout {
        /// How long was waited.
        seconds: u64,
        /// What was being done.
        doing: String,
    },
    /// Anything else the driver reports.
    #[error("the database failed while {doing}")]
    Driver {
        /// What was being done, with the dataset.
        doing: String,
        /// The driver's own words.
        #[source]
        source: Box<DriverError>,
    },
    /// The asynchronous runtime cannot be started.
    #[error("cannot start the threads that talk to the database")]
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

fn of_shard(shard: Shard) -> String {
    if shard.is_whole() { String::new() } else { format!(" in shard {shard}") }
}
