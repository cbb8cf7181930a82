//! The connection to FiftyOne's database: found or started, checked once, then shared by datasets, sources and sinks.
//!
//! The driver is asynchronous and its runtime is owned here; everything above is synchronous and blocks the calling
//! thread, which is always a stage of the pipeline that has nothing else to do.

use std::{fmt, future::Future, path::PathBuf, sync::Arc, time::Duration};

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    error::ErrorKind,
    options::{ClientOptions, ServerAddress},
};

use super::{
    config::{DatabaseConfig, DatabaseLocation},
    driver::{Driver, Task},
    error::Error,
    service::Service,
};

/// FiftyOne protects non-persistent datasets only while it sees another client of exactly this name.
const APP_NAME: &str = "fiftyone";

/// How long to look for a server: the driver's 30 s is long for a user with a mistyped address, and the pipeline
/// retries.
const SERVER_SELECTION: Duration = Duration::from_secs(10);

/// The longest a single command may take. The driver has no limit of its own once it is connected, so a server that
/// hangs would hang the run; the slowest honest command is an unindexed scan of a large dataset for a rare match.
const COMMAND: Duration = Duration::from_secs(300);

/// The oldest server that FiftyOne 1.x accepts.
const OLDEST_SERVER: u32 = 6;

/// How to connect, beyond where.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// The Python whose FiftyOne starts the service if none runs; found as [`super::find_python`] does when not given.
    pub python: Option<PathBuf>,
}

/// A database, and what the user should know about it.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub database: Database,
    /// Sentences for the user, lowercase, without a period.
    pub notices: Vec<String>,
}

/// FiftyOne's database. Clones share the connection, which lives until the last clone is gone.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    // Fields drop in this order: the service last.
    client: Client,
    driver: Driver,
    service: Option<Service>,
    /// With credentials.
    uri: String,
    name: String,
    description: DatabaseDescription,
}

/// What there is to say about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseDescription {
    /// The server's address, without credentials.
    pub address: String,
    /// How the server was found, as words: `FiftyOne's running service (process 7)`.
    pub origin: String,
    /// The server's version.
    pub server_version: String,
    /// The database's name.
    pub name: String,
    /// The folder of FiftyOne's own service, where it is that.
    pub folder: Option<PathBuf>,
}

/// A dataset in the list of datasets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetSummary {
    /// Its name.
    pub name: String,
    /// FiftyOne's word: `image`, `video`, `group`, …; `None` while it is empty.
    pub media_type: Option<String>,
    /// As the server's statistics say.
    pub num_samples: u64,
    /// Whether it outlives the last FiftyOne process.
    pub persistent: bool,
}

impl Database {
    /// Finds the server, or starts FiftyOne's, and checks that FiftyOne's data can be read there.
    ///
    /// # Errors The service cannot be found or started; the server does not answer, wants other credentials, is too old
    /// or belongs to another edition of FiftyOne.
    pub fn connect(config: &DatabaseConfig, options: &ConnectOptions) -> Result<Connected, Error> {
        let driver = Driver::start().map_err(Error::Runtime)?;
        let mut service = None;
        let mut folder = None;
        let mut whole_uri = None;
        let (client_options, address, origin, hint) = match &config.location {
            DatabaseLocation::Server(uri) => {
                // The driver's words about a malformed string may quote the password that malformed it.
                let parsed = driver
                    .block_on(async { ClientOptions::parse(uri.reveal()).await })
                    .map_err(|error| Self::parse_error(error, uri.to_string(), uri.from()))?;
                whole_uri = Some(uri.reveal().to_owned());
                (
                    parsed,
                    uri.to_string(),
                    uri.from().to_owned(),
                    "check the address, and that the server runs and is not behind a firewall; one that wants TLS needs `tls=true` in the connection string",
                )
            }
            DatabaseLocation::Port(port) => (
                local(*port),
                format!("mongodb://127.0.0.1:{port}"),
                "FIFTYONE_PRIVATE_DATABASE_PORT, from the FiftyOne that started camflow".to_owned(),
                "FIFTYONE_PRIVATE_DATABASE_PORT may be left over from a FiftyOne that has ended; unset it",
            ),
            DatabaseLocation::Service(dir) => {
                let found = Service::attach_or_start(dir, options.python.clone())?;
                let port = found.port;
                let how = if found.is_attached() { "running service" } else { "service, started by camflow" };
                let origin = format!("FiftyOne's {how} (process {})", found.pid);
                service = Some(found);
                folder = Some(dir.clone());
                (
                    local(port),
                    format!("mongodb://127.0.0.1:{port}"),
                    origin,
                    "the service may just have ended; run the same command again",
                )
            }
        };
        let uri = whole_uri.unwrap_or_else(|| address.clone());
        let description =
            DatabaseDescription { address, origin, server_version: String::new(), name: config.name.clone(), folder };
        Self::establish(driver, client_options, service, uri, description, hint)
    }

