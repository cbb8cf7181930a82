//! What is never shown: passwords that were typed, and what a job file took from environment variables, whatever key it stands at.
//! Whatever camflow says or writes about itself goes through [`redact`] or [`redact_json`].

use std::sync::{PoisonError, RwLock};

use serde_json::Value;

/// A text that is not to be seen, in one of the forms in which it may turn up, and what to show in its place.
struct Secret {
    form: String,
    shown: String,
}

static SECRETS: RwLock<Vec<Secret>> = RwLock::new(Vec::new());

/// From here on, `shown` stands wherever `secret` would.
pub fn keep_secret(secret: &str, shown: &str) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    for form in forms(secret) {
        if !secrets.iter().any(|known| known.form == form) {
            secrets.push(Secret { form, shown: shown.to_owned() });
        }
    }
    // A secret may be part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.form.len()));
}

/// Whether there is anything to hide.
pub fn has_secrets() -> bool {
    !SECRETS.read().unwrap_or_else(PoisonError::into_inner).is_empty()
}

/// The text without secrets.
pub fn redact(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    secrets.iter().fold(text.to_owned(), |text, secret| without(&text, secret))
}

/// The same for all texts and names within a value.
pub fn redact_json(value: Value) -> Value {
    if !has_secrets() {
        return value;
    }
    match value {
        Value::String(text) => Value::String(redact_whole(&text)),
        Value::Array(items) => items.into_iter().map(redact_json).collect(),
        Value::Object(entries) => {
            Value::Object(entries.into_iter().map(|(name, value)| (redact(&name), redact_json(value))).collect())
        }
        other => other,
    }
}

/// A text that is a value by itself: here a short secret is known, too.
pub(crate) fn redact_whole(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    match secrets.iter().find(|secret| secret.form == text) {
        Some(secret) => secret.shown.clone(),
        None => {
            drop(secrets);
            redact(text)
        }
    }
}

/// Whether it is a secret wherever it occurs. `1`, `cat` or `2026` occur where nobody meant the secret; they are one only as the
/// whole of something that is quoted.
fn is_telling(form: &str) -> bool {
    form.chars().count() >= 4 && !(form.len() < 9 && form.chars().all(|c| c.is_ascii_digit()))
}

fn without(text: &str, secret: &Secret) -> String {
    let Secret { form, shown } = secret;
    if is_telling(form) {
        return replace(text, form, shown);
    }
    let quotes = [('`', '`'), ('\'', '\''), ('"', '"')];
    let quoted = |(open, close): (char, char), inner: &str| format!("{open}{inner}{close}");
    quotes.into_iter().fold(text.to_owned(), |text, pair| text.replace(&quoted(pair, form), &quoted(pair, shown)))
}

/// Letters count as the same in either case: names are lowered here and there.
fn replace(text: &str, form: &str, shown: &str) -> String {
    let (lower, form) = (text.to_ascii_lowercase(), form.to_ascii_lowercase());
    let (mut replaced, mut from) = (String::with_capacity(text.len()), 0);
    while let Some(found) = lower[from..].find(&form) {
        replaced.push_str(&text[from..from + found]);
        replaced.push_str(shown);
        from += found + form.len();
    }
    replaced.push_str(&text[from..]);
    replaced
}

/// A text as it is, line by line, as part of a name, escaped, and with its percent signs resolved.
fn forms(secret: &str) -> Vec<String> {
    let identifier = secret.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let unseen = secret.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let quoted = Value::from(secret).to_string();
    let escaped = quoted[1..quoted.len() - 1].to_owned();
    let mut forms = vec![secret.to_owned(), identifier, unseen, escaped, format!("{}", secret.escape_default()), decoded(secret)];
    forms.extend(secret.lines().map(str::trim).filter(|line| is_telling(line)).map(ToOwned::to_owned));
    forms.retain(|form| !form.trim().is_empty() && !form.chars().all(|c| c == '_'));
    forms.sort_unstable();
    forms.dedup();
    forms
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match code.filter(|_| *first == b'%') {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Secrets are the process's, and other tests' texts go through them: those here occur nowhere else.

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        keep_secret("Zq7%40 rosebud-KEY", "${PW}");
        for text in [
            "dataset `Zq7%40 rosebud-KEY` is gone",
            "dataset `Zq7@ rosebud-KEY` is gone",
            "field `zq7_40_rosebud_key_grad`",
            "FIELD `ZQ7_40_ROSEBUD_KEY_grad`",
        ] {
            let shown = redact(text);
            assert!(shown.contains("${PW}") && !shown.to_lowercase().contains("rosebud"), "{shown}");
        }
        keep_secret("first rosetta\n2nd \"rosetta\"", "${TWO}");
        for text in ["x first rosetta", "first rosetta\\n2nd \\\"rosetta\\\"", "2nd \"rosetta\" y", "first rosetta\u{fffd}2nd"] {
            assert!(redact(text).contains("${TWO}"), "{text}: {}", redact(text));
        }
        let value = redact_json(json!({"a": ["Zq7%40 rosebud-KEY", 3], "Zq7%40 rosebud-KEY": null, "b": "x"}));
        assert_eq!(value, json!({"a": ["${PW}", 3], "${PW}": null, "b": "x"}));
    }

    #[test]
    fn a_short_secret_spoils_no_other_text() {
        keep_secret("q§", "${N}");
        keep_secret("4711", "${PORT}");
        assert_eq!(
            redact("q§x of 47113 samples, 4711 done, layer `q§`, '4711'"),
            "q§x of 47113 samples, 4711 done, layer `${N}`, '${PORT}'"
        );
        assert_eq!(redact_json(json!(["q§", "4711", 4711, "q§ q§"])), json!(["${N}", "${PORT}", 4711, "q§ q§"]));
        keep_secret("", "${EMPTY}");
        keep_secret("___", "${LINE}");
        assert_eq!(redact("`` ____"), "`` ____");
    }

    #[test]
    fn the_longer_secret_comes_first() {
        keep_secret("wumpus-base", "${A}");
        keep_secret("mongodb://wumpus-base:wumpus-more", "mongodb://${A}:${B}");
        assert_eq!(redact("at mongodb://wumpus-base:wumpus-more"), "at mongodb://${A}:${B}");
    }
}
