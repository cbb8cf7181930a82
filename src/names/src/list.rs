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
    }
}