    fn establish(
        mut driver: Driver,
        mut options: ClientOptions,
        service: Option<Service>,
        uri: String,
        mut description: DatabaseDescription,
        hint: &'static str,
    ) -> Result<Connected, Error> {
        options.app_name = Some(APP_NAME.to_owned());
        options.server_selection_timeout.get_or_insert(SERVER_SELECTION);
        let address = description.address.clone();
        let failed = |error| connect_error(error, &address, hint);
        let client = driver.connect(options).map_err(failed)?;
        let (version, types) = driver
            .block_on(async {
                let build = client.database("admin").run_command(doc! {"buildInfo": 1}).await?;
                // Reading needs the credentials that `buildInfo` does without.
                let config = client.database(&description.name).collection::<Document>("config");
                let newest = config.find_one(doc! {}).sort(doc! {"_id": -1}).await?;
                Ok((build.get_str("version").unwrap_or("unknown").to_owned(), newest))
            })
            .map_err(failed)?;
        if major(&version).is_some_and(|major| major < OLDEST_SERVER) {
            return Err(Error::ServerTooOld { address, version });
        }
        let mut notices = Vec::new();
        match types.as_ref().map(|config| config.get_str("type")) {
            None => notices.push(format!("database `{}` at `{address}` holds nothing of FiftyOne yet", description.name)),
            Some(Ok("fiftyone") | Err(_)) => {}
            Some(Ok(kind)) => {
                return Err(Error::ClientType { database: description.name, address, kind: kind.to_owned() });
            }
        }
        description.server_version = version;
        let name = description.name.clone();
        Ok(Connected { database: Database(Arc::new(Inner { client, driver, service, uri, name, description })), notices })
    }

    fn parse_error(error: mongodb::error::Error, address: String, from: &'static str) -> Error {
        match error.kind.as_ref() {
            // A `mongodb+srv` name that cannot be resolved. The driver names the host only.
            ErrorKind::DnsResolve { .. } => Error::Unreachable {
                address,
                hint: "check the host name of the `mongodb+srv` address, and this machine's network",
                source: error.into(),
            },
            _ => Error::InvalidUri { address, from },
        }
    }

    /// What there is to say about the connection.
    pub fn describe(&self) -> &DatabaseDescription {
        &self.0.description
    }

    /// Whether camflow started FiftyOne's service itself.
    pub fn started_service(&self) -> bool {
        self.0.service.as_ref().is_some_and(|service| !service.is_attached())
    }

    /// A connection string with which a FiftyOne Python reaches the same database, where that needs none of the user's
    /// secrets.
    pub fn local_uri(&self) -> Option<&str> {
        self.0.service.is_some().then_some(self.0.description.address.as_str())
    }

    /// The connection string, credentials included: for the environment of a FiftyOne Python alone.
    pub(super) fn reveal_uri(&self) -> &str {
        &self.0.uri
    }

    /// The datasets, by name.
    ///
    /// # Errors
    /// The database fails.
    pub fn datasets(&self) -> Result<Vec<DatasetSummary>, Error> {
        let projection = doc! {"name": 1, "media_type": 1, "persistent": 1, "sample_collection_name": 1};
        let documents: Vec<Document> = self.run("listing the datasets", async {
            let datasets = self.collection::<Document>("datasets");
            datasets.find(is_listed()).projection(projection).sort(doc! {"name": 1}).await?.try_collect().await
        })?;
        let mut summaries = Vec::with_capacity(documents.len());
        for document in documents {
            let (Ok(name), Ok(samples)) = (document.get_str("name"), document.get_str("sample_collection_name")) else {
                continue;
            };
            let count =
                self.run("counting samples", async { self.collection::<Document>(samples).estimated_document_count().await })?;
            summaries.push(DatasetSummary {
                name: name.to_owned(),
                media_type: document.get_str("media_type").ok().map(str::to_owned),
                num_samples: count,
                persistent: document.get_bool("persistent").unwrap_or(false),
            });
        }
        Ok(summaries)
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn collection<T: Send + Sync>(&self, name: &str) -> Collection<T> {
        self.mongodb().collection(name)
    }

    pub(super) fn mongodb(&self) -> mongodb::Database {
        self.0.client.database(&self.0.name)
    }

    /// Blocks until the command is done. `doing` completes "the database failed while …".
    pub(super) fn run<T>(&self, doing: &str, command: impl Future<Output = mongodb::error::Result<T>>) -> Result<T, Error> {
        match self.0.driver.block_on(async { tokio::time::timeout(COMMAND, command).await }) {
            Ok(done) => done.map_err(|error| Error::driver(doing, error)),
            Err(_) => Err(Error::Timeout { seconds: COMMAND.as_secs(), doing: doing.to_owned() }),
        }
    }

    /// Begins a command for which [`Database::finish`] waits. It must not hold this connection, which ends with its last
    /// holder and cannot end inside its own runtime.
    pub(super) fn start<T: Send + 'static>(
        &self,
        command: impl Future<Output = mongodb::error::Result<T>> + Send + 'static,
    ) -> Pending<T> {
        Pending(self.0.driver.spawn(command))
    }

