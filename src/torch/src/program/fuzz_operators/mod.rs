//! Every admitted operator, called with nonsense in child processes: none of them may end by a signal. What a kernel does beside
//! its memory shows as one, sooner or later; the sizes and numbers here are chosen so that it is sooner.
//!
//! `CAMFLOW_FUZZ_CALLS` says how often each is called (2 is little, 300 takes half an hour). `CAMFLOW_FUZZ_SEED` changes the calls.

mod maker;

use std::{
    env, fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use tch::{Kind, Tensor};

use super::{
    dispatch::{Input, Operator, Output},
    operators,
};
use maker::{Made, Maker, Random};

/// Calls of each operator, where nothing else is said.
const ROUNDS: u64 = 2;
/// Bytes of addresses that a child may use: what asks for more is refused, and harms nobody beside it.
const MEMORY: u64 = 8 << 30;
/// Seconds after which a call is given up: some of the nonsense is much work.
const PATIENCE: u32 = 10;

/// An operator of libtorch's registry: name, overload, and its arguments as they are declared.
struct Declared {
    name: String,
    overload: String,
    arguments: Vec<(String, String)>,
}

/// What the allow list admits of the registry, without overloads that the planner refuses by their schema.
fn declared() -> Vec<Declared> {
    let header = Path::new(env!("CAMFLOW_LIBTORCH_LIB")).with_file_name("include").join("ATen/RegistrationDeclarations.h");
    let text = fs::read_to_string(&header).expect("libtorch's headers");
    let schemas = text.lines().filter_map(|line| line.split_once("{\"schema\": \"aten::")?.1.split_once("\", \"dispatch\""));
    let declared = schemas.filter_map(|(schema, _)| {
        let (full, rest) = schema.split_once('(')?;
        let (name, overload) = full.split_once('.').unwrap_or((full, ""));
        let arguments = rest.rsplit_once(" -> ")?.0.trim_end_matches(')');
        let arguments = arguments.split(", ").filter(|argument| !argument.is_empty() && *argument != "*").map(|argument| {
            let argument = argument.split('=').next().unwrap_or(argument);
            let (kind, name) = argument.rsplit_once(' ').unwrap_or((argument, ""));
            (name.to_owned(), kind.to_owned())
        });
        Some(Declared { name: name.to_owned(), overload: overload.to_owned(), arguments: arguments.collect() })
    });
    let admitted = declared.filter(|declared| operators::is_admitted(&declared.name));
    admitted.filter(|declared| find(declared).is_some()).collect()
}

fn find(declared: &Declared) -> Option<Operator> {
    let operator = Operator::find(&format!("aten::{}", declared.name), &declared.overload)?;
    let is_runnable = operator.arguments.iter().all(|argument| !argument.is_out);
    is_runnable.then_some(operator)
}

/// One call, and the gradient of what came of it. Whether the operator took it.
fn call(declared: &Declared, operator: &Operator, seed: u64) -> bool {
    tch::manual_seed(seed as i64);
    let mut maker = Maker::new(Random::new(seed));
    let made: Vec<Made> = declared
        .arguments
        .iter()
        .zip(&operator.arguments)
        .map(|((name, kind), argument)| maker.argument(name, kind, argument.has_default))
        .collect();
    let pointers: Vec<Vec<_>> = made
        .iter()
        .map(|made| match made {
            Made::Tensors(tensors) => tensors.iter().map(|tensor| tensor.as_ptr()).collect(),
            _ => Vec::new(),
        })
        .collect();
    let inputs: Vec<Input<'_>> = made
        .iter()
        .zip(&pointers)
        .map(|(made, pointers)| match made {
            Made::Default => Input::Default,
            Made::None => Input::None,
            Made::Tensor(tensor) => Input::Tensor(tensor),
            Made::Tensors(_) => Input::Tensors(pointers),
            Made::Int(number) => Input::Int(*number),
            Made::Float(number) => Input::Float(*number),
            Made::Bool(truth) => Input::Bool(*truth),
            Made::Str(word) => Input::Str(word),
            Made::Ints(list) => Input::Ints(list),
            Made::Floats(list) => Input::Floats(list),
            Made::Bools(list) => Input::Bools(list),
        })
        .collect();
    let Ok(outputs) = operator.call(&inputs) else { return false };
    let tensors = outputs.into_iter().flat_map(|output| match output {
        Output::Tensor(tensor) => vec![tensor],
        Output::Tensors(list) => list,
        _ => Vec::new(),
    });
    let mut total: Option<Tensor> = None;
    for tensor in tensors.filter(|tensor| tensor.defined() && is_small(tensor)) {
        // Reads every number.
        let Ok(sum) = tensor.f_abs().and_then(|far| far.f_sum(Kind::Float)) else { continue };
        if sum.requires_grad() {
            total = Some(total.map_or_else(|| sum.shallow_clone(), |total| total + &sum));
        }
    }
    if let Some(total) = total {
        let _ = total.f_backward();
    }
    true
}

/// The work of a child: the operators from `first` on, the first of them from `round` on. Says before each call which it is.
fn work(first: usize, round: u64, rounds: u64, seed: u64, said: &Path) {
    tch::set_num_threads(1);
    let limit = libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY };
    // SAFETY: a limit of this process.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
    let mut said = fs::OpenOptions::new().append(true).open(said).expect("the parent's file");
    for (index, declared) in declared().iter().enumerate().skip(first) {
        let operator = find(declared).expect("it is declared");
        let mut taken = 0;
        for round in if index == first { round } else { 0 }..rounds {
            writeln!(said, "{index} {round}").expect("the parent's file");
            // SAFETY: sets a timer whose signal ends this process.
            unsafe { libc::alarm(PATIENCE) };
            let seed = seed.wrapping_mul(0x1_0001).wrapping_add(blake3_of(declared)).wrapping_add(round);
            taken += u64::from(call(declared, &operator, seed));
        }
        writeln!(said, "taken {taken}").expect("the parent's file");
    }
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
}

