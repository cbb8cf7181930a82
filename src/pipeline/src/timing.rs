//! Where the time goes: channel ends that measure how long a stage waits, and the clock that they share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, SendError, Sender};

use super::StageTimes;

/// The times of one stage, summed over its threads.
#[derive(Debug)]
pub struct Clock {
    busy: AtomicU64,
    starved: AtomicU64,
    blocked: AtomicU64,
    num_threads: usize,
}

fn measured<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    total.fetch_add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    result
}

impl Clock {
    pub fn new(num_threads: usize) -> Self {
        Clock { busy: AtomicU64::new(0), starved: AtomicU64::new(0), blocked: AtomicU64::new(0), num_threads }
    }

    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        measured(&self.busy, work)
    }

    pub fn starved<T>(&self, work: impl FnOnce() -> T) -> T {
        measured(&self.starved, work)
    }

    pub fn times(&self) -> StageTimes {
        let duration = |total: &AtomicU64| Duration::from_nanos(total.load(Ordering::Relaxed));
        StageTimes {
            busy: duration(&self.busy),
            starved: duration(&self.starved),
            blocked: duration(&self.blocked),
            num_threads: self.num_threads,
        }
    }
}

/// Receiving end of a stage.
pub struct Inlet<'a, T> {
    receiver: Receiver<T>,
    clock: &'a Clock,
}

impl<'a, T> Inlet<'a, T> {
    pub fn new(receiver: Receiver<T>, clock: &'a Clock) -> Self {
        Inlet { receiver, clock }
    }

    /// Waits for one more; `None` when the stage before has closed.
    pub fn next(&self) -> Option<T> {
        self.clock.starved(|| self.receiver.recv().ok())
    }

    /// One more where it is there already.
    pub fn next_if_ready(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Everything until the stage before closes.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.next())
    }
}

/// Sending end of a stage.
pub struct Outlet<'a, T> {
    sender: Sender<T>,
    clock: &'a Clock,
}

impl<'a, T> Outlet<'a, T> {
    pub fn new(sender: Sender<T>, clock: &'a Clock) -> Self {
        Outlet { sender, clock }
    }

    /// Waits for room. Fails when the stage after is gone, which is a quiet exit.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        measured(&self.clock.blocked, || self.sender.send(message))
    }
}