    /// Blocks until the command is done, as [`Database::run`] does.
    pub(super) fn finish<T>(&self, doing: &str, mut pending: Pending<T>) -> Result<T, Error> {
        self.run(doing, async {
            match pending.0.wait().await {
                Ok(done) => done,
                // Nobody cancels a command: it panicked, which is a bug, and this stage's own.
                Err(failed) => std::panic::resume_unwind(failed.into_panic()),
            }
        })
    }
}

/// Which datasets FiftyOne lists: the ones that it generates (of patches, frames, clips) are its private business.
pub(super) fn is_listed() -> Document {
    doc! {"sample_collection_name": {"$regex": "^samples\\."}}
}

/// A command that was begun.
#[derive(Debug)]
pub(super) struct Pending<T>(Task<mongodb::error::Result<T>>);

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.description).finish()
    }
}

fn local(port: u16) -> ClientOptions {
    ClientOptions::builder()
        .hosts(vec![ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(port) }])
        .direct_connection(true)
        .build()
}

fn connect_error(error: mongodb::error::Error, address: &str, hint: &'static str) -> Error {
    /// Unauthorized and AuthenticationFailed.
    const REFUSED: [i32; 2] = [13, 18];
    let address = address.to_owned();
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => Error::Credentials { address },
        ErrorKind::Command(command) if REFUSED.contains(&command.code) => Error::Credentials { address },
        ErrorKind::InvalidTlsConfig { message, .. } => {
            let hint = "check the files that `tlsCAFile` and `tlsCertificateKeyFile` in the connection string name";
            Error::Tls { address, reason: message.clone(), hint, source: error.into() }
        }
        ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) if let Some((reason, hint)) = tls_fault(&error.to_string()) => {
            Error::Tls { address, reason: reason.to_owned(), hint, source: error.into() }
        }
        ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => {
            Error::Unreachable { address, hint, source: error.into() }
        }
        _ => Error::driver(format!("connecting to `{address}`"), error),
    }
}

/// What the words of the TLS library mean, where they are among the driver's, and what to do. The driver tells these faults from
/// no others.
fn tls_fault(message: &str) -> Option<(&'static str, &'static str)> {
    const FAULTS: [(&str, &str, &str); 6] = [
        (
            "UnknownIssuer",
            "its certificate is signed by an authority that is not trusted here",
            "name the file with the authority's certificate in the connection string, as `tlsCAFile=/path/to/ca.pem`",
        ),
        ("NotValidForName", "its certificate is for another host name", "connect by a name that the certificate has"),
        ("Expired", "its certificate has expired", "renew the server's certificate, or set this machine's clock"),
        (
            "invalid peer certificate",
            "its certificate is not valid",
            "the driver's words below say why; `tlsCAFile=/path/to/ca.pem` in the connection string names an authority to trust",
        ),
        (
            "InvalidContentType",
            "it does not speak TLS",
            "leave `tls=true` out of the connection string, or turn TLS on at the server",
        ),
        (
            "received fatal alert",
            "it refuses the TLS connection",
            "it may want a certificate of ours: name a file with certificate and key as `tlsCertificateKeyFile=/path/to/client.pem`",
        ),
    ];
    let (_, reason, hint) = FAULTS.iter().find(|(words, ..)| message.contains(words))?;
    Some((reason, hint))
}

/// The first number of `6.0.5`.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConnectionUri;

    fn connect(uri: &str) -> Error {
        let location = DatabaseLocation::Server(ConnectionUri::new(uri, "`--database-uri`"));
        let config = DatabaseConfig { location, name: "fiftyone".into() };
        Database::connect(&config, &ConnectOptions::default()).map(drop).unwrap_err()
    }

    #[test]
    fn a_malformed_uri_is_refused_without_its_password() {
        for uri in [
            "mongodb://ada:se@cret/s@host:x",
            "ada:secret@host",
            "mongodb://ada:se%cret@host",
            "mongodb://h/?w=secret&tls=secret",
        ] {
            let error = connect(uri);
            assert!(matches!(error, Error::InvalidUri { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("cret"), "{error:?}");
        }
    }

    #[test]
    fn an_unreachable_server_is_named_without_its_password() {
        // Nothing listens on port 1 of the loopback.
        let error = connect("mongodb://ada:secret@127.0.0.1:1/?serverSelectionTimeoutMS=200");
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().starts_with("no MongoDB server answers at `mongodb://***@127.0.0.1:1`"), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }

    #[test]
    fn versions_compare_by_their_first_number() {
        assert_eq!(major("6.0.5"), Some(6));
        assert_eq!(major("10.1"), Some(10));
        assert_eq!(major("unknown"), None);
    }
}
