//! One run per field and shard: a lease in the database, with an owner and an expiry. Two runs that write the same fields would
//! compute everything twice and take each other's files away; runs that write different fields, or the same ones of shards that
//! share no sample, do not disturb each other.
//!
//! All leases of a dataset are in one document of the collection `camflow.locks`, so that taking one is a single update, which
//! is atomic on any server, and outlasts a crash of the server: a lease that was given must not be forgotten, nor a number given twice.
//! Times are the server's. docs/storage.md is the specification.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{JoinHandle, sleep},
    time::Duration,
};

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use mongodb::options::ReturnDocument;

use super::{
    database::Database, dataset::Dataset, driver_error::is_duplicate, durability::durable, error::Error, retry::with_retries,
    shard::Shard,
};
use camflow_storage::{LEASE, Owner, RENEWAL, WATCH};

/// Collections beside FiftyOne's own.
const COLLECTION: &str = "camflow.locks";
const COUNTERS: &str = "camflow.counters";

/// Stands for every field.
const ALL_FIELDS: &str = "*";

/// How often a change is made again that came after the end of the lease.
const ATTEMPTS: usize = 5;

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
    /// Larger than that of any lease before.
    number: i64,
    shard: Shard,
}

/// A lease that is in the way.
struct Held {
    lease: ObjectId,
    owner: Owner,
    shard: Shard,
    /// When it was taken, by the server's clock.
    since: String,
    /// How often it was renewed; `None` for a lease of an earlier version.
    renewals: Option<i64>,
    /// How long it lasts.
    remaining: i64,
}

/// The condition, for the server, that a lease has not run out: its clock stands between the last renewal and the end of the
/// lease. Whoever takes the lease over does so after that end by the same clock, so a command that comes later changes nothing.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    renewed_at: DateTime,
    expires_at: DateTime,
}

impl Fence {
    /// For the query of an update.
    pub(super) fn condition(&self) -> Document {
        doc! {"$and": [{"$gte": ["$$NOW", self.renewed_at]}, {"$lt": ["$$NOW", self.expires_at]}]}
    }
}

impl Lock {
    /// Takes these fields (`None`: all of them) of all samples for one run alone.
    ///
    /// # Errors
    /// [`Error::Locked`] while another run holds one of them, of a shard perhaps, or the database fails.
    pub fn acquire(dataset: &Dataset, fields: Option<&[String]>) -> Result<Lock, Error> {
        Lock::acquire_shard(dataset, fields, Shard::WHOLE)
    }

