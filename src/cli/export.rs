//! `camflow export`: runs the exporter in a Python that has FiftyOne and torch.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::{
    Exit, Failure,
    model::{cache_folder, check_name},
    print,
};
use crate::{
    fiftyone::find_python,
    job::ModelRef,
    media::{create_folders, named_file, shown},
    program::Program,
    report::{has_secrets, without_controls},
};

/// The exporter travels inside the binary, so that an installed camflow needs no checkout.
const EXPORTER: &str = include_str!("../../scripts/export_model.py");

/// Runs the exporter without what lies in the current folder, where anybody may have put a `torch.py`. It looks there by itself for
/// a model that is named as `module:function`.
const LOADER: &str = "\
import sys
sys.path[:] = [p for p in sys.path if p]
sys.argv[0] = '-'
exec(compile(sys.stdin.read(), '<stdin>', 'exec'))";

/// Export a FiftyOne zoo, torchvision or timm model to a file that camflow runs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// FiftyOne zoo, torchvision or timm name, `module:function` or `file.py:function`
    model: String,
    /// File to write; default: the user's cache, where `--model NAME` finds it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Python with FiftyOne, torch and torchvision; default: the active environment, else `python3`
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// More arguments for the exporter, such as `-- --weights none --size 224x224`; `-- --help` lists them
    #[arg(last = true, value_name = "EXPORTER ARGS")]
    more: Vec<String>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Failure> {
    check_name(&args.model)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => ModelRef::Name(args.model.clone()).path(&cache_folder()?.join("models")),
    };
    run(&args.model, &path, &args.more, args.python.clone())?;
    if args.more.iter().any(|arg| arg == "--help" || arg == "-h") {
        return Ok(Exit::Done);
    }
    // Seen by the reader that will run it, not only by its writer.
    let program = Program::open(&path)?;
    print(&format!("{} ({} nodes, torch {})", shown(&path), program.num_nodes(), program.torch_version()));
    print(&format!("default mode: {}", program.metadata.default_mode()));
    if program.metadata.is_one_by_one() {
        print("images are run one by one, as the model mixes those of a batch");
    }
    Ok(Exit::Done)
}

fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", without_controls(text));
}

/// Exports `model` to `path`.
pub fn run(model: &str, path: &Path, more: &[String], python: Option<PathBuf>) -> anyhow::Result<()> {
    let python = find_python(python)?;
    let path = &named_file(path)
        .map_err(|error| anyhow::anyhow!("cannot write the model to `{}`: {error}\nhint: name a file", shown(path)))?;
    if let Some(folder) = path.parent() {
        create_folders(folder).with_context(|| format!("cannot make the folder `{}`", shown(folder)))?;
    }
    let mut child = Command::new(&python.executable)
        // The script comes by standard input; its own name would be lost in messages otherwise.
        .args(["-c", LOADER])
        .args([model, "--out"])
        .arg(path)
        .arg("--measure-with")
        .arg(std::env::current_exe().context("camflow cannot find its own program")?)
        .args(more)
        .env("FIFTYONE_DO_NOT_TRACK", "true")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(std::io::stderr()))
        // It may quote what it is given.
        .stderr(if has_secrets() { Stdio::piped() } else { Stdio::inherit() })
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(&python.executable)))?;
    let mut input = child.stdin.take().context("the exporter has no standard input")?;
    // A Python that stops early says why itself.
    let _ = input.write_all(EXPORTER.as_bytes());
    drop(input);
    if let Some(said) = child.stderr.take() {
        let lines = BufReader::new(said).split(b'\n').map_while(Result::ok);
        lines.for_each(|line| eprint_line(&String::from_utf8_lossy(&line)));
    }
    let status = child.wait().context("the exporter cannot be waited for")?;
    if !status.success() {
        bail!("exporting `{model}` failed ({status}); what Python said stands above");
    }
    Ok(())
}
