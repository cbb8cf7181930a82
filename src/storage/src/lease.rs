//! Leases on an output folder: files in it, one for each holder. They are in the folder because it is what is deleted from,
//! whatever dataset or database the deletion is about.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{OutputFolder, Owner, StorageError, folder::OWN};
use camflow_media::{Durability, create_folders, write_atomically};

/// How long a lease lasts that nobody renews: what another machine waits for after a crash.
pub const LEASE: Duration = Duration::from_secs(90);

/// How often it is renewed.
pub const RENEWAL: Duration = Duration::from_secs(15);

/// How long one is watched that seems to have run out: its holder would renew it meanwhile, whatever clocks say.
pub const WATCH: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(20) };

/// Leases are in each other's way for moments only, while several are taken at once.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const LEASES: &str = "leases";

/// Who else may hold the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All who write files.
    Shared,
    /// Nobody: files are removed.
    Exclusive,
}

/// A lease on an output folder. It is renewed in the background and given back when it is dropped.
#[derive(Debug)]
pub struct FolderLease {
    claim: Arc<Claim>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Claim {
    folder: PathBuf,
    path: PathBuf,
    state: Mutex<State>,
}

/// The first line of a lease's file, which is written in place and always of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// How often it was renewed.
    renewals: u64,
    /// Whether it was taken. Before, others' leases are looked for.
    is_held: bool,
}

/// The rest of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    sharing: Sharing,
    what: String,
    host: String,
    machine: String,
    process: u32,
    started: Option<u64>,
}

/// A lease of somebody else's.
struct Other {
    path: PathBuf,
    first_line: String,
    is_held: bool,
    note: Note,
    modified: SystemTime,
}

impl FolderLease {
    /// Takes the folder, for what (`camflow clean of dataset ...`).
    ///
    /// # Errors
    /// [`StorageError::Held`] while somebody holds it who is in the way, or the folder cannot be read or written to.
    pub fn acquire(folder: &OutputFolder, sharing: Sharing, what: &str) -> Result<FolderLease, StorageError> {
        let owner = Owner::myself();
        let Owner { host, machine, process, started } = owner;
        let note = Note { sharing, what: what.to_owned(), host, machine, process, started };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lease = FolderLease::write(folder, &note)?;
            match lease.in_the_way(folder, sharing)? {
                None => {
                    lease.claim.renew(true)?;
                    return Ok(lease);
                }
                // Of two who take the folder at once both may have seen each other.
                Some(other) if !other.is_held && Instant::now() < deadline => {
                    drop(lease);
                    sleep(Duration::from_millis(20 + u64::from(std::process::id() % 100)));
                }
                Some(other) => {
                    let (path, owner) = (folder.path().to_owned(), Box::new(other.note.owner()));
                    return Err(StorageError::Held { path, owner, what: other.note.what, sharing: other.note.sharing });
                }
            }
        }
    }

    fn write(folder: &OutputFolder, note: &Note) -> Result<FolderLease, StorageError> {
        let leases = folder.path().join(OWN).join(LEASES);
        create_folders(&leases).map_err(StorageError::io("write to", &leases))?;
        let path = leases.join(uuid::Uuid::new_v4().simple().to_string());
        let state = State { renewals: 0, is_held: false };
        let text = format!("{}{}\n", state.line(), serde_json::to_string(note).unwrap_or_default());
        write_atomically(&path, Durability::Process, |writer| writer.write_all(text.as_bytes()))
            .map_err(|error| StorageError::unwritable(error, leases))?;
        let claim = Arc::new(Claim { folder: folder.path().to_owned(), path, state: Mutex::new(state) });
        let (stop, stopped) = channel::<()>();
        let renewed = Arc::clone(&claim);
        let renew = move || {
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                // Before anything is done, the run looks by itself.
                let _ = renewed.renew(false);
            }
        };
        let renewing = std::thread::Builder::new().name("camflow-folder".to_owned()).spawn(renew);
        let renewing = Some(renewing.map_err(StorageError::io("write to", folder.path()))?);
        Ok(FolderLease { claim, stop: Some(stop), renewing })
    }

    /// Makes sure of the lease: call it before writing to the database, and before each removal. It is renewed, too.
    ///
    /// # Errors
    /// [`StorageError::LeaseLost`] if it ran out and somebody took the folder, or is not there any more with its folder; or the
    /// folder cannot be read.
    pub fn check(&self) -> Result<(), StorageError> {
        self.claim.renew(false)
    }

    /// The lease that is in the way of this one, after those of holders that are gone were taken away.
    fn in_the_way(&self, folder: &OutputFolder, sharing: Sharing) -> Result<Option<Other>, StorageError> {
        let mut suspects = Vec::new();
        for other in self.others(folder)? {
            if sharing == Sharing::Shared && other.note.sharing == Sharing::Shared {
                continue;
            }
            if other.note.owner().has_ended() {
                take_away(&other)?;
            } else if self.seems_over(&other)? {
                suspects.push(other);
            } else {
                return Ok(Some(other));
            }
        }
        if suspects.is_empty() {
            return Ok(None);
        }
        sleep(WATCH);
        for suspect in suspects {
            match read(&suspect.path)? {
                Some(now) if now.first_line != suspect.first_line => return Ok(Some(now)),
                Some(_) => take_away(&suspect)?,
                None => {}
            }
        }
        Ok(None)
    }

    fn others(&self, folder: &OutputFolder) -> Result<Vec<Other>, StorageError> {
        let leases = Path::new(OWN).join(LEASES);
        let unreadable = || StorageError::io("read", folder.path().join(&leases));
        let entries = folder.dir().read_dir(&leases).map_err(unreadable())?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>();
        let is_lease = |name: &std::ffi::OsString| {
            name.to_str().is_some_and(|name| name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let paths = names.map_err(unreadable())?.into_iter().filter(is_lease).map(|name| folder.path().join(&leases).join(name));
        paths.filter(|path| *path != self.claim.path).map(|path| read(&path)).filter_map(Result::transpose).collect()
    }

    /// Whether nobody renewed it for longer than it lasts, by the file server's clock alone; or so it seems, after a clock was set.
    fn seems_over(&self, other: &Other) -> Result<bool, StorageError> {
        self.claim.renew(false)?;
        let now = fs::metadata(&self.claim.path).and_then(|metadata| metadata.modified());
        let now = now.map_err(StorageError::io("read", &self.claim.path))?;
        Ok(match now.duration_since(other.modified) {
            Ok(age) => age > LEASE,
            Err(ahead) => ahead.duration() > LEASE,
        })
    }
}

impl Drop for FolderLease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
        // What cannot be removed runs out.
        let _ = fs::remove_file(&self.claim.path);
    }
}

