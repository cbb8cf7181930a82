//! Where FiftyOne's database is, as FiftyOne itself is configured: command-line flags beat the environment, which beats
//! FiftyOne's `config.json`. An empty value counts as unset, as it does for FiftyOne.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use super::error::Error;

/// What the user says about the database on the command line or in a job file.
#[derive(Clone, Default)]
pub struct DatabaseFlags {
    /// `--database-uri`
    pub uri: Option<String>,
    /// `--database-dir`
    pub dir: Option<PathBuf>,
    /// `--database-name`
    pub name: Option<String>,
}

impl fmt::Debug for DatabaseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseFlags")
            .field("uri", &self.uri.as_deref().map(redacted))
            .field("dir", &self.dir)
            .field("name", &self.name)
            .finish()
    }
}

/// Which database to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// Where its server is.
    pub location: DatabaseLocation,
    /// Its name on the server.
    pub name: String,
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseLocation {
    /// A server that somebody else runs.
    Server(ConnectionUri),
    /// The service that our parent process, a FiftyOne Python, is using already.
    Port(u16),
    /// FiftyOne's own service for this folder, to be found or started.
    Service(PathBuf),
}

/// A MongoDB connection string. It prints without user, password and options.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionUri {
    uri: String,
    from: &'static str,
}

impl ConnectionUri {
    /// Takes a connection string; `from` says where it was found, for messages.
    pub fn new(uri: impl Into<String>, from: &'static str) -> Self {
        let uri = uri.into();
        if redacted(&uri) != uri {
            forbid_core_dumps();
        }
        ConnectionUri { uri, from }
    }

    /// The whole string, credentials included: for the driver only.
    pub(super) fn reveal(&self) -> &str {
        &self.uri
    }

    /// Where it was found.
    pub fn from(&self) -> &'static str {
        self.from
    }
}

impl fmt::Display for ConnectionUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.uri))
    }
}

impl fmt::Debug for ConnectionUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} from {}", self.from)
    }
}

/// From here on the process leaves no image of its memory behind, and only root may look into it: it holds a password.
pub fn forbid_core_dumps() {
    #[cfg(unix)]
    {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a limit of this process and its children.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    }
    // A handler of core dumps that is a program, such as systemd's, need not heed the limit.
    #[cfg(target_os = "linux")]
    // SAFETY: a flag of this process.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0)
    };
}

/// Scheme and hosts of a connection string. Everything up to the last `@` goes, because a password may hold `@`, `/` and `?` that should have
/// been escaped; the options go, because they can hold passwords of keys and proxies.
pub fn redacted(uri: &str) -> String {
    let (scheme, rest) = match uri.split_once("://") {
        Some((scheme @ ("mongodb" | "mongodb+srv"), rest)) => (scheme, rest),
        _ => return "***".to_owned(),
    };
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((_, hosts)) => ("***@", hosts),
        None => ("", rest),
    };
    let hosts = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // `mongodb://user:secret` is a slip in which the password stands where the port belongs.
    let plain = |host: &str| match host.rsplit_once(':') {
        Some((_, port)) if !host.ends_with(']') => port.parse::<u16>().is_ok(),
        _ => true,
    };
    let hosts = if hosts.split(',').all(plain) { hosts } else { "***" };
    format!("{scheme}://{credentials}{hosts}")
}

impl DatabaseConfig {
    /// FiftyOne's configuration on this machine, with the user's flags on top.
    ///
    /// # Errors
    /// The configuration file is unreadable, or the flags contradict each other.
    pub fn discover(flags: &DatabaseFlags) -> Result<Self, Error> {
        let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_path_buf());
        Self::resolve(flags, |name| std::env::var_os(name), home.as_deref())
    }

    fn resolve(
        flags: &DatabaseFlags,
        environment: impl Fn(&str) -> Option<OsString>,
        home: Option<&Path>,
    ) -> Result<Self, Error> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let fiftyone = home.unwrap_or(Path::new("/")).join(".fiftyone");

        let file = ConfigFile::read(&match variable("FIFTYONE_CONFIG_PATH") {
            Some(path) => PathBuf::from(path),
            None => fiftyone.join("config.json"),
        })?;

        let location = if let Some(uri) = flags.uri.clone().filter(|uri| !uri.is_empty()) {
            if flags.dir.is_some() {
                return Err(Error::UriAndDir);
            }
            DatabaseLocation::Server(ConnectionUri::new(uri, "`--database-uri`"))
        } else if let Some(dir) = flags.dir.as_deref().filter(|dir| !dir.as_os_str().is_empty()) {
            DatabaseLocation::Service(absolute(dir, home))
        } else if let Some(uri) = text("FIFTYONE_DATABASE_URI") {
            DatabaseLocation::Server(ConnectionUri::new(uri, "FIFTYONE_DATABASE_URI"))
        } else if let Some(uri) = file.text("database_uri") {
            DatabaseLocation::Server(ConnectionUri::new(uri, "`database_uri` in FiftyOne's config.json"))
        } else if let Some(port) = text("FIFTYONE_PRIVATE_DATABASE_PORT").and_then(|port| port.parse().ok()) {
            DatabaseLocation::Port(port)
        } else {
            let dir = variable("FIFTYONE_DATABASE_DIR")
                .map(PathBuf::from)
                .or_else(|| file.text("database_dir").map(PathBuf::from))
                .unwrap_or_else(|| fiftyone.join("var").join("lib").join("mongo"));
            DatabaseLocation::Service(absolute(&dir, home))
        };
        let name = flags
            .name
            .clone()
            .filter(|name| !name.is_empty())
            .or_else(|| text("FIFTYONE_DATABASE_NAME"))
            .or_else(|| file.text("database_name"))
            .unwrap_or_else(|| "fiftyone".to_owned());
        Ok(DatabaseConfig { location, name })
    }
}

