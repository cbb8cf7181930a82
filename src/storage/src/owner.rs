//! Who holds a lease, and whether that process has ended. Everything here comes from things that cannot move: neither from host
//! names nor from wall clocks.

use std::fmt;

use camflow_names::shown;

/// A process that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The name of its host, for messages alone.
    pub host: String,
    /// Where its process number and its start mean something: boot of the machine, and namespaces of process numbers and time.
    /// Empty where the system does not say so.
    pub machine: String,
    /// Its number.
    pub process: u32,
    /// When it began, in clock ticks since the machine booted: numbers are used again. `None` where the system does not say so.
    pub started: Option<u64>,
}

impl Owner {
    /// This process.
    pub fn myself() -> Owner {
        let process = std::process::id();
        let host = sysinfo::System::host_name().unwrap_or_default();
        let started = match life(process) {
            Life::Began(ticks) => Some(ticks),
            Life::Ended | Life::Unseen => None,
        };
        Owner { host, machine: machine(), process, started }
    }

    /// Whether it has ended, which only a process of the same machine can know: another one, or one that cannot be seen, counts
    /// as alive.
    pub fn has_ended(&self) -> bool {
        let Some(started) = self.started.filter(|_| !self.machine.is_empty() && self.machine == machine()) else { return false };
        match life(self.process) {
            Life::Ended => true,
            Life::Began(ticks) => ticks != started,
            Life::Unseen => false,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on `{}`", self.process, shown(&self.host))
    }
}

/// What can be seen of a process number.
enum Life {
    /// The process of this number began then.
    Began(u64),
    /// There is none, or nothing is left of it but its exit code.
    Ended,
    /// There is one that cannot be looked at.
    Unseen,
}

#[cfg(target_os = "linux")]
fn machine() -> String {
    let namespace = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
        link.map(|link| link.to_string_lossy().into_owned())
    };
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    match (boot, namespace("pid")) {
        // Kernels before 5.6 have no namespaces of time.
        (Ok(boot), Ok(processes)) => format!("{} {processes} {}", boot.trim(), namespace("time").unwrap_or_default()),
        _ => String::new(),
    }
}

#[cfg(not(target_os = "linux"))]
fn machine() -> String {
    String::new()
}

#[cfg(target_os = "linux")]
fn life(process: u32) -> Life {
    use procfs::process::{ProcState, Process};
    let Ok(number) = i32::try_from(process) else { return Life::Unseen };
    let stat = Process::new(number).and_then(|process| process.stat());
    match stat {
        Ok(stat) if matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead)) => Life::Ended,
        Ok(stat) => Life::Began(stat.starttime),
        // Other users' processes may be hidden from /proc, but no signal can be sent to one that does not exist.
        Err(_) => {
            // SAFETY: signal 0 is sent to nobody.
            let sent = unsafe { libc::kill(number, 0) };
            match (sent, std::io::Error::last_os_error().raw_os_error()) {
                (-1, Some(libc::ESRCH)) => Life::Ended,
                _ => Life::Unseen,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn life(_process: u32) -> Life {
    Life::Unseen
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_has_provably_ended_has_ended() {
        let me = Owner::myself();
        assert!(!me.has_ended());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let Life::Began(started) = life(child.id()) else { panic!("a child can be seen") };
        let other = Owner { process: child.id(), started: Some(started), ..me.clone() };
        assert!(!other.has_ended());
        child.kill().unwrap();
        // Not yet waited for: a zombie.
        while !other.has_ended() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(other.has_ended());
        assert!(Owner { host: "renamed meanwhile".into(), ..other.clone() }.has_ended(), "hosts' names may change");
        assert!(Owner { started: me.started.map(|ticks| ticks - 1), ..me.clone() }.has_ended(), "its number was used again");
        for unknown in [
            Owner { machine: "before the last start".into(), ..other.clone() },
            Owner { machine: String::new(), ..other.clone() },
            Owner { started: None, ..other.clone() },
        ] {
            assert!(!unknown.has_ended(), "nobody can tell from here: {unknown:?}");
        }
    }
}
