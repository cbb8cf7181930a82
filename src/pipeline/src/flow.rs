//! The flow of a run: the threads of each stage, and the channel between each two, in order. [`crate::run()`] is made from this,
//! and ARCHITECTURE.md draws it.
//!
//! ```text
//! read --> decode --> batch --> device --> encode --> commit
//! ```

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use crossbeam_channel::bounded;

use crate::{
    event::StageTimes,
    message::{DecodedSample, ExplainedSample, InputBatch, SampleUpdate, StaleSample},
    stage::Stage,
    timing::{Clock, Inlet, Outlet},
};

/// How many threads or messages; some numbers follow from the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Fixed(usize),
    PerWorker(usize),
    PerDevice(usize),
}

/// As the documentation writes it: `2 · W` is twice the number of workers, `D` the number of devices.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Fixed(count) => write!(f, "{count}"),
            Count::PerWorker(1) => f.write_str("W"),
            Count::PerWorker(count) => write!(f, "{count} · W"),
            Count::PerDevice(1) => f.write_str("D"),
            Count::PerDevice(count) => write!(f, "{count} · D"),
        }
    }
}

/// The threads of a stage.
const fn threads(stage: Stage) -> Count {
    match stage {
        Stage::Read | Stage::Batch | Stage::Commit => Count::Fixed(1),
        // Pools of their own: blocked decoders do not hold up encoders.
        Stage::Decode | Stage::Encode => Count::PerWorker(1),
        Stage::Device => Count::PerDevice(1),
    }
}

/// The next sample is at hand for each decoder, and masks in documents (up to 16 MiB each) do not pile up.
pub(crate) const STALE: Channel<StaleSample> = Channel::new([Stage::Read, Stage::Decode], Count::PerWorker(2));

/// With the look-ahead of the batcher this bounds the images in memory.
pub(crate) const DECODED: Channel<Box<DecodedSample>> = Channel::new([Stage::Decode, Stage::Batch], Count::PerWorker(1));

/// One batch waits for each that is on a device, so that no device ever does.
pub(crate) const BATCHES: Channel<InputBatch> = Channel::new([Stage::Batch, Stage::Device], Count::PerDevice(1));

/// The heatmaps of one batch wait for encoders while the device makes the next.
pub(crate) const EXPLAINED: Channel<Vec<ExplainedSample>> = Channel::new([Stage::Device, Stage::Encode], Count::PerDevice(1));

/// Complete files that wait for the database hold no pixels, only names (or inline maps).
pub(crate) const UPDATES: Channel<SampleUpdate> = Channel::new([Stage::Encode, Stage::Commit], Count::Fixed(64));

/// A bounded channel between two stages.
pub(crate) struct Channel<T> {
    between: [Stage; 2],
    capacity: Count,
    holds: PhantomData<fn(T)>,
}

impl<T> Channel<T> {
    const fn new(between: [Stage; 2], capacity: Count) -> Self {
        Channel { between, capacity, holds: PhantomData }
    }
}

/// The flow of one run: how large it is, and where the time of each stage goes.
pub(crate) struct Flow {
    num_workers: usize,
    num_devices: usize,
    clocks: [Clock; Stage::ALL.len()],
}

impl Flow {
    pub(crate) fn new(num_workers: usize, num_devices: usize) -> Self {
        Flow { num_workers, num_devices, clocks: Stage::ALL.map(|_| Clock::default()) }
    }

    fn number(&self, count: Count) -> usize {
        match count {
            Count::Fixed(count) => count,
            Count::PerWorker(count) => count * self.num_workers,
            Count::PerDevice(count) => count * self.num_devices,
        }
    }

    /// How many threads a stage has.
    pub(crate) fn num_threads(&self, stage: Stage) -> usize {
        self.number(threads(stage))
    }

    /// Makes a channel; its ends measure how long the stages at them wait.
    pub(crate) fn open<T>(&self, channel: Channel<T>) -> (Outlet<'_, T>, Inlet<'_, T>) {
        let [from, to] = channel.between.map(|stage| self.clock(stage));
        let (sender, receiver) = bounded(self.number(channel.capacity));
        (Outlet::new(sender, from), Inlet::new(receiver, to))
    }

    pub(crate) fn clock(&self, stage: Stage) -> &Clock {
        &self.clocks[stage as usize]
    }

    /// Where the time of each stage went.
    pub(crate) fn times(&self) -> BTreeMap<Stage, StageTimes> {
        Stage::ALL.map(|stage| (stage, self.clock(stage).times(self.num_threads(stage)))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of a channel in the documentation, without the reason.
    fn row<T>(channel: &Channel<T>) -> String {
        let [from, to] = channel.between;
        let holds = std::any::type_name::<T>().replace("alloc::boxed::Box<", "").replace("alloc::vec::Vec<", "Vec<");
        let name = holds.trim_end_matches('>').rsplit("::").next().unwrap_or_default();
        let holds = if holds.starts_with("Vec<") { format!("Vec<{}>", name.trim_start_matches("Vec<")) } else { name.to_owned() };
        format!("| {from} → {to} | `{holds}` | {} |", channel.capacity)
    }

    fn capacities() -> [Count; Stage::ALL.len() - 1] {
        [STALE.capacity, DECODED.capacity, BATCHES.capacity, EXPLAINED.capacity, UPDATES.capacity]
    }

    /// ARCHITECTURE.md, with the picture of a run first and the table of channels behind it.
    fn documentation() -> String {
        std::fs::read_to_string("../../ARCHITECTURE.md").expect("the documentation")
    }

    #[test]
    fn each_stage_hands_on_to_the_next() {
        let between = [STALE.between, DECODED.between, BATCHES.between, EXPLAINED.between, UPDATES.between];
        assert!(between.iter().zip(Stage::ALL.windows(2)).all(|(between, stages)| between == stages), "{between:?}");
    }

    #[test]
    fn the_table_of_channels_is_that_of_the_code() {
        let documentation = documentation();
        let written: Vec<&str> = documentation.lines().filter(|line| line.starts_with("| ") && line.contains(" → ")).collect();
        let rows = [row(&STALE), row(&DECODED), row(&BATCHES), row(&EXPLAINED), row(&UPDATES)];
        let is_same = written.len() == rows.len() && written.iter().zip(&rows).all(|(written, row)| written.starts_with(row));
        assert!(is_same, "ARCHITECTURE.md has {written:#?}, the code {rows:#?}");
    }

    #[test]
    fn the_picture_of_a_run_is_that_of_the_code() {
        let documentation = documentation();
        let lines: Vec<&str> = documentation.lines().collect();
        let stages = lines.iter().position(|line| line.trim_start().starts_with("read ==")).expect("the picture of a run");
        let arrows = |part: &str| part.chars().all(|c| matches!(c, '=' | '-' | '>'));
        let words = |line: &str| line.split_whitespace().filter(|word| !arrows(word)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[stages]), Stage::ALL.map(|stage| stage.to_string()), "stages");
        // Capacities stand over the arrows, between the ways from and to the database.
        let above = words(lines[stages - 1]).join(" ").replace("2 W", "2 · W");
        let wanted = capacities().map(|capacity| capacity.to_string()).join(" ");
        assert_eq!(above.trim_matches(['v', '|', ' ']), wanted, "capacities");
        let below = words(lines[stages + 1]).join(" ").replace("threads", "thread");
        assert_eq!(below, Stage::ALL.map(|stage| format!("{} thread", threads(stage))).join(" "), "threads");
    }
}