/// What FiftyOne's `config.json` says; empty when there is no such file.
struct ConfigFile(serde_json::Map<String, serde_json::Value>);

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, Error> {
        let error = |reason: String| Error::Config { path: path.to_path_buf(), reason };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
                return Ok(ConfigFile(Default::default()));
            }
            Err(other) => return Err(error(other.to_string())),
        };
        // serde_json's messages name a line and a column but quote nothing of the file.
        match serde_json::from_str(&text).map_err(|syntax| error(syntax.to_string()))? {
            serde_json::Value::Object(entries) => Ok(ConfigFile(entries)),
            _ => Err(error("it is not a JSON object".to_owned())),
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key)?.as_str().filter(|value| !value.is_empty()).map(str::to_owned)
    }
}

/// `~` expanded, and absolute, as FiftyOne does with folders.
fn absolute(path: &Path, home: Option<&Path>) -> PathBuf {
    let expanded = match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    };
    std::path::absolute(&expanded).unwrap_or(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Diagnose;

    fn resolve(flags: DatabaseFlags, environment: &[(&str, &str)], config: Option<&str>) -> Result<DatabaseConfig, Error> {
        let folder = tempfile::tempdir().expect("a folder for the configuration");
        let path = folder.path().join("config.json");
        if let Some(config) = config {
            std::fs::write(&path, config).expect("the configuration");
        }
        let lookup = |name: &str| match name {
            "FIFTYONE_CONFIG_PATH" => Some(path.clone().into_os_string()),
            _ => environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
        };
        DatabaseConfig::resolve(&flags, lookup, Some(Path::new("/home/ada")))
    }

    fn service(dir: &str) -> DatabaseLocation {
        DatabaseLocation::Service(PathBuf::from(dir))
    }

    #[test]
    fn without_any_setting_the_defaults_are_fiftyones() {
        let config = resolve(DatabaseFlags::default(), &[], None).unwrap();
        assert_eq!(config.location, service("/home/ada/.fiftyone/var/lib/mongo"));
        assert_eq!(config.name, "fiftyone");
    }

    #[test]
    fn environment_beats_file_and_empty_is_unset() {
        let file = Some(r#"{"database_dir": "~/db", "database_name": "file", "database_uri": null}"#);
        let config = resolve(DatabaseFlags::default(), &[("FIFTYONE_DATABASE_DIR", "")], file).unwrap();
        assert_eq!((config.location, config.name.as_str()), (service("/home/ada/db"), "file"));
        let environment = [("FIFTYONE_DATABASE_DIR", "/srv/db"), ("FIFTYONE_DATABASE_NAME", "environment")];
        let config = resolve(DatabaseFlags::default(), &environment, file).unwrap();
        assert_eq!((config.location, config.name.as_str()), (service("/srv/db"), "environment"));
    }

    #[test]
    fn a_uri_beats_the_private_port_which_beats_the_folder() {
        let port = ("FIFTYONE_PRIVATE_DATABASE_PORT", "4321");
        let uri = ("FIFTYONE_DATABASE_URI", "mongodb://host/ignored");
        let config = resolve(DatabaseFlags::default(), &[port], None).unwrap();
        assert_eq!(config.location, DatabaseLocation::Port(4321));
        let config = resolve(DatabaseFlags::default(), &[port, uri], None).unwrap();
        assert!(matches!(config.location, DatabaseLocation::Server(_)));
        assert_eq!(config.name, "fiftyone", "the name is never taken from the uri");
    }

    #[test]
    fn flags_beat_everything() {
        let environment = [("FIFTYONE_DATABASE_URI", "mongodb://host"), ("FIFTYONE_DATABASE_NAME", "environment")];
        let flags = DatabaseFlags { dir: Some("~/mine".into()), name: Some("mine".into()), ..Default::default() };
        let config = resolve(flags, &environment, None).unwrap();
        assert_eq!((config.location, config.name.as_str()), (service("/home/ada/mine"), "mine"));
        let flags = DatabaseFlags { uri: Some("mongodb://other".into()), dir: Some("x".into()), name: None };
        assert!(matches!(resolve(flags, &environment, None), Err(Error::UriAndDir)));
    }

    #[test]
    fn a_broken_file_is_named() {
        let error = resolve(DatabaseFlags::default(), &[], Some("{")).unwrap_err().diagnose();
        assert!(error.message.contains("config.json") && error.hints.len() == 1, "{error:?}");
    }

    #[test]
    fn credentials_and_options_never_print() {
        let cases = [
            ("mongodb://ada:secret@host:27017/db?authSource=admin", "mongodb://***@host:27017"),
            (
                "mongodb+srv://ada:se/cr?e@t@cluster.example.net/?tlsCertificateKeyFilePassword=secret",
                "mongodb+srv://***@cluster.example.net",
            ),
            ("mongodb://a:1,b:2/?proxyPassword=secret", "mongodb://a:1,b:2"),
            ("mongodb://[::1]:27017", "mongodb://[::1]:27017"),
            ("mongodb://[::1]", "mongodb://[::1]"),
            ("mongodb://ada:secret", "mongodb://***"),
            ("ada:secret@host", "***"),
            ("http://ada:secret@host", "***"),
        ];
        for (uri, expected) in cases {
            let uri = ConnectionUri::new(uri, "a test");
            assert_eq!(uri.to_string(), expected);
            assert!(!format!("{uri:?}").contains("secret"));
        }
        let flags = DatabaseFlags { uri: Some("mongodb://ada:secret@host".into()), ..Default::default() };
        assert!(!format!("{flags:?}").contains("secret"));
    }
}
