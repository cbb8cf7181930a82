//! A job file as written: TOML to jobs with keys and values, each with the line it stands in, and environment variables put in.
//! What the keys mean is not known here: they are the flags of `camflow annotate`.

use std::{collections::BTreeSet, fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use camflow_names::{backticked, similar};

/// The version of job files that this camflow reads.
const VERSION: &str = "1";

/// The keys outside of jobs.
const TOP: [&str; 3] = ["version", "defaults", "job"];

/// A job file.
#[derive(Debug, Default)]
pub struct JobFile {
    /// Settings of all jobs that do not have them themselves.
    pub defaults: Vec<Setting>,
    /// The jobs in their order.
    pub jobs: Vec<JobTable>,
}

/// One `[[job]]`.
#[derive(Debug)]
pub struct JobTable {
    /// Its name, which no other job of the file has.
    pub name: String,
    /// Where it begins.
    pub line: usize,
    /// What it says, in the order of the file, without the name.
    pub settings: Vec<Setting>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The line of the file, counted from 1.
    Line(usize),
    /// `--set` and what followed it.
    Set(String),
}

/// What a key is set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Switch(bool),
    /// A string or a number.
    Text(Text),
    /// An array of strings and numbers.
    List(Vec<Text>),
    /// A table: names with strings and numbers.
    Table(Vec<(String, Text)>),
    /// Something else; the mistake is reported.
    Wrong,
}

/// A string or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// As it stands in the file: this may be shown.
    pub written: String,
    /// With environment variables put in.
    pub filled: String,
    /// Whether there were any. Then `filled` may be a secret, and is never shown.
    pub is_secret: bool,
}

impl Text {
    /// Something without variables.
    pub fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Text { written: text.clone(), filled: text, is_secret: false }
    }
}

impl JobFile {
    /// Reads a job file; `variable` gives environment variables. What is right is returned beside all mistakes.
    pub fn parse(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<Mistake>) {
        Self::read(text, variable, |reader, root| reader.file(root))
    }

    /// Reads a file that has only settings, at its top.
    pub fn parse_settings(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> (Vec<Setting>, Vec<Mistake>) {
        Self::read(text, variable, |reader, root| reader.settings(root, None))
    }

    fn read<T: Default>(
        text: &str,
        variable: &dyn Fn(&str) -> Option<String>,
        understand: impl FnOnce(&mut Reader<'_>, &DeTable<'_>) -> T,
    ) -> (T, Vec<Mistake>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader { text, variable, mistakes: Vec::new() };
        for error in &errors {
            let line = reader.line(&error.span().unwrap_or_default());
            reader.mistake(line, None, format!("this is not valid TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            // What could be made of the rest would be mistaken for more mistakes.
            return (T::default(), reader.mistakes);
        }
        let understood = understand(&mut reader, root.get_ref());
        (understood, reader.mistakes)
    }
}

/// Something in a job file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub origin: Origin,
    /// In which job; `None` outside of jobs.
    pub job: Option<String>,
    /// What, and what to write instead.
    pub text: String,
}

impl Mistake {
    /// With the file's name before it, as compilers write it.
    pub fn located(&self, file: &str) -> String {
        let job = self.job.iter().map(|job| format!("job `{job}`: ")).collect::<String>();
        match &self.origin {
            Origin::Line(line) => format!("{file}:{line}: {job}{}", self.text),
            Origin::Set(typed) => format!("--set {typed}: {job}{}", self.text),
        }
    }
}

/// `name` is unknown; with the known names that are like it.
pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match similar(name, known.iter().copied()) {
        near if near.is_empty() => format!("there is no {what} `{name}`"),
        near => format!("there is no {what} `{name}`; the nearest: {}", backticked(near)),
    }
}

/// A name that jobs may have: letters, digits, `-` and `_`, so that it can stand in file names and before the dot of `--set`.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_".contains(c));
    if fits { Ok(()) } else { Err(format!("`{name}` is not a name for a job: use letters, digits, `-` and `_`")) }
}