impl Claim {
    /// Writes to the file that is there, and never makes another one: a lease that was taken away is lost for good.
    fn renew(&self, is_held: bool) -> Result<(), StorageError> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let next = State { renewals: state.renewals + 1, is_held: state.is_held || is_held };
        let lost = || StorageError::LeaseLost { path: self.folder.clone() };
        let mut file = match OpenOptions::new().write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(lost()),
            file => file.map_err(StorageError::io("write to", &self.path))?,
        };
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(next.line().as_bytes()))
            .map_err(StorageError::io("write to", &self.path))?;
        // It may have been taken away while it was open.
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&file.metadata().map_err(StorageError::io("read", &self.path))?) == 0 {
            return Err(lost());
        }
        *state = next;
        Ok(())
    }
}

impl State {
    fn line(self) -> String {
        format!("{:020} {}\n", self.renewals, if self.is_held { "held  " } else { "taking" })
    }
}

impl Note {
    fn owner(&self) -> Owner {
        let Note { host, machine, process, started, .. } = self.clone();
        Owner { host, machine, process, started }
    }
}

/// `None` if it is not there any more.
fn read(path: &Path) -> Result<Option<Other>, StorageError> {
    let read = || {
        let mut file = File::open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok((text, file.metadata()?.modified()?))
    };
    let (text, modified) = match read() {
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(StorageError::io("read", path))?,
    };
    let (first_line, rest) = text.split_once('\n').unwrap_or((&text, ""));
    // Of a file that cannot be understood, as of a later version's, only its age can be told.
    let note = serde_json::from_str(rest).unwrap_or_else(|_| Note {
        sharing: Sharing::Exclusive,
        what: "another version of camflow".to_owned(),
        host: "?".to_owned(),
        machine: String::new(),
        process: 0,
        started: None,
    });
    let is_held = !first_line.ends_with("taking");
    Ok(Some(Other { path: path.to_owned(), first_line: first_line.to_owned(), is_held, note, modified }))
}

