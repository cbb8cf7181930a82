//! Keeps passwords that were typed as arguments to ourselves: other users of the machine see a process's arguments, and messages
//! about wrong arguments quote them.

use crate::{
    fiftyone::{forbid_core_dumps, redacted},
    job::Setting,
    report::keep_secret,
};

/// Looks through the arguments for passwords: no message shows them from here on, and they go out of the process's title where the
/// system allows that (Linux).
pub(super) fn hide() {
    let arguments = std::env::args_os().filter_map(|argument| argument.into_string().ok());
    for (uri, shown) in arguments.filter_map(|argument| secret(&argument)) {
        forbid_core_dumps();
        keep_secret(&uri, &shown);
        #[cfg(target_os = "linux")]
        title::overwrite(&uri);
    }
}

/// What a file of settings takes from the environment variable `name`; no message shows it from here on.
pub(super) fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    forbid_core_dumps();
    keep_secret(&value, &format!("${{{name}}}"));
    Some(value)
}

/// Keeps the texts that hold variables, too: a short secret is hard to find again in a longer text.
pub(super) fn keep_filled<'a>(settings: impl IntoIterator<Item = &'a Setting>) {
    let texts = settings.into_iter().flat_map(|setting| setting.value.texts());
    texts.filter(|text| text.is_secret).for_each(|text| keep_secret(&text.filled, &text.written));
}

/// A connection string with credentials, alone or behind `--database-uri=`, and what of it may be shown.
fn secret(argument: &str) -> Option<(String, String)> {
    let start = argument.find("mongodb://").or_else(|| argument.find("mongodb+srv://"))?;
    let uri = &argument[start..];
    let shown = redacted(uri);
    (shown != uri).then(|| (uri.to_owned(), shown))
}

#[cfg(target_os = "linux")]
mod title {
    use procfs::process::{MMPermissions, MMapPath, Process};

    /// Writes `x` over every copy of `secret` in the memory that the system shows as the process's arguments.
    pub(super) fn overwrite(secret: &str) {
        let Some((start, end)) = arguments() else { return };
        // SAFETY: the system put the arguments there when the process started, in its stack, which is readable and writable and
        // stays until its end (checked in `arguments`). Rust copies arguments when asked for them and keeps no reference, and
        // this runs before any other thread is started.
        let title = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
        let mut at = 0;
        while let Some(found) = title[at..].windows(secret.len()).position(|window| window == secret.as_bytes()) {
            title[at + found..][..secret.len()].fill(b'x');
            at += found + secret.len();
        }
    }

    /// Where the arguments are, if that is within the stack.
    fn arguments() -> Option<(usize, usize)> {
        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let (start, end) = (stat.arg_start?, stat.arg_end?);
        let writable = MMPermissions::READ | MMPermissions::WRITE;
        let in_stack = process.maps().ok()?.into_iter().any(|map| {
            map.pathname == MMapPath::Stack && map.perms.contains(writable) && map.address.0 <= start && end <= map.address.1
        });
        (in_stack && start < end).then_some((start as usize, end as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_in_arguments() {
        let shown = |argument: &str| secret(argument).map(|(_, shown)| shown);
        assert_eq!(shown("mongodb://ada:secret@host/db").as_deref(), Some("mongodb://***@host"));
        assert_eq!(shown("--database-uri=mongodb+srv://ada:secret@host").as_deref(), Some("mongodb+srv://***@host"));
        assert_eq!(shown("mongodb://host/?tlsCertificateKeyFilePassword=secret").as_deref(), Some("mongodb://host"));
        for harmless in ["mongodb://127.0.0.1:27017", "--database-uri", "quickstart", "user@host"] {
            assert_eq!(shown(harmless), None, "{harmless}");
        }
    }
}