struct Reader<'a> {
    text: &'a str,
    variable: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
    }

    fn mistake(&mut self, line: usize, job: Option<&str>, text: impl Into<String>) {
        self.mistakes.push(Mistake { origin: Origin::Line(line), job: job.map(Into::into), text: text.into() });
    }

    fn file(&mut self, root: &DeTable<'_>) -> JobFile {
        let mut file = JobFile::default();
        match root.get("version") {
            None => self.mistake(1, None, format!("a job file begins with `version = {VERSION}`")),
            Some(version) if version.get_ref().as_integer().is_some_and(|number| number.as_str() == VERSION) => {}
            Some(version) => {
                let line = self.line(&version.span());
                self.mistake(line, None, format!("this camflow reads job files of version {VERSION} only"));
            }
        }
        for key in root.keys().filter(|key| !TOP.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let text = match name.as_ref() {
                "name" | "dataset" => format!("`{name}` belongs to a job: write it below a line `[[job]]`"),
                _ => format!("{}; settings belong below `[[job]]` or `[defaults]`", unknown("key", name, TOP)),
            };
            let line = self.line(&key.span());
            self.mistake(line, None, text);
        }
        match root.get("defaults").map(|value| (value.span(), value.get_ref())) {
            Some((_, DeValue::Table(table))) => file.defaults = self.settings(table, None),
            Some((span, _)) => {
                let line = self.line(&span);
                self.mistake(line, None, "`defaults` is a table: write `[defaults]`");
            }
            None => {}
        }
        match root.get("job").map(|value| (value.span(), value.get_ref())) {
            Some((_, DeValue::Array(jobs))) => self.jobs(jobs, &mut file),
            Some((span, _)) => {
                let line = self.line(&span);
                self.mistake(line, None, "there may be several jobs: write `[[job]]`, in double brackets");
            }
            None => self.mistake(1, None, "there is no job: begin one with a line `[[job]]`"),
        }
        file
    }

    fn jobs(&mut self, jobs: &DeArray<'_>, file: &mut JobFile) {
        let mut names = BTreeSet::new();
        for job in jobs.iter() {
            let line = self.line(&job.span());
            let DeValue::Table(table) = job.get_ref() else {
                self.mistake(line, None, "a job is a table: write `[[job]]`");
                continue;
            };
            let name = match table.get("name").map(|name| (name.span(), name.get_ref())) {
                Some((_, DeValue::String(name))) if check_name(name).is_ok() => name.to_string(),
                Some((span, value)) => {
                    let text = match value {
                        DeValue::String(name) => check_name(name).err().unwrap_or_default(),
                        _ => "`name` is text: write it in quotes".to_owned(),
                    };
                    let line = self.line(&span);
                    self.mistake(line, None, text);
                    String::new()
                }
                None => {
                    self.mistake(line, None, "this job has no `name`");
                    String::new()
                }
            };
            if !name.is_empty() && !names.insert(name.clone()) {
                self.mistake(line, None, format!("there is another job `{name}`"));
            }
            let settings = self.settings(table, Some(&name).filter(|name| !name.is_empty()).map(String::as_str));
            file.jobs.push(JobTable { name, line, settings });
        }
    }

    fn settings(&mut self, table: &DeTable<'_>, job: Option<&str>) -> Vec<Setting> {
        let mut entries: Vec<_> = table.iter().filter(|(key, _)| job.is_none() || key.get_ref() != "name").collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut settings = Vec::new();
        for (key, value) in entries {
            let line = self.line(&key.span());
            let value = self.value(value.get_ref()).unwrap_or_else(|text| {
                self.mistake(line, job, format!("`{}` {text}", key.get_ref()));
                Value::Wrong
            });
            settings.push(Setting { key: key.get_ref().to_string(), value, origin: Origin::Line(line) });
        }
        settings
    }

    fn value(&self, value: &DeValue<'_>) -> Result<Value, String> {
        match value {
            DeValue::Boolean(switch) => Ok(Value::Switch(*switch)),
            DeValue::Array(items) => {
                let texts = items.iter().map(|item: &Spanned<DeValue<'_>>| match self.value(item.get_ref())? {
                    Value::Text(text) => Ok(text),
                    _ => Err("takes strings and numbers in its array".to_owned()),
                });
                texts.collect::<Result<_, _>>().map(Value::List)
            }
            DeValue::String(text) => {
                let filled = fill(text, self.variable)?;
                let is_secret = filled.1;
                Ok(Value::Text(Text { written: text.to_string(), filled: filled.0, is_secret }))
            }
            // `0x10` would reach the flag as `10`.
            DeValue::Integer(number) if number.radix() != 10 => Err("takes decimal numbers".to_owned()),
            DeValue::Integer(number) => Ok(Value::Text(Text::plain(number.as_str()))),
            DeValue::Float(number) => Ok(Value::Text(Text::plain(number.as_str()))),
            DeValue::Datetime(_) => Err("is a date: write it in quotes".to_owned()),
            DeValue::Table(table) => {
                let mut entries: Vec<_> = table.iter().collect();
                entries.sort_by_key(|(key, _)| key.span().start);
                let entries = entries.into_iter().map(|(key, value)| match self.value(value.get_ref())? {
                    Value::Text(text) => Ok((key.get_ref().to_string(), text)),
                    _ => Err("takes strings and numbers in its table".to_owned()),
                });
                entries.collect::<Result<_, _>>().map(Value::Table)
            }
        }
    }
}

