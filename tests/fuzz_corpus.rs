//! The fuzz targets on every test run, without a fuzzer: their seeds, and a bounded number of mutations of them, always the same
//! ones. No bytes may make a reader panic or take memory beyond what its limits allow.
#![expect(clippy::print_stdout, reason = "figures of a run, shown where the test runner shows output")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use camflow::fuzz::{LIMITS, TARGETS};

/// How often each target is called, where CAMFLOW_FUZZ_ROUNDS does not say another number.
const ROUNDS: usize = 3000;

/// What one call may have in use at once: the decoded pixels in the widest type and their conversions, and JSON as a tree, which
/// takes more than its text.
const MAX_BYTES: usize = 16 * LIMITS.max_bytes as usize;

/// Counts what is in use, and the most of it.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for this function.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// A target's own seeds and, for pictures and arrays, the files that other tests read.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new("");
    let mut paths = files(&root.join("fuzz/seeds").join(target));
    if matches!(target, "npy" | "image" | "mask_file") {
        let is_array = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "npy");
        let all = files(&root.join("src/media/testdata"));
        paths.extend(
            all.into_iter().filter(|path| {
                is_array(path) == (target == "npy") && path.extension().is_some_and(|extension| extension != "py")
            }),
        );
    }
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

/// SplitMix64: any good mixing of a counter will do, and it is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One to four changes of the kinds that break readers.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    const NUMBERS: [&[u8]; 8] = [b"0", b"-1", b"65536", b"4294967295", b"9223372036854775807", b"1e999", b"null", b"[[[[[["];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let length = random.below(64).min(bytes.len() - at);
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            2 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let piece = other[from..].iter().take(length).copied().collect::<Vec<_>>();
                bytes.splice(at..at + length, piece);
            }
            4 => {
                // A number in text becomes another one.
                let digits = bytes[at..].iter().position(u8::is_ascii_digit).map(|skipped| at + skipped);
                if let Some(start) = digits {
                    let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    bytes.splice(start..end, NUMBERS[random.below(NUMBERS.len())].iter().copied());
                }
            }
            5 => {
                // A number in binary becomes an extreme one.
                let value = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                let width = [1, 2, 4, 8][random.below(4)];
                bytes.iter_mut().skip(at).take(width).for_each(|byte| *byte = value);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
}

#[test]
fn no_bytes_break_a_reader() {
    let rounds = std::env::var("CAMFLOW_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut wrong = Vec::new();
    for (name, run) in TARGETS {
        let seeds = seeds(name);
        let mut random = Random(0);
        let mut accepted = 0;
        let mut largest = 0;
        for round in 0..rounds.max(seeds.len()) {
            let mut bytes = seeds[round % seeds.len()].clone();
            // Each seed is read as it is, once.
            if round >= seeds.len() {
                mutate(&mut bytes, &seeds, &mut random);
            }
            let before = IN_USE.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            let outcome = catch_unwind(|| run(&bytes));
            let took = PEAK.load(Ordering::Relaxed) - before;
            largest = largest.max(took);
            if outcome.is_err() || took > MAX_BYTES {
                // To be looked at, and to become a seed.
                let kept = std::env::temp_dir().join(format!("camflow-{name}-{round}"));
                fs::write(&kept, &bytes).expect("a place for what broke it");
                wrong.push(format!("{name}: {} ({took} bytes of memory, panic: {})", kept.display(), outcome.is_err()));
            }
            accepted += usize::from(outcome.unwrap_or(false) && round < seeds.len());
        }
        println!(
            "{name}: {rounds} rounds, {accepted} of {} seeds accepted, at most {} KiB of memory",
            seeds.len(),
            largest >> 10
        );
        assert!(accepted > 0, "{name}: none of its {} seeds is accepted", seeds.len());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_target_can_be_fuzzed() {
    let folder = Path::new("fuzz/fuzz_targets");
    let mut expected: Vec<PathBuf> = TARGETS.iter().map(|(name, _)| folder.join(name).with_extension("rs")).collect();
    expected.sort();
    assert_eq!(files(folder), expected);
    for (name, _) in TARGETS {
        let text = fs::read_to_string(folder.join(name).with_extension("rs")).expect("a target");
        assert!(text.contains(&format!("camflow::fuzz::{name}(bytes)")), "{name} calls another reader");
    }
}
