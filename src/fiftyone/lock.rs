//! One run per field and shard: a lease in the database, with an owner and an expiry. Two runs that write the same fields would
//! compute everything twice and take each other's files away; runs that write different fields, or the same ones of shards that
//! share no sample, do not disturb each other.
//!
//! All leases of a dataset are in one document of the collection `camflow.locks`, so that taking one is a single update, which
//! is atomic on any server. Times are the server's.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use mongodb::{
    error::{ErrorKind, WriteFailure},
    options::ReturnDocument,
};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::{database::Database, dataset::Dataset, error::Error, retry::with_retries, shard::Shard};

/// A collection beside FiftyOne's own.
const COLLECTION: &str = "camflow.locks";

/// How long a lease lasts that nobody renews: what another machine waits for after a crash.
const LEASE: Duration = Duration::from_secs(90);

/// How often it is renewed: a server may be away for as long as commands are tried again.
const RENEWAL: Duration = Duration::from_secs(15);

/// Stands for every field.
const ALL_FIELDS: &str = "*";

/// A lease on fields of a dataset, or of a shard of it. It is renewed in the background and given back when it is dropped.
#[derive(Debug)]
pub struct Lock {
    claim: Arc<Claim>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Claim {
    database: Database,
    dataset: ObjectId,
    name: String,
    lease: ObjectId,
    shard: Shard,
}

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    host: String,
    /// Tells apart what shares a host name: another start of the machine, another container.
    machine: String,
    process: u32,
    /// Seconds since 1970: process numbers are used again.
    started: i64,
}

/// A lease that is in the way.
struct Held {
    lease: ObjectId,
    owner: Owner,
    shard: Shard,
}

impl Lock {
    /// Takes the lease on these fields (`None`: all of them) of the samples of a shard.
    ///
    /// # Errors
    /// [`Error::Locked`] while another run holds one of them for samples of the shard, or the database fails.
    pub(super) fn acquire(dataset: &Dataset, fields: Option<&[String]>, shard: Shard) -> Result<Lock, Error> {
        let owner = Owner::myself();
        let (database, name) = (dataset.database.clone(), dataset.name.clone());
        let claim = Claim { database, dataset: dataset.id, name, lease: ObjectId::new(), shard };
        let all = [ALL_FIELDS.to_owned()];
        let fields = fields.unwrap_or(&all);
        // A holder that is gone makes room once; if others are quicker then, they hold it.
        for _ in 0..8 {
            if with_retries(|| claim.try_take(fields, &owner))? {
                return Lock::keep(claim);
            }
            let holders = with_retries(|| claim.holders(fields))?;
            let (gone, alive): (Vec<_>, Vec<_>) = holders.into_iter().partition(|held| held.owner.is_gone(&owner));
            if let Some(Held { owner, shard, .. }) = alive.into_iter().next() {
                let (dataset, since) = (dataset.name.clone(), text(owner.started));
                return Err(Error::Locked { dataset, shard, process: owner.process, host: owner.host, since });
            }
            let gone: Vec<ObjectId> = gone.into_iter().map(|held| held.lease).collect();
            with_retries(|| claim.remove(&gone))?;
        }
        Err(Error::MalformedDataset { name: claim.name.clone(), reason: "its lock changes hands all the time".to_owned() })
    }