fn take_away(other: &Other) -> Result<(), StorageError> {
    match fs::remove_file(&other.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("write to", &other.path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, OutputFolder) {
        let place = tempfile::tempdir().unwrap();
        let folder = OutputFolder::create(place.path()).unwrap();
        (place, folder)
    }

    fn take(folder: &OutputFolder, sharing: Sharing) -> Result<FolderLease, StorageError> {
        FolderLease::acquire(folder, sharing, "a test")
    }

    /// Writes a lease of somebody else's.
    fn of(folder: &OutputFolder, owner: &Owner, age: Duration) -> PathBuf {
        let lease = take(folder, Sharing::Shared).unwrap();
        let path = lease.claim.path.with_file_name(uuid::Uuid::new_v4().simple().to_string());
        let Owner { host, machine, process, started } = owner.clone();
        let note = Note { sharing: Sharing::Exclusive, what: "another".to_owned(), host, machine, process, started };
        let state = State { renewals: 3, is_held: true };
        fs::write(&path, format!("{}{}", state.line(), serde_json::to_string(&note).unwrap())).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        path
    }

    #[test]
    fn many_may_write_but_one_removes() {
        let (_place, folder) = folder();
        let writers = [take(&folder, Sharing::Shared).unwrap(), take(&folder, Sharing::Shared).unwrap()];
        let held = take(&folder, Sharing::Exclusive).unwrap_err();
        let StorageError::Held { owner, what, .. } = &held else { panic!("{held:?}") };
        assert_eq!((owner.process, what.as_str()), (std::process::id(), "a test"));
        drop(writers);
        let remover = take(&folder, Sharing::Exclusive).unwrap();
        remover.check().unwrap();
        for sharing in [Sharing::Shared, Sharing::Exclusive] {
            assert!(matches!(take(&folder, sharing), Err(StorageError::Held { .. })));
        }
        remover.check().unwrap();
        drop(remover);
        assert_eq!(fs::read_dir(folder.path().join(".camflow/leases")).unwrap().count(), 0);
    }

    #[test]
    fn of_many_who_take_it_at_once_one_has_it_at_a_time() {
        let (_place, folder) = folder();
        let path = folder.path();
        let holders = std::sync::atomic::AtomicUsize::new(0);
        let take_it = || {
            let folder = OutputFolder::open(path).unwrap();
            let mut num_taken = 0;
            for _ in 0..20 {
                if let Ok(lease) = take(&folder, Sharing::Exclusive) {
                    assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    lease.check().unwrap();
                    num_taken += 1;
                    holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            }
            num_taken
        };
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take_it)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(taken > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_holder_that_has_ended_makes_room_at_once_and_one_that_cannot_be_seen_does_not() {
        let (_place, folder) = folder();
        let me = Owner::myself();
        let ended = Owner { started: me.started.map(|ticks| ticks - 1), ..me.clone() };
        let path = of(&folder, &ended, Duration::ZERO);
        drop(take(&folder, Sharing::Exclusive).unwrap());
        assert!(!path.exists());
        let far = Owner { machine: "another".to_owned(), ..ended };
        let path = of(&folder, &far, Duration::from_secs(60));
        assert!(matches!(take(&folder, Sharing::Shared), Err(StorageError::Held { .. })));
        assert!(path.exists());
    }

    #[test]
    fn a_lease_that_ran_out_is_watched_and_then_taken_for_good() {
        let (_place, folder) = folder();
        let sleeper = take(&folder, Sharing::Shared).unwrap();
        let far = Owner { machine: "another".to_owned(), ..Owner::myself() };
        let path = of(&folder, &far, Duration::from_secs(3600));
        // One that still renews its lease, although a clock says that it is over.
        let (stop, stopped) = channel::<()>();
        let renewed = path.clone();
        let renewing = std::thread::spawn(move || {
            for renewals in 4.. {
                let mut file = OpenOptions::new().write(true).open(&renewed).unwrap();
                file.write_all(State { renewals, is_held: true }.line().as_bytes()).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
                if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        assert!(matches!(take(&folder, Sharing::Shared), Err(StorageError::Held { .. })));
        drop(stop);
        renewing.join().unwrap();
        drop(take(&folder, Sharing::Shared).unwrap());
        assert!(!path.exists(), "nobody renewed it any more");
        // As the taker does to one that slept.
        fs::remove_file(&sleeper.claim.path).unwrap();
        assert!(matches!(sleeper.check(), Err(StorageError::LeaseLost { .. })));
        assert!(!sleeper.claim.path.exists());
    }

    #[test]
    fn a_lease_goes_with_its_folder() {
        let (place, folder) = folder();
        let lease = take(&folder, Sharing::Shared).unwrap();
        fs::rename(place.path().join(OWN), place.path().join("unmounted")).unwrap();
        assert!(matches!(lease.check(), Err(StorageError::LeaseLost { .. })));
    }
}
