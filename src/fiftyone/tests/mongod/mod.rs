//! A mongod of our own, for the tests and benchmarks that need one.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use camflow_fiftyone::find_python;

/// A mongod that ends with it.
pub(crate) struct Mongod {
    process: Child,
    /// Where it listens, on the loopback.
    pub port: u16,
}

impl Mongod {
    /// Starts one on this folder and waits until it listens, on any port if `port` is 0.
    pub(crate) fn start(folder: &Path, port: u16, arguments: &[impl AsRef<OsStr>]) -> Mongod {
        let mut process = Command::new(executable())
            .arg("--dbpath")
            .arg(folder)
            .args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", "--port"])
            .arg(port.to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("mongod starts");
        let mut log = BufReader::new(process.stdout.take().expect("mongod's log")).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let port = log.by_ref().inspect(|line| said.push(line.clone())).find_map(|line| {
            let line: serde_json::Value =
                serde_json::from_str(&line).ok().filter(|_| line.contains("\"Waiting for connections\""))?;
            u16::try_from(line["attr"]["port"].as_u64()?).ok()
        });
        let port = port.unwrap_or_else(|| panic!("mongod ended before it listened:\n{}", said.join("\n")));
        // Somebody has to read on, or mongod would block on a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Mongod { process, port }
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn executable() -> PathBuf {
    if let Some(named) = std::env::var_os("CAMFLOW_MONGOD").filter(|value| !value.is_empty()) {
        return named.into();
    }
    const ELSE: &str = "or set CAMFLOW_MONGOD to a mongod of version 6.0 or newer";
    // Of whichever package the test is.
    let package = std::env::current_dir().expect("cargo starts tests in the folder of their package");
    let folders = package.ancestors();
    let python = folders.map(|folder| folder.join(".venv/bin/python")).find(|python| python.exists());
    let python = python.unwrap_or_else(|| panic!("no mongod to test with: run `scripts/setup.sh`, {ELSE}"));
    match find_python(Some(python)).map(|python| python.mongod) {
        Ok(Some(mongod)) => mongod,
        Ok(None) => panic!("the FiftyOne in `.venv` brings no mongod; {ELSE}"),
        Err(error) => panic!("no mongod to test with: {error}; {ELSE}"),
    }
}
