//! How help is arranged: flags in groups, the most usual ones alone in `-h`, examples below.

use clap::Command;

/// Flags that `-h` shows, too.
const USUAL: [&str; 24] = [
    "dataset",
    "class",
    "text",
    "layers",
    "model",
    "target",
    "method",
    "device",
    "out",
    "limit",
    "dry-run",
    "format",
    "quiet",
    "against-dataset",
    "max-drop",
    "save-view",
    "fields",
    "boxes",
    "masks",
    "threshold",
    "truth",
    "samples",
    "strict",
    "json",
];

/// Headings with their flags; what is not here stands first, without one.
const GROUPS: [(&str, &[&str]); 7] = [
    (
        "Heatmaps",
        &[
            "text-template",
            "method",
            "fuse-layers",
            "fusion",
            "eigen-smooth",
            "aug-smooth",
            "sess",
            "cam-batch-size",
            "cam-samples",
            "cam-baseline",
            "cam-window",
            "score",
            "size",
            "slice-height",
            "slice-width",
            "overlap-height-ratio",
            "overlap-width-ratio",
            "per-detection",
            "faithfulness",
            "counterfactuals",
            "attention-on",
            "eval-key",
            "predictions",
            "map",
            "apply-exif",
            "mask",
            "methods",
        ],
    ),
    ("Speed and precision", &["device", "precision", "exact", "fast", "batch-size", "workers"]),
    ("Samples", &["tags", "match", "ids", "slices", "view", "view-stages", "limit", "shuffle", "seed", "shard"]),
    (
        "Fields and files",
        &[
            "field",
            "out",
            "new-folder",
            "grace",
            "npy",
            "store",
            "replace",
            "overwrite",
            "no-space-check",
            "app-colors",
            "no-app-config",
        ],
    ),
    ("Failures", &["max-failures", "accept-known-failures"]),
    ("Reports", &["name", "report-file", "metrics-file", "html-file", "numbers-file", "baseline"]),
    ("Database and Python", &["database-uri", "database-dir", "database-name", "python"]),
];

const EXAMPLES: [(&str, &str); 8] = [
    (
        "",
        "\
Examples:
  camflow annotate --dataset quickstart --class person --layers 1-4
  camflow report --dataset quickstart --out report.html
  camflow explain bus.jpg --model resnet50-imagenet-torch --target top --out maps

`camflow COMMAND -h` shows what a command takes, `--help` all of it.",
    ),
    (
        "annotate",
        "\
Examples:
  camflow annotate --dataset quickstart --class person --layers 1-4
      the pixels that the dataset's own labels mark as a person, at four layers
  camflow annotate --dataset flowers --model resnet50-imagenet-torch --target top
      the class that the model itself puts first
  camflow annotate --dataset street --class all --target labels:boxes --tags night --dry-run
      which samples would be annotated, and why",
    ),
    (
        "compare",
        "\
Examples:
  camflow compare --dataset street person_grad_layer_4 person_scorecam_layer_4
      two methods
  camflow compare --dataset street 'v1_*' 'v2_*' --max-drop energy_inside=0.02
      two models whose fields have names that begin so, as a test in CI
  camflow compare --dataset street --against-dataset street-last-week person_grad_layer_4
      the same field of two datasets with the same images",
    ),
    (
        "localize",
        "\
Examples:
  camflow localize --dataset street --truth ground_truth
      how well the heatmaps localize, and at which threshold
  camflow localize --dataset street --fields person_grad_layer_4 --truth ground_truth --boxes found
      boxes for all samples, by a threshold that is learnt on those with labels
  camflow localize --dataset street --boxes found --threshold 0.2",
    ),
    (
        "explain",
        "\
Examples:
  camflow explain bus.jpg --model resnet50-imagenet-torch --target top --out maps
  camflow explain *.jpg --model model.pt2 --class person --method gradcam,layercam --out maps",
    ),
    (
        "check-model",
        "\
Examples:
  camflow check-model resnet50-imagenet-torch photos --method gradcam --layers 4
      whether its heatmaps depend on the model, and how stable they are
  camflow check-model model.pt2 --dataset street --class person --out checked --json checked.json
      on eight samples of a dataset, with contact sheets and all figures
  camflow check-model model.pt2 *.jpg --strict --threshold randomisation=0.4
      as a test in CI",
    ),
    (
        "export",
        "\
Examples:
  camflow export resnet50-imagenet-torch
  camflow export my_models.py:build --out my-model.pt2
  camflow export --arch timm:resnet18 --checkpoint best.pth --classes labels.txt --preprocess imagenet",
    ),
    (
        "run",
        "\
Examples:
  camflow run --print-default > nightly.toml
  camflow run nightly.toml --only street --set limit=100",
    ),
];

