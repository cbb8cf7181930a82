//! The process table, as far as finding FiftyOne's service needs it: command lines, children and listening ports of the
//! same user's processes.

use std::path::PathBuf;

use crate::error::Error;

/// A process that FiftyOne would take for its database service.
#[derive(Clone, Debug)]
pub(super) struct Wrapper {
    pub(super) pid: i32,
    pub(super) argv: Vec<String>,
}

impl Wrapper {
    /// The folder that its mongod serves.
    pub(super) fn dbpath(&self) -> Option<PathBuf> {
        let at = self.argv.iter().position(|item| item == "--dbpath")?;
        self.argv.get(at + 1).map(PathBuf::from)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{HashMap, HashSet};

    use procfs::{
        net::TcpState,
        process::{FDTarget, Process, all_processes},
    };

    use super::*;

    /// This user's processes whose command line holds `mark`, item by item.
    pub(in super::super) fn wrappers(mark: &[&str]) -> Result<Vec<Wrapper>, Error> {
        let me = Process::myself().and_then(|process| process.uid()).map_err(|_| Error::NoProcessTable)?;
        // Processes may end while we look: whatever cannot be read is not there. A zombie's command line is empty.
        let found = all_processes()
            .map_err(|_| Error::NoProcessTable)?
            .filter_map(Result::ok)
            .filter(|process| process.uid().is_ok_and(|uid| uid == me))
            .filter_map(|process| Some(Wrapper { pid: process.pid(), argv: process.cmdline().ok()? }))
            .filter(|wrapper| wrapper.argv.windows(mark.len()).any(|items| items == mark))
            .collect::<Vec<_>>();
        // A launcher (pyenv's, say) whose only child has the same arguments is not the service but its parent.
        let parents = parents();
        let is_launcher = |candidate: &Wrapper| {
            let children: Vec<i32> =
                parents.iter().filter(|(_, parent)| **parent == candidate.pid).map(|(pid, _)| *pid).collect();
            let [child] = children[..] else { return false };
            found.iter().any(|other| other.pid == child && other.argv.get(1..) == candidate.argv.get(1..))
        };
        Ok(found.iter().filter(|candidate| !is_launcher(candidate)).cloned().collect())
    }

    /// The TCP ports on which the process listens.
    pub(in super::super) fn listening_ports(pid: i32) -> Vec<u16> {
        let ports = || -> Option<Vec<u16>> {
            let process = Process::new(pid).ok()?;
            let sockets: HashSet<u64> = process
                .fd()
                .ok()?
                .filter_map(|fd| match fd.ok()?.target {
                    FDTarget::Socket(inode) => Some(inode),
                    _ => None,
                })
                .collect();
            let mine = |entry: &procfs::net::TcpNetEntry| entry.state == TcpState::Listen && sockets.contains(&entry.inode);
            Some(process.tcp().ok()?.into_iter().filter(mine).map(|entry| entry.local_address.port()).collect())
        };
        ports().unwrap_or_default()
    }

    /// The first port on which a child, grandchild, … of the process listens.
    pub(in super::super) fn port_of_descendants(pid: i32) -> Option<u16> {
        let parents = parents();
        let descends = |mut process: i32| {
            // A chain of parents is finite, but pids may be reused between two readings.
            for _ in 0..64 {
                match parents.get(&process) {
                    Some(parent) if *parent == pid => return true,
                    Some(parent) => process = *parent,
                    None => return false,
                }
            }
            false
        };
        let mut descendants: Vec<i32> = parents.keys().copied().filter(|process| descends(*process)).collect();
        descendants.sort_unstable();
        descendants.into_iter().find_map(|process| listening_ports(process).first().copied())
    }

    fn parents() -> HashMap<i32, i32> {
        let Ok(processes) = all_processes() else { return HashMap::new() };
        processes.filter_map(|process| process.ok()?.stat().ok()).map(|stat| (stat.pid, stat.ppid)).collect()
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{listening_ports, port_of_descendants, wrappers};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::*;

    pub(in super::super) fn wrappers(_mark: &[&str]) -> Result<Vec<Wrapper>, Error> {
        Err(Error::NoProcessTable)
    }

    pub(in super::super) fn listening_ports(_pid: i32) -> Vec<u16> {
        Vec::new()
    }

    pub(in super::super) fn port_of_descendants(_pid: i32) -> Option<u16> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{listening_ports, port_of_descendants, wrappers};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn our_own_listening_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(listening_ports(pid).contains(&port));
        drop(listener);
        assert!(!listening_ports(pid).contains(&port));
    }

    #[test]
    fn a_wrapper_is_known_by_consecutive_arguments() {
        // `sleep` ignores nothing, so a shell holds the arguments while it waits.
        let spawn = |arguments: &[&str]| {
            std::process::Command::new("sh")
                .args(["-c", "read line", "sh"])
                .args(arguments)
                .stdin(std::process::Stdio::piped())
                .spawn()
        };
        let mut service = spawn(&["--51-test", "db", "--multi", "mongod", "--dbpath", "/some/where"]).unwrap();
        let mut other = spawn(&["--51-test", "db", "x", "--multi"]).unwrap();
        // The child is a copy of this process until it has become a shell.
        let mut found = Vec::new();
        for _ in 0..100 {
            found = wrappers(&["--51-test", "db", "--multi"]).unwrap();
            if !found.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for child in [&mut service, &mut other] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(u32::try_from(found[0].pid).unwrap(), service.id());
        assert_eq!(found[0].dbpath(), Some(PathBuf::from("/some/where")));
        assert_eq!(port_of_descendants(found[0].pid), None);
    }
}
