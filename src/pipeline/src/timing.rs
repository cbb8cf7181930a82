//! Where the time goes: channel ends that measure how long a stage waits, and the clock that they share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, SendError, Sender};

use crate::event::StageTimes;

/// The times of one stage, summed over its threads.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    busy: AtomicU64,
    starved: AtomicU64,
    blocked: AtomicU64,
}

fn measured<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    total.fetch_add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    result
}

impl Clock {
    pub(crate) fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        measured(&self.busy, work)
    }

    pub(crate) fn times(&self, num_threads: usize) -> StageTimes {
        let duration = |total: &AtomicU64| Duration::from_nanos(total.load(Ordering::Relaxed));
        StageTimes { busy: duration(&self.busy), starved: duration(&self.starved), blocked: duration(&self.blocked), num_threads }
    }
}

/// Receiving end of a stage.
pub(crate) struct Inlet<'a, T> {
    receiver: Receiver<T>,
    clock: &'a Clock,
}

/// Each message goes to one of the ends.
impl<T> Clone for Inlet<'_, T> {
    fn clone(&self) -> Self {
        Inlet { receiver: self.receiver.clone(), clock: self.clock }
    }
}

impl<'a, T> Inlet<'a, T> {
    pub(crate) fn new(receiver: Receiver<T>, clock: &'a Clock) -> Self {
        Inlet { receiver, clock }
    }

    /// Waits for one more; `None` when the stage before has closed.
    pub(crate) fn next(&self) -> Option<T> {
        measured(&self.clock.starved, || self.receiver.recv().ok())
    }

    /// Waits for one more until then; `None` also when it is too late.
    pub(crate) fn next_by(&self, deadline: Instant) -> Option<T> {
        measured(&self.clock.starved, || self.receiver.recv_deadline(deadline).ok())
    }

    /// One more where it is there already.
    pub(crate) fn next_if_ready(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Everything until the stage before closes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.next())
    }
}

/// Sending end of a stage.
pub(crate) struct Outlet<'a, T> {
    sender: Sender<T>,
    clock: &'a Clock,
}

/// The stage after it ends when all of the ends are gone.
impl<T> Clone for Outlet<'_, T> {
    fn clone(&self) -> Self {
        Outlet { sender: self.sender.clone(), clock: self.clock }
    }
}

impl<'a, T> Outlet<'a, T> {
    pub(crate) fn new(sender: Sender<T>, clock: &'a Clock) -> Self {
        Outlet { sender, clock }
    }

    /// One more end of the same channel, at another stage.
    pub(crate) fn also_at<'b>(&self, clock: &'b Clock) -> Outlet<'b, T> {
        Outlet { sender: self.sender.clone(), clock }
    }

    /// Waits for room. Fails when the stage after is gone, which is a quiet exit.
    pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
        measured(&self.clock.blocked, || self.sender.send(message))
    }
}
