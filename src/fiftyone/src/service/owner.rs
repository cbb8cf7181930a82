//! Whose a Python is that was found rather than named. One that lies in the current folder may have been put there by anybody who
//! can write there, in `/tmp` or a shared folder, and it would be handed the database's address with its password.

use std::path::{Path, PathBuf};

/// Something on the way to a Python that belongs to neither the user nor the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// What it is.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: String,
}

/// Whether the folder, the environment in it and the interpreter belong to the user: each link, and what it leads to. The system's
/// own (root's) may be used, too.
///
/// # Errors
/// The first that does not.
pub(super) fn check(folder: &Path, interpreter: &Path, more: Option<&Path>) -> Result<(), Stranger> {
    let mut trusted = users();
    trusted.extend(more.and_then(owner_of));
    check_for(folder, interpreter, &trusted)
}

/// Whose a file is that belongs to neither the user nor the system.
pub fn stranger_of(path: &Path) -> Option<String> {
    owner_of(path).filter(|owner| !users().contains(owner)).map(name_of)
}

fn check_for(folder: &Path, interpreter: &Path, trusted: &[u32]) -> Result<(), Stranger> {
    let mut steps: Vec<PathBuf> = vec![folder.to_owned()];
    let mut below = interpreter.strip_prefix(folder).unwrap_or(interpreter).components();
    let environment = below.next().map(|first| folder.join(first));
    steps.extend(environment.iter().cloned());
    // What Python reads before anything else.
    steps.extend(environment.iter().map(|environment| environment.join("pyvenv.cfg")));
    let mut path = environment.unwrap_or_default();
    for component in below {
        path.push(component);
        steps.push(path.clone());
    }
    // A link may lead to a chain of others.
    let mut target = interpreter.to_owned();
    for _ in 0..40 {
        let Ok(next) = std::fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("/")).join(next);
        steps.push(target.clone());
    }
    for step in steps {
        for owner in [owner_of_link(&step), owner_of(&step)].into_iter().flatten() {
            if !trusted.contains(&owner) {
                return Err(Stranger { path: step, owner: name_of(owner) });
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
mod system {
    use std::{fs, os::unix::fs::MetadataExt, path::Path};

    /// The user, root, and who became root by `sudo`.
    pub(super) fn users() -> Vec<u32> {
        // SAFETY: asks for a number.
        let me = unsafe { libc::geteuid() };
        let behind_sudo = std::env::var("SUDO_UID").ok().filter(|_| me == 0).and_then(|uid| uid.parse().ok());
        [Some(me), Some(0), behind_sudo].into_iter().flatten().collect()
    }

    /// Of what the path leads to; `None` where there is nothing.
    pub(super) fn owner_of(path: &Path) -> Option<u32> {
        fs::metadata(path).ok().map(|metadata| metadata.uid())
    }

    pub(super) fn owner_of_link(path: &Path) -> Option<u32> {
        fs::symlink_metadata(path).ok().map(|metadata| metadata.uid())
    }

    pub(super) fn name_of(owner: u32) -> String {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let named = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let named = named.filter(|fields| fields.get(2).and_then(|uid| uid.parse().ok()) == Some(owner));
        named.map(|fields| format!("`{}`", fields[0])).next().unwrap_or_else(|| format!("user {owner}"))
    }
}

#[cfg(not(unix))]
mod system {
    use std::path::Path;

    pub(super) fn users() -> Vec<u32> {
        Vec::new()
    }

    pub(super) fn owner_of(_path: &Path) -> Option<u32> {
        None
    }

    pub(super) fn owner_of_link(_path: &Path) -> Option<u32> {
        None
    }

    pub(super) fn name_of(owner: u32) -> String {
        format!("user {owner}")
    }
}

use system::{name_of, owner_of, owner_of_link, users};

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn every_step_to_a_python_has_to_be_the_users() {
        let root = tempfile::tempdir().unwrap();
        let me = owner_of(root.path()).unwrap();
        fs::create_dir_all(root.path().join(".venv/bin")).unwrap();
        let python = root.path().join(".venv/bin/python");
        symlink("python3", &python).unwrap();
        symlink("/proc/self/exe", root.path().join(".venv/bin/python3")).unwrap();
        assert_eq!(check_for(root.path(), &python, &[me, 0]), Ok(()));
        let stranger = check_for(root.path(), &python, &[me + 1]).unwrap_err();
        assert_eq!(stranger.path, root.path(), "the folder comes first");
        // A program of the system's behind the user's own link.
        let python = root.path().join(".venv/bin/system");
        symlink("/bin/sh", &python).unwrap();
        let uid = owner_of(Path::new("/bin/sh")).unwrap();
        assert_eq!(check_for(root.path(), &python, &[me]).is_ok(), uid == me);
        assert_eq!(check_for(root.path(), &python, &[me, 0]), Ok(()));
        // Nothing there: nothing to trust.
        assert_eq!(check_for(Path::new("/no/where"), Path::new("/no/where/.venv/bin/python"), &[]), Ok(()));
        assert!(users().contains(&0));
    }
}
