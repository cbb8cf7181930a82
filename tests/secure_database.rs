//! A MongoDB that wants TLS and a password, as a shared one should: a real mongod with certificates made for the test. What works,
//! what is refused with which words, and that the password is in none of them.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use bson::doc;
use camflow::{
    diagnostic::{Class, Diagnose, Diagnostic},
    fiftyone::{ConnectOptions, ConnectionUri, Database, DatabaseConfig, DatabaseLocation, Error},
};
use mongod::Mongod;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const PASSWORD: &str = "s3cr3t-of-ada";

#[path = "../src/fiftyone/tests/mongod/mod.rs"]
mod mongod;

struct Server {
    _mongod: Mongod,
    folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    /// With a user `ada` who may do anything.
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("a folder for mongod");
        make_certificates(folder.path());
        fs::create_dir(folder.path().join("db")).expect("a folder for data");
        let file = |name: &str| folder.path().join(name).display().to_string();
        let arguments = [
            "--auth",
            "--tlsMode=requireTLS",
            "--tlsAllowConnectionsWithoutCertificates",
            &format!("--tlsCertificateKeyFile={}", file("server.pem")),
            &format!("--tlsCAFile={}", file("ca.pem")),
        ];
        let mongod = Mongod::start(&folder.path().join("db"), 0, &arguments);
        let server = Server { port: mongod.port, _mongod: mongod, folder };
        // The first user may be made without being one, from this machine only.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let made = runtime.block_on(async {
            let admin = mongodb::Client::with_uri_str(server.uri("", &server.trusted())).await?.database("admin");
            admin.run_command(doc! {"createUser": "ada", "pwd": PASSWORD, "roles": ["root"]}).await
        });
        made.expect("a user");
        server
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn trusted(&self) -> String {
        format!("tls=true&tlsCAFile={}", self.file("ca.pem"))
    }

    fn uri(&self, credentials: &str, options: &str) -> String {
        format!("mongodb://{credentials}127.0.0.1:{}/?{options}&serverSelectionTimeoutMS=5000", self.port).replace("?&", "?")
    }

    fn ada(&self) -> String {
        self.uri(&format!("ada:{PASSWORD}@"), &self.trusted())
    }
}

/// `ca.pem`, `server.pem` signed by it, and `other.pem`, an authority that signed nothing.
fn make_certificates(folder: &Path) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
    };
    let (ours, other) = (authority("camflow test authority"), authority("another authority"));
    fs::write(folder.join("ca.pem"), ours.pem()).expect("written");
    fs::write(folder.join("other.pem"), other.pem()).expect("written");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
    let certificate = params.signed_by(&key, &ours).expect("signed");
    fs::write(folder.join("server.pem"), certificate.pem() + &key.serialize_pem()).expect("written");
}

fn connect(uri: &str) -> Result<Database, Error> {
    let location = DatabaseLocation::Server(ConnectionUri::new(uri, "`--database-uri`"));
    let config = DatabaseConfig { location, name: "fiftyone".into() };
    Database::connect(&config, &ConnectOptions::default()).map(|connected| connected.database)
}

