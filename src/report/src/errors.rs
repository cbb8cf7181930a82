//! Errors as users see them: `error:`, `caused by:` and `hint:` lines, and the same as fields for machines.

use anstyle::AnsiColor;
use serde_json::{Map, Value, json};

use super::secrets::redact;
use camflow_diagnostic::{Class, Diagnostic};

/// Letters of a cause that are shown.
const MAX_CAUSE: usize = 300;

/// What is wrong, with causes and hints on lines of their own; several errors one after the other. The first `error: ` is left
/// out: it is for those who print it.
pub fn error_text(error: &Diagnostic) -> String {
    let texts: Vec<String> = error.each().into_iter().map(one).collect();
    texts.join("\nerror: ")
}

fn one(error: &Diagnostic) -> String {
    // Before anything is cut: a part of a secret is one.
    let mut text = redact(&error.message);
    for cause in causes(error) {
        text.push_str("\ncaused by: ");
        text.push_str(&cause);
    }
    for hint in &error.hints {
        text.push_str("\nhint: ");
        text.push_str(&redact(hint));
    }
    text
}

/// The causes that say something new: neither what the message quotes, nor what one before it says.
fn causes(error: &Diagnostic) -> Vec<String> {
    let mut said = redact(&error.message);
    let mut causes = Vec::new();
    for cause in &error.causes {
        let cause = redact(cause);
        if said.contains(&cause) {
            continue;
        }
        // Drivers append all they know; the beginning says what is wrong.
        let line = cause.lines().next().unwrap_or_default();
        let mut short: String = line.chars().take(MAX_CAUSE).collect();
        if short.len() < line.len() {
            short.push_str("...");
        }
        said.push('\n');
        said.push_str(&short);
        causes.push(short);
    }
    causes
}

/// The text with its labels in colour, as clap has them.
pub(crate) fn painted(text: &str) -> String {
    let labels = [("error:", AnsiColor::Red), ("warning:", AnsiColor::Yellow), ("hint:", AnsiColor::Green)];
    let lines = text.split('\n').map(|line| {
        let label = labels.iter().find_map(|(label, colour)| Some((label, colour, line.strip_prefix(label)?)));
        label.map_or_else(
            || line.to_owned(),
            |(label, colour, rest)| {
                let style = colour.on_default().bold();
                format!("{style}{label}{style:#}{rest}")
            },
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The same as fields of an `error` event. `message` is the text that people see.
pub(crate) fn error_fields(error: &Diagnostic, exit_code: u8) -> Value {
    let mut fields = parts(error);
    fields.insert("message".to_owned(), json!(error_text(error)));
    fields.insert("exit_code".to_owned(), json!(exit_code));
    if !error.others.is_empty() {
        let others = error.each().into_iter().skip(1).map(|other| {
            let mut fields = parts(other);
            fields.insert("message".to_owned(), json!(other.message));
            Value::Object(fields)
        });
        fields.insert("others".to_owned(), others.collect());
    }
    Value::Object(fields)
}

fn parts(error: &Diagnostic) -> Map<String, Value> {
    let fields = [("class", json!(class_name(error.class))), ("hints", json!(error.hints)), ("causes", json!(causes(error)))];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Invalid => "invalid",
        Class::Locked => "locked",
        Class::Unavailable => "unavailable",
        Class::Aborted => "aborted",
        Class::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caused(message: &str, causes: &[&str]) -> Diagnostic {
        let causes = causes.iter().map(|cause| (*cause).to_owned()).collect();
        Diagnostic { causes, ..Diagnostic::invalid(message) }
    }

    #[test]
    fn hints_come_last_and_nothing_is_said_twice() {
        let error = caused("cannot read `a`", &["permission denied", "permission denied"]).hint("see to `a`").hint("ask");
        assert_eq!(error_text(&error), "cannot read `a`\ncaused by: permission denied\nhint: see to `a`\nhint: ask");
        assert_eq!(error_text(&caused("cannot read `a`: no such file", &["no such file"])), "cannot read `a`: no such file");
        let two = Diagnostic::invalid("a").hint("b").and(Diagnostic::invalid("c").hint("d"));
        assert_eq!(error_text(&two), "a\nhint: b\nerror: c\nhint: d");
    }

    #[test]
    fn of_a_long_cause_the_beginning_is_shown() {
        let text = error_text(&caused("the database failed", &[&format!("{}\nTopology: ...", "x".repeat(400))]));
        assert_eq!(text, format!("the database failed\ncaused by: {}...", "x".repeat(MAX_CAUSE)));
    }

    #[test]
    fn labels_have_colours() {
        let painted = painted("error: a\nhint: b\nc: hint: d");
        assert_eq!(painted, "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m a\n\u{1b}[1m\u{1b}[32mhint:\u{1b}[0m b\nc: hint: d");
    }

    #[test]
    fn machines_get_the_parts_too() {
        let error = caused("a", &["b"]).hint("c").of_class(Class::Unavailable).and(Diagnostic::invalid("d"));
        let fields = error_fields(&error, 3);
        assert_eq!(
            fields,
            json!({
                "message": "a\ncaused by: b\nhint: c\nerror: d", "exit_code": 3, "class": "unavailable", "hints": ["c"],
                "causes": ["b"], "others": [{"message": "d", "class": "invalid", "hints": [], "causes": []}],
            })
        );
    }
}
