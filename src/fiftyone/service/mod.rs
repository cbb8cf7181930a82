//! FiftyOne's own database service: a Python wrapper process around mongod that lives as long as any registered client.
//!
//! camflow attaches to the running service, or starts FiftyOne's wrapper as FiftyOne would, so that a Python or an App
//! opened meanwhile finds it. It never runs a mongod of its own on FiftyOne's folder: FiftyOne would not find that one,
//! and fail.

mod owner;
mod processes;
mod python;
mod registration;

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use owner::{Stranger, stranger_of};
pub(super) use python::wait_within;
pub use python::{FiftyonePython, find_python};

use self::{processes::Wrapper, registration::Reply};
use super::error::Error;
use crate::media::shown;

/// How long a service that exists may take to answer. It imports FiftyOne first, which takes seconds on a slow disk; a
/// second one must not be started meanwhile, since it would fail on mongod's lock and so would the first one's clients.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a service that we start may take: FiftyOne itself waits this long, and a mongod that recovers from a crash
/// needs it.
const START: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(200);

/// The items of a wrapper's command line by which FiftyOne recognises it; it compares nothing else.
const MARK: [&str; 3] = ["--51-service", "db", "--multi"];

/// Our hold on the service. While it lives, and at least as long as this process is registered, so does the database.
#[derive(Debug)]
pub(super) struct Service {
    /// Where mongod listens on 127.0.0.1.
    pub(super) port: u16,
    /// The wrapper's process.
    pub(super) pid: i32,
    /// The wrapper, if it is our child. Its standard input is a pipe; the wrapper takes the closed pipe, be it by our
    /// orderly end or by a crash, as our leaving, and goes on if others are registered.
    started: Option<Child>,
}

impl Service {
    /// Attaches to the running service for `dir`, or starts it with the FiftyOne of `python`.
    pub(super) fn attach_or_start(dir: &Path, python: Option<PathBuf>) -> Result<Self, Error> {
        // The rounds are for services that are about to end: they refuse clients, then they are gone.
        let deadline = Instant::now() + ANSWER;
        let mut reason = "it has no open port".to_owned();
        loop {
            let Some(wrapper) = choose(processes::wrappers(&MARK)?, dir)? else {
                return start(dir, &find_python(python)?);
            };
            match attach(&wrapper) {
                Ok(Some(port)) => return Ok(Service { port, pid: wrapper.pid, started: None }),
                Ok(None) => {}
                Err(refusal) => reason = refusal,
            }
            if Instant::now() >= deadline {
                let reason = format!("{reason}, after {} s", ANSWER.as_secs());
                return Err(Error::ServiceSilent { pid: wrapper.pid, reason });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether it was there before us.
    pub(super) fn is_attached(&self) -> bool {
        self.started.is_none()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.started {
            // Not waited for: the service may outlive us, and mongod's orderly end needs no witness.
            drop(child.stdin.take());
        }
    }
}

/// The wrapper that serves `dir`. Another one for another folder is an error even though ours could be started beside
/// it: FiftyOne attaches to whichever it sees first.
fn choose(wrappers: Vec<Wrapper>, dir: &Path) -> Result<Option<Wrapper>, Error> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let configured = real(dir);
    let mut elsewhere = None;
    for wrapper in wrappers {
        match wrapper.dbpath() {
            Some(running) if real(&running) == configured => return Ok(Some(wrapper)),
            Some(running) => elsewhere = Some((wrapper.pid, running)),
            None => {}
        }
    }
    match elsewhere {
        None => Ok(None),
        Some((pid, running)) => Err(Error::ServiceElsewhere { pid, running, configured: dir.to_path_buf() }),
    }
}

/// Registers this process and returns mongod's port; `None` while one of the two does not listen yet.
fn attach(wrapper: &Wrapper) -> Result<Option<u16>, String> {
    let Some(desk) = processes::listening_ports(wrapper.pid).first().copied() else { return Ok(None) };
    match registration::register(desk, std::process::id()) {
        Ok(Reply::Registered) => Ok(processes::port_of_descendants(wrapper.pid)),
        Ok(Reply::Refused) => Err("it refuses new clients".to_owned()),
        Err(error) => Err(format!("registering with it failed ({error})")),
    }
}

fn start(dir: &Path, python: &FiftyonePython) -> Result<Service, Error> {
    let failed = |reason: String, hint: &str| Error::ServiceStart { dir: dir.into(), reason, hint: hint.into() };
    let Some(mongod) = &python.mongod else {
        return Err(failed(
            format!("the FiftyOne of `{}` brings no mongod for this system", shown(&python.executable)),
            "install MongoDB 6.0 or newer, run it, and pass its address with `--database-uri` (FIFTYONE_DATABASE_URI for FiftyOne)",
        ));
    };
    let folders = "check the folder's owner and permissions, or name another with `--database-dir`";
    let log = dir.join("log").join("mongo.log");
    // FiftyOne's Python side makes both before it starts the wrapper.
    fs::create_dir_all(dir.join("log"))
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&log).map(drop))
        .map_err(|error| failed(error.to_string(), folders))?;