fn camflow(arguments: &[&str], uri: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_camflow"));
    command.args(arguments).stdin(Stdio::null()).env_remove("FIFTYONE_DATABASE_URI");
    if let Some(uri) = uri {
        command.env("FIFTYONE_DATABASE_URI", uri);
    }
    command
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn tls_and_passwords() {
    let server = Server::start();
    let database = connect(&server.ada()).expect("with the right authority and password");
    assert!(database.datasets().expect("may read").is_empty());
    assert_eq!(database.describe().address, format!("mongodb://***@127.0.0.1:{}", server.port));
    drop(database);

    let trusted = server.trusted();
    let ada = format!("ada:{PASSWORD}@");
    let by_name = server.uri(&ada, &trusted).replace("127.0.0.1", "localhost");
    connect(&by_name).map(drop).expect("by the other name in the certificate");
    // (Connection string, what the message says, whether the whole program is asked too.)
    let cases = [
        (server.uri(&format!("ada:{PASSWORD}-wrong@"), &trusted), "refuses the credentials", true),
        (server.uri("", &trusted), "refuses the credentials, or wants some", false),
        (server.uri(&ada, &format!("tls=true&tlsCAFile={}", server.file("other.pem"))), "`tlsCAFile=/path/to/ca.pem`", true),
        (server.uri(&ada, "tls=true"), "authority that is not trusted", false),
        (server.uri(&ada, &format!("tls=true&tlsCAFile={}", server.file("gone.pem"))), "check the files that `tlsCAFile`", false),
        (server.uri(&ada, ""), "needs `tls=true`", false),
    ];
    for (uri, expected, whole_program) in &cases {
        let error = connect(uri).map(drop).expect_err(uri);
        let text = format!("{error} {error:?}");
        let Diagnostic { class, message, hints, .. } = error.diagnose();
        assert_eq!((class, hints.len()), (Class::Unavailable, 1), "{error}");
        assert!(format!("{message}; {}", hints[0]).contains(expected), "{uri}: {error}");
        assert!(!text.contains("s3cr3t"), "{text}");
        if *whole_program {
            let annotate = ["annotate", "--dataset", "none", "--model", "none.pt2"];
            let by_flag = [&annotate[..], &["--database-uri", uri]].concat();
            for mut process in [camflow(&annotate, Some(uri)), camflow(&by_flag, None)] {
                let output = process.output().expect("camflow runs");
                assert_eq!(output.status.code(), Some(2), "{}", said(&output));
                assert!(said(&output).contains(expected), "{}", said(&output));
                assert!(!said(&output).contains("s3cr3t"), "{}", said(&output));
            }
        }
    }
    let output = camflow(&["doctor"], Some(&server.ada())).output().expect("camflow runs");
    let text = said(&output);
    assert!(text.contains("ok   database") && text.contains("mongodb://***@127.0.0.1"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[test]
fn wrong_arguments_are_not_quoted_with_their_passwords() {
    let uri = format!("mongodb://ada:{PASSWORD}@127.0.0.1:1");
    let joined = format!("--database-uri={uri}");
    for arguments in [
        &["annotate", &uri][..],
        &["doctor", "--uri", &uri],
        &[&uri],
        &["annotate", &joined, "--no-such-flag"],
        &["doctor", "--format", &uri],
        &["inspect", &uri],
        &["export", &uri],
        &["explain", &uri, "--model", "none.pt2", "--out", "/nowhere"],
        &[
            "annotate",
            "--dataset",
            &uri,
            "--model",
            "none.pt2",
            "--database-uri",
            "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100",
        ],
    ] {
        let output = camflow(arguments, None).output().expect("camflow runs");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!said(&output).contains("s3cr3t"), "{}", said(&output));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_title_loses_the_password() {
    use std::{io::Read, time::Duration};
    // It takes the connection and never answers, so that camflow waits.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("its address").port();
    let uri = format!("mongodb://ada:{PASSWORD}@127.0.0.1:{port}/?serverSelectionTimeoutMS=60000");
    let mut process = camflow(&["annotate", "--dataset", "none", "--model", "none.pt2", "--database-uri", &uri], None);
    let mut process = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("camflow runs");
    let (mut connection, _) = silent.accept().expect("camflow connects");
    connection.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    connection.read_exact(&mut [0; 16]).expect("camflow asks");
    let title = fs::read(format!("/proc/{}/cmdline", process.id())).expect("its title");
    process.kill().expect("running");
    process.wait().expect("a child");
    let title = String::from_utf8_lossy(&title);
    assert!(!title.contains("s3cr3t"), "{title}");
    assert!(title.contains("--database-uri\0xxxx"), "{title}");
}
