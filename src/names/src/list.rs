//! Several names in one text: `a,b`. A comma that is part of a name is written `\,`.

/// The names in a text, without the spaces around them.
pub fn split_list(text: &str) -> Vec<String> {
    let (mut names, mut name, mut characters) = (Vec::new(), String::new(), text.chars().peekable());
    while let Some(c) = characters.next() {
        match (c, characters.peek()) {
            ('\\', Some(&next @ (',' | '\\'))) => {
                name.push(next);
                characters.next();
            }
            (',', _) => names.push(std::mem::take(&mut name)),
            _ => name.push(c),
        }
    }
    names.push(name);
    names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
}

/// A name as the only one of a list: what [`split_list`] takes apart no more.
pub fn list_of_one(name: &str) -> String {
    name.replace('\\', "\\\\").replace(',', "\\,")
}

/// The names in several texts, each once. One that is itself a name, as `is_name` says, is taken whole; the others are split. A text
/// without a name is one: nobody means by it what leaving it out means.
pub fn split_lists(texts: &[String], mut is_name: impl FnMut(&str) -> bool) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for text in texts {
        let found = if text.contains(',') && is_name(text) { vec![text.clone()] } else { split_list(text) };
        for name in if found.is_empty() { vec![String::new()] } else { found } {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_and_names_are_not() {
        assert_eq!(split_list("a, b ,,c"), ["a", "b", "c"]);
        assert_eq!(split_list(r"tabby\, tabby cat,dog"), ["tabby, tabby cat", "dog"]);
        assert_eq!(split_list(r"a\b\\,c\"), [r"a\b\", r"c\"]);
        for name in ["a", "a, b", r"a\,b", r"\", r"\\,", "собака"] {
            assert_eq!(split_list(&list_of_one(name)), [name]);
        }
        let texts = ["tabby, tabby cat", "a,b", "a"].map(String::from);
        assert_eq!(split_lists(&texts, |text| text.starts_with("tabby")), ["tabby, tabby cat", "a", "b"]);
        assert_eq!(split_lists(&[" ,".into()], |_| false), [""]);
    }
}