    // What the wrapper prints goes to a file without a name: unlike a pipe it never fills up, and it may outlive us.
    let output = tempfile::tempfile().map_err(|error| failed(error.to_string(), "check the temporary folder"))?;
    let copy = || output.try_clone().map_err(|error| failed(error.to_string(), "check the temporary folder"));
    let mut command = Command::new(&python.executable);
    command
        .arg(&python.wrapper)
        .args(MARK)
        .arg(mongod)
        .arg("--dbpath")
        .arg(dir)
        .arg("--logpath")
        .arg(&log)
        .args(["--port", "0"])
        .args((!cfg!(windows)).then_some("--nounixsocket"))
        .env("FIFTYONE_DISABLE_SERVICES", "1")
        .stdin(Stdio::piped())
        .stdout(copy()?)
        .stderr(copy()?);
    // The wrapper leaves our process group only after its imports; until then Ctrl-C would end it too.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|error| {
        failed(format!("`{}`: {error}", shown(&python.executable)), "name another Python with CAMFLOW_PYTHON")
    })?;

    let pid = i32::try_from(child.id()).unwrap_or_default();
    let deadline = Instant::now() + START;
    loop {
        if let Some(port) = processes::port_of_descendants(pid) {
            return Ok(Service { port, pid, started: Some(child) });
        }
        if let Ok(Some(status)) = child.try_wait() {
            // A Python that started its own service in the same moment holds mongod's lock; its service is as good as
            // ours.
            if let Some(wrapper) = choose(processes::wrappers(&MARK)?, dir)? {
                return wait_for(&wrapper);
            }
            let said = last_lines(output);
            return Err(failed(
                format!("the service ended with {status}{said}"),
                &format!("mongod's own words are in `{}`", shown(&log)),
            ));
        }
        if Instant::now() >= deadline {
            return Err(failed(
                format!("mongod has no open port after {} s", START.as_secs()),
                &format!("mongod's own words are in `{}`", shown(&log)),
            ));
        }
        std::thread::sleep(POLL);
    }
}

fn wait_for(wrapper: &Wrapper) -> Result<Service, Error> {
    let deadline = Instant::now() + ANSWER;
    loop {
        if let Ok(Some(port)) = attach(wrapper) {
            return Ok(Service { port, pid: wrapper.pid, started: None });
        }
        if Instant::now() >= deadline {
            let reason = format!("it has no open port after {} s", ANSWER.as_secs());
            return Err(Error::ServiceSilent { pid: wrapper.pid, reason });
        }
        std::thread::sleep(POLL);
    }
}

/// The end of what a program printed, on one line, for a message.
fn last_lines(mut output: fs::File) -> String {
    let mut text = Vec::new();
    let read = output.seek(SeekFrom::Start(0)).and_then(|_| output.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    lines.reverse();
    if read.is_err() || lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Diagnose;

    fn wrapper(pid: i32, dbpath: &str) -> Wrapper {
        let argv = ["python", "main.py", "--51-service", "db", "--multi", "mongod", "--dbpath", dbpath, "--port", "0"];
        Wrapper { pid, argv: argv.map(String::from).into() }
    }

    #[test]
    fn the_service_of_the_configured_folder_is_chosen() {
        let dir = Path::new("/nowhere/ours");
        assert!(choose(Vec::new(), dir).unwrap().is_none());
        let both = vec![wrapper(1, "/nowhere/other"), wrapper(2, "/nowhere/ours/")];
        assert_eq!(choose(both, dir).unwrap().unwrap().pid, 2);
    }

    #[test]
    fn a_service_of_another_folder_is_refused() {
        let error = choose(vec![wrapper(7, "/nowhere/other")], Path::new("/nowhere/ours")).unwrap_err().diagnose();
        let [hint] = &error.hints[..] else { panic!("{error:?}") };
        assert!(hint.contains("--database-dir /nowhere/other"), "{hint}");
        let error = error.message;
        assert!(error.contains("`/nowhere/other`") && error.contains("`/nowhere/ours`"), "{error}");
        assert!(error.contains("process 7"), "{error}");
    }
}