    fn keep(claim: Claim) -> Result<Lock, Error> {
        let claim = Arc::new(claim);
        let (stop, stopped) = channel::<()>();
        let renewed = Arc::clone(&claim);
        let renew = move || {
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                // Before anything is written, the run looks by itself.
                let _ = renewed.renew();
            }
        };
        let renewing = std::thread::Builder::new().name("camflow-lock".to_owned()).spawn(renew).map_err(Error::Runtime)?;
        Ok(Lock { claim, stop: Some(stop), renewing: Some(renewing) })
    }

    /// Makes sure of the lease: call it before writing. No clock of this machine says whether it ran out, which a machine that
    /// slept would not know.
    ///
    /// # Errors
    /// It ran out and another run took it, or the database fails.
    pub(super) fn check(&self) -> Result<(), Error> {
        match with_retries(|| self.claim.renew())? {
            true => Ok(()),
            false => Err(Error::LockLost { dataset: self.claim.name.clone() }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
        // Without the database the lease runs out by itself.
        let _ = self.claim.remove(&[self.claim.lease]);
    }
}

impl Claim {
    /// Takes the lease unless somebody holds one that is in the way.
    fn try_take(&self, fields: &[String], owner: &Owner) -> Result<bool, Error> {
        let leases = doc! {"$ifNull": ["$leases", []]};
        let is_taken = doc! {"$anyElementTrue": {"$map": {"input": &leases, "in": self.in_the_way(fields)}}};
        let ours = doc! {
            "lease": self.lease, "fields": fields, "index": i64::from(self.shard.index()), "count": i64::from(self.shard.count()),
            "expires_at": {"$add": ["$$NOW", millis(LEASE)]},
            "host": literal(&owner.host), "machine": literal(&owner.machine),
            "process": i64::from(owner.process), "started": owner.started,
        };
        let others = doc! {"$filter": {
            "input": &leases,
            // An attempt whose answer was lost is made again.
            "cond": {"$and": [{"$gt": ["$$this.expires_at", "$$NOW"]}, {"$ne": ["$$this.lease", self.lease]}]},
        }};
        let taken = doc! {"$cond": [is_taken, &leases, {"$concatArrays": [others, [ours]]}]};
        let update = vec![doc! {"$set": {"dataset": literal(&self.name), "leases": taken}}];
        let query = doc! {"_id": self.dataset};
        let locks = self.locks();
        let updated = self.database.run(&format!("locking dataset `{}`", self.name), async {
            locks.find_one_and_update(query, update).upsert(true).return_document(ReturnDocument::After).await
        });
        match updated {
            Ok(leases) => Ok(leases.is_some_and(|leases| holds(&leases, self.lease))),
            // Two who make the document at once: one of them has to look again.
            Err(Error::Driver { source, .. }) if is_duplicate(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Those whose leases are in the way.
    fn holders(&self, fields: &[String]) -> Result<Vec<Held>, Error> {
        let leases = doc! {"$filter": {"input": "$leases", "cond": self.in_the_way(fields)}};
        let found = self.database.run(&format!("looking who holds the lock of dataset `{}`", self.name), async {
            self.locks().find_one(doc! {"_id": self.dataset}).projection(doc! {"leases": leases}).await
        })?;
        let leases = found.as_ref().and_then(|found| found.get_array("leases").ok()).into_iter().flatten();
        let lease = |lease: &Bson| {
            let lease = lease.as_document()?;
            let owner = Owner {
                host: lease.get_str("host").ok()?.to_owned(),
                machine: lease.get_str("machine").ok()?.to_owned(),
                process: u32::try_from(lease.get_i64("process").ok()?).ok()?,
                started: lease.get_i64("started").ok()?,
            };
            // Leases of earlier versions are of all samples.
            let number = |key: &str| lease.get_i64(key).unwrap_or(1);
            let shard = format!("{}/{}", number("index"), number("count")).parse().unwrap_or(Shard::WHOLE);
            Some(Held { lease: lease.get_object_id("lease").ok()?, owner, shard })
        };
        Ok(leases.filter_map(lease).collect())
    }

    /// Takes leases out, and the document with the last one.
    fn remove(&self, leases: &[ObjectId]) -> Result<(), Error> {
        self.database.run(&format!("unlocking dataset `{}`", self.name), async {
            let update = doc! {"$pull": {"leases": {"lease": {"$in": leases}}}};
            self.locks().update_one(doc! {"_id": self.dataset}, update).await?;
            self.locks().delete_one(doc! {"_id": self.dataset, "leases": {"$size": 0}}).await.map(drop)
        })
    }

    /// Whether it still holds; then it does for longer.
    fn renew(&self) -> Result<bool, Error> {
        let longer = doc! {"$mergeObjects": ["$$this", {"expires_at": {"$add": ["$$NOW", millis(LEASE)]}}]};
        let update = vec![doc! {"$set": {"leases": {"$map": {
            "input": "$leases", "in": {"$cond": [{"$eq": ["$$this.lease", self.lease]}, longer, "$$this"]},
        }}}}];
        let matched = self.database.run(&format!("renewing the lock of dataset `{}`", self.name), async {
            self.locks().update_one(doc! {"_id": self.dataset, "leases.lease": self.lease}, update).await
        })?;
        Ok(matched.matched_count > 0)
    }

    /// Whether the lease `$$this` is in the way of our own on these fields.
    fn in_the_way(&self, fields: &[String]) -> Document {
        let mut conditions =
            vec![doc! {"$gt": ["$$this.expires_at", "$$NOW"]}, doc! {"$ne": ["$$this.lease", self.lease]}, self.shares_samples()];
        if fields.iter().all(|field| field != ALL_FIELDS) {
            let mut ours: Vec<&str> = fields.iter().map(String::as_str).collect();
            ours.push(ALL_FIELDS);
            conditions.push(doc! {"$gt": [{"$size": {"$setIntersection": ["$$this.fields", ours]}}, 0]});
        }
        doc! {"$and": conditions}
    }

    /// Whether the lease `$$this` is of a shard that has samples in common with ours.
    fn shares_samples(&self) -> Document {
        let difference = doc! {"$subtract": [{"$ifNull": ["$$this.index", 1]}, self.shard.index()]};
        let tells_apart = doc! {"$and": [
            {"$eq": [{"$mod": [{"$ifNull": ["$$this.count", 1]}, "$$divisor"]}, 0]},
            {"$ne": [{"$mod": [difference, "$$divisor"]}, 0]},
        ]};
        let divisors = self.shard.divisors();
        doc! {"$not": [{"$anyElementTrue": {"$map": {"input": divisors, "as": "divisor", "in": tells_apart}}}]}
    }

    fn locks(&self) -> mongodb::Collection<Document> {
        self.database.collection(COLLECTION)
    }
}

fn holds(document: &Document, lease: ObjectId) -> bool {
    let leases = document.get_array("leases").into_iter().flatten().filter_map(Bson::as_document);
    leases.filter_map(|stored| stored.get_object_id("lease").ok()).any(|stored| stored == lease)
}

impl Owner {
    fn myself() -> Owner {
        let process = std::process::id();
        Owner {
            host: System::host_name().unwrap_or_default(),
            machine: machine(),
            process,
            started: started(process).unwrap_or_default(),
        }
    }

    /// Whether it was a process of this machine that has ended.
    fn is_gone(&self, here: &Owner) -> bool {
        (&self.host, &self.machine) == (&here.host, &here.machine) && started(self.process) != Some(self.started)
    }
}

/// What makes process numbers comparable: on Linux the machine's boot and the namespace of its process numbers.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
    format!("{} {namespace}", boot.trim())
}

/// When a process of this machine began; `None` when there is none of this number.
fn started(process: u32) -> Option<i64> {
    let mut system = System::new();
    let pid = Pid::from_u32(process);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    let process = system.process(pid).filter(|process| process.status() != sysinfo::ProcessStatus::Zombie)?;
    i64::try_from(process.start_time()).ok()
}

fn text(started: i64) -> String {
    DateTime::from_millis(started.saturating_mul(1000)).try_to_rfc3339_string().unwrap_or_default()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Names may begin with a dollar sign.
fn literal(text: &str) -> Document {
    doc! {"$literal": text}
}

pub(super) fn is_duplicate(error: &mongodb::error::Error) -> bool {
    const DUPLICATE_KEY: i32 = 11000;
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_holds_nothing() {
        let me = Owner::myself();
        assert!(!me.is_gone(&me));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Owner { process: child.id(), started: started(child.id()).unwrap(), ..me.clone() };
        assert!(!other.is_gone(&me));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(other.is_gone(&me));
        assert!(Owner { started: me.started - 1, ..me.clone() }.is_gone(&me), "its number was used again");
        assert!(!Owner { host: "another".into(), ..other.clone() }.is_gone(&me), "nobody can tell from here");
        assert!(!Owner { machine: "before the last start".into(), ..other }.is_gone(&me));
    }
}