/// So that calls stay the same when operators are added.
fn blake3_of(declared: &Declared) -> u64 {
    let digest = blake3::hash(format!("{}.{}", declared.name, declared.overload).as_bytes());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("eight bytes"))
}

#[test]
fn no_admitted_operator_ends_the_process() {
    let number = |name: &str, default: u64| env::var(name).map_or(default, |text| text.parse().expect(name));
    let (rounds, seed) = (number("CAMFLOW_FUZZ_CALLS", ROUNDS), number("CAMFLOW_FUZZ_SEED", 1));
    if let Ok(from) = env::var("CAMFLOW_FUZZ_FROM") {
        let (first, round) = from.split_once(' ').expect("two numbers");
        let said = env::var("CAMFLOW_FUZZ_SAID").expect("the parent's file");
        return work(first.parse().expect("a number"), round.parse().expect("a number"), rounds, seed, Path::new(&said));
    }
    let declared = declared();
    assert!(declared.len() > 600, "only {} operators", declared.len());
    let folder = tempfile::tempdir().expect("a folder");
    let said = folder.path().join("said");
    let (mut from, mut deaths, mut slow, mut taken, mut calls) = ((0, 0), Vec::new(), 0, 0, 0);
    loop {
        fs::write(&said, "").expect("a file");
        let mut child = Command::new(env::current_exe().expect("this program"));
        child
            .args(["program::fuzz_operators::no_admitted_operator_ends_the_process", "--exact", "--nocapture"])
            .env("CAMFLOW_FUZZ_FROM", format!("{} {}", from.0, from.1))
            .env("CAMFLOW_FUZZ_SAID", &said)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("errors")).expect("a file"));
        // glibc looks at its heap with every call then, so that a kernel which wrote beside its memory is caught at once.
        if rounds > ROUNDS {
            child.env("LD_PRELOAD", "libc_malloc_debug.so.0").env("MALLOC_CHECK_", "3");
        }
        let status = child.status().expect("a child");
        let text = fs::read_to_string(&said).expect("a file");
        taken += text.lines().filter_map(|line| line.strip_prefix("taken ")?.parse::<u64>().ok()).sum::<u64>();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("taken")).collect();
        calls += lines.len();
        let Some(signal) = status.signal() else {
            let errors = || fs::read_to_string(folder.path().join("errors")).unwrap_or_default();
            assert!(status.success(), "a child failed: {status}, after {:?}: {}", lines.last(), errors());
            break;
        };
        let (index, round) = lines.last().and_then(|line| line.split_once(' ')).expect("what the child was doing");
        let (index, round): (usize, u64) = (index.parse().expect("a number"), round.parse().expect("a number"));
        if signal == libc::SIGALRM {
            slow += 1;
        } else {
            deaths.push(format!("aten::{}.{} round {round}: signal {signal}", declared[index].name, declared[index].overload));
        }
        from = (index, round + 1);
    }
    let (count, mut out) = (declared.len(), std::io::stderr());
    let _ = writeln!(out, "{count} operators, {calls} calls, {taken} of them taken, {slow} given up");
    assert!(deaths.is_empty(), "{} calls ended the process:\n{}", deaths.len(), deaths.join("\n"));
    assert!(taken * 4 > calls as u64, "only {taken} of {calls} calls were nearly right");
}

/// Whether a result can be read in a moment. A view may have more places than numbers can count.
fn is_small(tensor: &Tensor) -> bool {
    let count = tensor.size().iter().try_fold(1_i64, |count, side| count.checked_mul(*side));
    count.is_some_and(|count| count < 10_000_000)
}