/// The whole command line, arranged.
pub(super) fn arranged(command: Command) -> Command {
    let command = with_examples(command, "");
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.iter().fold(command, |command, name| command.mut_subcommand(name, |sub| with_examples(grouped(told(sub)), name)))
}

/// A negative number is a value of the flag before it, which can say what it takes, and no flag that nobody knows. A variable that is
/// set to nothing, as crontabs do, is not set.
fn told(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = names.iter().fold(command, |command, name| command.mut_subcommand(name, told));
    command.mut_args(|arg| {
        let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let arg = if arg.get_env().is_some_and(is_empty) { arg.env(None::<&str>) } else { arg };
        let takes_values = arg.get_long().is_some() && arg.get_action().takes_values();
        if takes_values { arg.allow_negative_numbers(true) } else { arg }
    })
}

fn with_examples(command: Command, name: &str) -> Command {
    match EXAMPLES.iter().find(|(of, _)| *of == name) {
        Some((_, text)) => command.after_help(*text),
        None => command,
    }
}

/// A command of many flags in groups.
fn grouped(command: Command) -> Command {
    const MANY: usize = 15;
    if command.get_arguments().count() < MANY {
        return command;
    }
    command.mut_args(|arg| {
        let Some(flag) = arg.get_long().map(str::to_owned) else { return arg };
        let has = |flags: &[&str]| flags.contains(&flag.as_str());
        let arg = match GROUPS.iter().find(|(_, flags)| has(flags)) {
            Some((heading, _)) => arg.help_heading(*heading),
            None => arg,
        };
        arg.hide_short_help(!has(&USUAL))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_flag_that_is_arranged_exists_and_every_example_is_a_command_line() {
        let command = arranged(Cli::command());
        command.clone().debug_assert();
        let flags: BTreeSet<&str> =
            command.get_subcommands().flat_map(Command::get_arguments).filter_map(clap::Arg::get_long).collect();
        for flag in GROUPS.iter().flat_map(|(_, flags)| *flags).chain(&USUAL) {
            assert!(flags.contains(flag), "--{flag}");
        }
        for line in EXAMPLES.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| line.strip_prefix("  camflow ")) {
            let line = line.split(" > ").next().unwrap_or_default();
            if !line.contains("COMMAND") {
                let parsed = command.clone().try_get_matches_from(["camflow"].into_iter().chain(line.split(' ')));
                assert!(parsed.is_ok(), "{line}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
            }
        }
    }

    #[test]
    fn no_flag_of_annotate_is_left_without_a_place() {
        let command = arranged(Cli::command());
        let annotate = command.find_subcommand("annotate").expect("the command");
        let first: Vec<&str> =
            annotate.get_arguments().filter(|arg| arg.get_help_heading().is_none()).filter_map(clap::Arg::get_long).collect();
        assert_eq!(
            first,
            ["dataset", "class", "text", "layers", "model", "target", "dry-run", "explain-plan", "format", "quiet"],
            "the rest belongs to a group"
        );
    }
}