/// The text with `${NAME}` replaced by environment variables and `$$` by `$`, and whether there was a variable. Any other `$`
/// stays, as in `{"$gt": 3}`.
fn fill(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<(String, bool), String> {
    let (mut filled, mut rest, mut is_secret) = (String::new(), text, false);
    while let Some(dollar) = rest.find('$') {
        filled.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(behind) = rest.strip_prefix('$') {
            filled.push('$');
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix('{') {
            let name = behind.split('}').next().unwrap_or_default();
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name || behind.len() == name.len() {
                return Err(
                    "has a `${` that names no environment variable: write `${NAME}`, or `$${` for the two characters".into()
                );
            }
            filled.push_str(&variable(name).ok_or_else(|| format!("needs the environment variable `{name}`, which is not set"))?);
            is_secret = true;
            rest = &behind[name.len() + 1..];
        } else {
            filled.push('$');
        }
    }
    filled.push_str(rest);
    Ok((filled, is_secret))
}

impl Value {
    /// The texts that it is made of.
    pub fn texts(&self) -> impl Iterator<Item = &Text> {
        let (texts, entries) = match self {
            Value::Text(text) => (std::slice::from_ref(text), &[][..]),
            Value::List(texts) => (&texts[..], &[][..]),
            Value::Table(entries) => (&[][..], &entries[..]),
            Value::Switch(_) | Value::Wrong => (&[][..], &[][..]),
        };
        texts.iter().chain(entries.iter().map(|(_, text)| text))
    }
}

impl fmt::Display for Value {
    /// As it is written, without what environment variables hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Switch(switch) => write!(f, "{switch}"),
            Value::Text(text) => f.write_str(&text.written),
            Value::Wrong => Ok(()),
            Value::Table(entries) => {
                let entries: Vec<String> = entries.iter().map(|(name, text)| format!("{name}={}", text.written)).collect();
                f.write_str(&entries.join(","))
            }
            Value::List(texts) => f.write_str(&texts.iter().map(|text| text.written.as_str()).collect::<Vec<_>>().join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "SECRET").then(|| "hunter2".to_owned())
    }

    fn mistakes(text: &str) -> Vec<String> {
        JobFile::parse(text, &env).1.iter().map(|mistake| mistake.located("f.toml")).collect()
    }

    #[test]
    fn keys_keep_their_order_and_their_lines() {
        let text = "version = 1\n[defaults]\nmodel = 'm.pt2'\n\n[[job]]\nname = 'a'\nlayers = 4\ndataset = 'd'\nclass = ['x', 15]\nexact = true\n";
        let (file, mistakes) = JobFile::parse(text, &env);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!((file.jobs[0].name.as_str(), file.jobs[0].line), ("a", 5));
        let setting = |key: &str, value, line| Setting { key: key.into(), value, origin: Origin::Line(line) };
        assert_eq!(file.defaults, [setting("model", Value::Text(Text::plain("m.pt2")), 3)]);
        assert_eq!(
            file.jobs[0].settings,
            [
                setting("layers", Value::Text(Text::plain("4")), 7),
                setting("dataset", Value::Text(Text::plain("d")), 8),
                setting("class", Value::List(vec![Text::plain("x"), Text::plain("15")]), 9),
                setting("exact", Value::Switch(true), 10),
            ]
        );
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let text = "version = 2\njobs = 1\n[[job]]\ndataset = 'd'\nlimit = 2020-01-01\n[[job]]\nname = 'b c'\n[[job]]\nname = 'x'\ntags = [[1]]\n[[job]]\nname = 'x'\nlimit = 0x10\nsub.key = [1]\n";
        assert_eq!(
            mistakes(text),
            [
                "f.toml:1: this camflow reads job files of version 1 only",
                "f.toml:2: there is no key `jobs`; the nearest: `job`; settings belong below `[[job]]` or `[defaults]`",
                "f.toml:3: this job has no `name`",
                "f.toml:5: `limit` is a date: write it in quotes",
                "f.toml:7: `b c` is not a name for a job: use letters, digits, `-` and `_`",
                "f.toml:10: job `x`: `tags` takes strings and numbers in its array",
                "f.toml:11: there is another job `x`",
                "f.toml:13: job `x`: `limit` takes decimal numbers",
                "f.toml:14: job `x`: `sub` takes strings and numbers in its table",
            ]
        );
        assert_eq!(
            mistakes("version = 1\n[job]\nname = 'a'"),
            ["f.toml:2: there may be several jobs: write `[[job]]`, in double brackets"]
        );
        assert_eq!(mistakes("version = 1"), ["f.toml:1: there is no job: begin one with a line `[[job]]`"]);
        let broken = mistakes("version = 1\n[[job]]\nname = a\nout = 'x\n");
        assert!(broken.len() == 2 && broken[0].starts_with("f.toml:3: this is not valid TOML: "), "{broken:?}");
    }

    #[test]
    fn variables_are_put_in_and_dollars_stay() {
        let filled = |text| fill(text, &env);
        assert_eq!(filled("mongodb://me:${SECRET}@host"), Ok(("mongodb://me:hunter2@host".into(), true)));
        assert_eq!(filled(r#"{"x": {"$gt": 3}}"#), Ok((r#"{"x": {"$gt": 3}}"#.into(), false)));
        assert_eq!(filled("$$ROOT $${SECRET} $"), Ok(("$ROOT ${SECRET} $".into(), false)));
        for wrong in ["${", "${}", "${SECRET", "${1A}", "${A B}"] {
            assert!(filled(wrong).is_err_and(|text| text.contains("names no environment variable")), "{wrong}");
        }
        let text = "version = 1\n[[job]]\nname = 'a'\ndatabase-uri = 'mongodb://${SECRET}/${UNSET}'\n";
        let found = mistakes(text);
        assert_eq!(found, ["f.toml:4: job `a`: `database-uri` needs the environment variable `UNSET`, which is not set"]);
        let (file, _) = JobFile::parse(&text.replace("/${UNSET}", ""), &env);
        assert_eq!(file.jobs[0].settings[0].value.to_string(), "mongodb://${SECRET}", "only this is ever shown");
    }
}
