//! Names that users type: one word per choice, and "did you mean" for those that do not exist.

mod list;
mod spelling;

use std::{
    ffi::OsStr,
    fmt::{self, Display, Write},
};

pub use list::{list_of_one, split_list};
pub use spelling::{ClassNames, Meaning};

/// A setting with a few values, each with the one name that flags, job files and fingerprints use.
pub trait Choice: Copy + 'static {
    /// Every value, in the order of the help text.
    const ALL: &'static [Self];

    /// The value's name.
    fn name(self) -> &'static str;
}

/// Names at least this near (Jaro-Winkler, 1 is equal) are worth a "did you mean"; below it, suggestions look random.
const SIMILAR: f64 = 0.75;

/// At most `count` of `known`, nearest first, by Jaro-Winkler similarity whatever the case; equally near ones in alphabetical
/// order.
pub fn nearest<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
    count: usize,
) -> Vec<&'a str> {
    ranked(name, known).take(count).map(|(_, other)| other).collect()
}

/// At most three of `known` that `name` may have been meant for, nearest first; none where none is like it.
pub fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>) -> Vec<&'a str> {
    ranked(name, known).take_while(|(score, _)| *score >= SIMILAR).take(3).map(|(_, other)| other).collect()
}

fn ranked<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>,
) -> impl Iterator<Item = (f64, &'a str)> {
    let name = name.to_lowercase();
    let score = |other: &str| strsim::jaro_winkler(&name, &other.to_lowercase());
    let mut scored: Vec<(f64, &str)> = known.into_iter().map(|other| (score(other.as_ref()), other.as_ref())).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter()
}

/// More names than this are a page of output, not a hint.
const FEW: usize = 30;

/// What there is, for the hint of an error about `name`: all of `known` where they are few, else those most like it; those that are
/// like it come first. `things` is what they are, in the plural.
pub fn existing(things: &str, name: &str, known: &[impl AsRef<str>]) -> String {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let count = known.len();
    let near = similar(name, known.iter().copied());
    if count <= FEW {
        let others = known.iter().copied().filter(|other| !near.contains(other));
        return format!("the {things} are {}", backticked(near.iter().copied().chain(others)));
    }
    match near.is_empty() {
        false => format!("the nearest of its {count} {things} are {}", backticked(near)),
        true => format!("the first of its {count} {things} are {}", backticked(&known[..3])),
    }
}

/// A name as messages show it, on one line: it may hold line breaks, which would forge lines of a log, escape sequences, which a
/// terminal would obey, and characters that turn text around.
pub fn shown<T: AsRef<str>>(name: T) -> impl Display {
    struct Shown<T>(T);

    impl<T: AsRef<str>> Display for Shown<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for c in self.0.as_ref().chars() {
                if is_unseen(c) { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
            }
            Ok(())
        }
    }

    Shown(name)
}

/// A name as a word of a command that a message shows: it can be copied to a shell as it is, and stays on one line.
pub fn word(name: &(impl AsRef<OsStr> + ?Sized)) -> String {
    let name = &*name.as_ref().to_string_lossy();
    if name.chars().any(is_unseen) {
        let escaped = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if is_unseen(c) => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        // As bash and zsh read it.
        return format!("$'{}'", name.chars().map(escaped).collect::<String>());
    }
    shell_words::quote(name).into_owned()
}

/// A flag with such a word, also where that begins like a flag.
pub fn flag(flag: &str, value: &str) -> String {
    let between = if value.starts_with('-') { "=" } else { " " };
    format!("{flag}{between}{}", word(value))
}

/// A control character, or one that changes the direction or the lines of the text after it.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A number of things, in the singular where it is one: `1 file`, `2 files`.
pub fn counted(count: impl TryInto<u64> + Display + Copy, one: &str, several: &str) -> String {
    let things = if matches!(count.try_into(), Ok(1)) { one } else { several };
    format!("{count} {things}")
}

/// Names in backticks with commas between, for messages: `` `a`, `b` ``.
pub fn backticked(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    names.into_iter().map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_forge_no_lines() {
        assert_eq!(
            backticked(["a\nerror: done", "\u{1b}[31m", "\u{202e}b", "é"]),
            r"`a\nerror: done`, `\u{1b}[31m`, `\u{202e}b`, `é`"
        );
    }

    #[test]
    fn commands_can_be_copied() {
        for name in [
            "plain",
            "two words",
            "ünï 犬",
            "it's `$HOME` \"!\"",
            "*?[a]",
            "-rf",
            "#",
            "~",
            "",
            "a\\b;c&d|e>f",
            "a\nb\t'\u{1b}\u{202e}",
        ] {
            let printed = word(name);
            assert!(!printed.chars().any(is_unseen), "{printed}");
            let read = format!("set -- {printed}; printf %s \"$1\"");
            let read = std::process::Command::new("bash").args(["-c", &read]).env("LC_ALL", "C.UTF-8").output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&read.stdout), name, "{printed}");
        }
        assert_eq!(
            (word("plain"), flag("--dataset", "a b"), flag("--dataset", "-a")),
            ("plain".into(), "--dataset 'a b'".into(), "--dataset=-a".into())
        );
    }

    #[test]
    fn the_nearest_come_first() {
        assert_eq!(nearest("persn", ["car", "person", "parson"], 1), ["person"]);
        assert!(nearest("x", [] as [&str; 0], 3).is_empty());
    }

    #[test]
    fn only_similar_names_are_suggested() {
        let known: Vec<String> = ["ground_truth", "predictions", "Ground_Truth2", "x"].map(String::from).into();
        assert_eq!(similar("ground_truht", &known), ["ground_truth", "Ground_Truth2"]);
        assert!(similar("zebra", &known).is_empty());
    }

    #[test]
    fn a_hint_lists_few_names_and_picks_from_many() {
        assert_eq!(existing("classes", "x", &["cat", "dog"]), "the classes are `cat`, `dog`");
        assert_eq!(existing("classes", "dogg", &["cat", "dog"]), "the classes are `dog`, `cat`");
        let many: Vec<String> = (0..40).map(|number| format!("class_{number:02}")).collect();
        assert!(existing("classes", "clas_07", &many).starts_with("the nearest of its 40 classes are `class_07`"));
        assert_eq!(existing("classes", "zzz", &many), "the first of its 40 classes are `class_00`, `class_01`, `class_02`");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0_i64, 1, 2].map(|count| counted(count, "file", "files")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn lists_are_in_backticks() {
        assert_eq!(backticked(["a", "b"]), "`a`, `b`");
    }
}
