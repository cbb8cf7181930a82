//! `camflow completions` and `camflow man`: what shells and manual readers want to know of the command line.

use std::{fs, path::PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, help::arranged};
use crate::{diagnostic::Diagnostic, media::shown, report::stdout_line};

/// Print completions for a shell
///
/// For bash: `camflow completions bash > ~/.local/share/bash-completion/completions/camflow`.
/// For zsh: `camflow completions zsh > FOLDER/_camflow`, with FOLDER in `$fpath`.
/// For fish: `camflow completions fish > ~/.config/fish/completions/camflow.fish`.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

/// Write manual pages: one for each command
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Folder for the pages
    #[arg(long)]
    out: PathBuf,
}

/// Runs `camflow completions`.
pub(super) fn completions(args: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut arranged(Cli::command()), "camflow", &mut script);
    stdout_line(String::from_utf8_lossy(&script).trim_end());
    Exit::Done
}

/// Runs `camflow man`.
pub(super) fn man(args: &Man) -> Result<Exit, Diagnostic> {
    let written = fs::create_dir_all(&args.out).and_then(|()| clap_mangen::generate_to(arranged(Cli::command()), &args.out));
    written.map_err(|error| {
        Diagnostic::invalid(format!("cannot write manual pages to `{}`", shown(&args.out)))
            .because(&error)
            .hint("name another folder with `--out`")
    })?;
    Ok(Exit::Done)
}