    /// The same of the samples of a shard.
    pub(super) fn acquire_shard(dataset: &Dataset, fields: Option<&[String]>, shard: Shard) -> Result<Lock, Error> {
        let owner = Owner::myself();
        let (database, name) = (dataset.database.clone(), dataset.name.clone());
        let number = with_retries(|| next_number(&database))?;
        let claim = Claim { database, dataset: dataset.id, name, lease: ObjectId::new(), number, shard };
        let all = [ALL_FIELDS.to_owned()];
        let fields = fields.unwrap_or(&all);
        // A holder that is gone makes room once; if others are quicker then, they hold it.
        for _ in 0..8 {
            if with_retries(|| claim.try_take(fields, &owner))? {
                return Lock::keep(claim);
            }
            let holders = with_retries(|| claim.holders(fields))?;
            let (mut gone, alive): (Vec<_>, Vec<_>) = holders.into_iter().partition(|held| held.owner.has_ended());
            if let Some(held) = alive.iter().find(|held| !held.outlasts_any()) {
                return Err(held.error(&claim.name));
            }
            if !alive.is_empty() {
                // The server's clock was set back. Whoever lives renews its lease meanwhile.
                sleep(WATCH);
                let now = with_retries(|| claim.holders(fields))?;
                let is_still = |held: &Held| now.iter().any(|now| (now.lease, now.renewals) == (held.lease, held.renewals));
                gone.extend(alive.into_iter().filter(is_still));
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

    /// Makes sure of the lease, and renews it: call it before writing, and write only under the fence that it gives. No clock of
    /// this machine says whether the lease ran out, which a machine that slept would not know.
    ///
    /// # Errors
    /// It ran out and another run took it, or the database fails.
    pub(super) fn check(&self) -> Result<Fence, Error> {
        let lost = || Error::LockLost { dataset: self.claim.name.clone(), number: self.claim.number };
        with_retries(|| self.claim.renew())?.ok_or_else(lost)
    }

    /// Changes something under the fence of the lease, again and again until that falls into its time.
    pub(super) fn fenced(&self, mut change: impl FnMut(Fence) -> Result<bool, Error>) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let fence = self.check()?;
            if with_retries(|| change(fence.clone()))? {
                return Ok(());
            }
        }
        Err(Error::OutOfTime { dataset: self.claim.name.clone() })
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
            "lease": self.lease, "number": self.number, "renewals": 0i64, "fields": fields, "index": i64::from(self.shard.index()), "count": i64::from(self.shard.count()),
            "taken_at": "$$NOW", "renewed_at": "$$NOW", "expires_at": {"$add": ["$$NOW", millis(LEASE)]},
            "host": literal(&owner.host), "machine": literal(&owner.machine),
            "process": i64::from(owner.process), "started": owner.started.and_then(|ticks| i64::try_from(ticks).ok()),
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
            let taken = locks.find_one_and_update(query, update).upsert(true).return_document(ReturnDocument::After);
            taken.write_concern(durable()).await
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
        let remaining = doc! {"remaining": {"$subtract": ["$$this.expires_at", "$$NOW"]}};
        let leases = doc! {"$map": {"input": leases, "in": {"$mergeObjects": ["$$this", remaining]}}};
        let found = self.database.run(&format!("looking who holds the lock of dataset `{}`", self.name), async {
            self.locks().find_one(doc! {"_id": self.dataset}).projection(doc! {"leases": leases}).await
        })?;
        let leases = found.as_ref().and_then(|found| found.get_array("leases").ok()).into_iter().flatten();
        Ok(leases.filter_map(Bson::as_document).filter_map(Held::read).collect())
    }

    /// Takes leases out, and the document with the last one.
    fn remove(&self, leases: &[ObjectId]) -> Result<(), Error> {
        self.database.run(&format!("unlocking dataset `{}`", self.name), async {
            let update = doc! {"$pull": {"leases": {"lease": {"$in": leases}}}};
            self.locks().update_one(doc! {"_id": self.dataset}, update).await?;
            self.locks().delete_one(doc! {"_id": self.dataset, "leases": {"$size": 0}}).await.map(drop)
        })
    }

    /// If it still holds, it does for longer.
    fn renew(&self) -> Result<Option<Fence>, Error> {
        let longer = doc! {"$mergeObjects": ["$$this", {
            "renewals": {"$add": [{"$ifNull": ["$$this.renewals", 0]}, 1]},
            "renewed_at": "$$NOW", "expires_at": {"$add": ["$$NOW", millis(LEASE)]},
        }]};
        let update = vec![doc! {"$set": {"leases": {"$map": {
            "input": "$leases", "in": {"$cond": [{"$eq": ["$$this.lease", self.lease]}, longer, "$$this"]},
        }}}}];
        let query = doc! {"_id": self.dataset, "leases": {"$elemMatch": {"lease": self.lease, "number": self.number}}};
        let renewed = self.database.run(&format!("renewing the lock of dataset `{}`", self.name), async {
            self.locks().find_one_and_update(query, update).return_document(ReturnDocument::After).await
        })?;
        let leases = renewed.as_ref().and_then(|renewed| renewed.get_array("leases").ok()).into_iter().flatten();
        let ours = leases
            .filter_map(Bson::as_document)
            .find(|lease| lease.get_object_id("lease").is_ok_and(|lease| lease == self.lease));
        let fence = |lease: &Document| {
            let time = |key: &str| lease.get_datetime(key).ok().copied();
            Some(Fence { renewed_at: time("renewed_at")?, expires_at: time("expires_at")? })
        };
        Ok(ours.and_then(fence))
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

impl Held {
    fn read(lease: &Document) -> Option<Held> {
        let renewals = lease.get_i64("renewals").ok();
        let owner = Owner {
            host: lease.get_str("host").ok()?.to_owned(),
            machine: lease.get_str("machine").ok()?.to_owned(),
            process: u32::try_from(lease.get_i64("process").ok()?).ok()?,
            // Earlier versions wrote seconds since 1970 there, which move with the clock.
            started: renewals.and_then(|_| u64::try_from(lease.get_i64("started").ok()?).ok()),
        };
        // Leases of earlier versions are of all samples.
        let number = |key: &str| lease.get_i64(key).unwrap_or(1);
        let shard = format!("{}/{}", number("index"), number("count")).parse().unwrap_or(Shard::WHOLE);
        let since = lease.get_datetime("taken_at").ok().and_then(|time| time.try_to_rfc3339_string().ok());
        Some(Held {
            lease: lease.get_object_id("lease").ok()?,
            owner,
            shard,
            since: since.unwrap_or_else(|| "an unknown time".to_owned()),
            renewals,
            remaining: lease.get_i64("remaining").unwrap_or_default(),
        })
    }

    /// Whether it lasts longer than any lease can, because the server's clock was set back after it was renewed.
    fn outlasts_any(&self) -> bool {
        self.renewals.is_some() && self.remaining > millis(LEASE + RENEWAL)
    }

    fn error(&self, dataset: &str) -> Error {
        let Held { owner, shard, since, .. } = self;
        let (process, host) = (owner.process, owner.host.clone());
        Error::Locked { dataset: dataset.to_owned(), shard: *shard, process, host, since: since.clone() }
    }
}

/// A number that no lease in the database had before.
fn next_number(database: &Database) -> Result<i64, Error> {
    let counter = database.run("counting the locks", async {
        let counters = database.collection::<Document>(COUNTERS);
        let next = counters.find_one_and_update(doc! {"_id": "leases"}, doc! {"$inc": {"value": 1i64}});
        next.upsert(true).return_document(ReturnDocument::After).write_concern(durable()).await
    });
    match counter {
        Ok(counter) => Ok(counter.and_then(|counter| counter.get_i64("value").ok()).unwrap_or(1)),
        // Two who make the counter at once: then it is there.
        Err(Error::Driver { source, .. }) if is_duplicate(&source) => next_number(database),
        Err(error) => Err(error),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Names may begin with a dollar sign.
fn literal(text: &str) -> Document {
    doc! {"$literal": text}
}
