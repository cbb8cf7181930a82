# Short names for the commands of CONTRIBUTING.md; `just` (cargo install just) lists them. Nothing needs it.

_list:
    @just --list --unsorted

# format, lints, documentation, unit tests: before each commit
fast:
    bash scripts/test.sh fast

# all tests, as CI runs them: before a merge
full:
    bash scripts/test.sh

# the long forms, too: before a release
long:
    bash scripts/test.sh long

# the tests of a crate, or one of them: just rust -p camflow-media, just rust -p camflow-fiftyone a_damaged_file
rust *FLAGS:
    cargo test --locked {{ FLAGS }}

# one test in Python, against the development build: just python test_check.py -k flipped
python FILE *FLAGS:
    cargo build --locked
    cargo build --locked --examples
    .venv/bin/python -m pytest tests/python/{{ FILE }} {{ FLAGS }}

# the documentation site, with warnings as errors; just docs serve
docs *COMMAND="build":
    bash scripts/docs.sh {{ COMMAND }}

# the reference, from the program's own help texts
reference:
    cargo build --locked
    python3 scripts/write_reference.py "${CARGO_TARGET_DIR:-target}/debug/camflow"

# the parts of a run beside the network, each alone
bench *NAME:
    cargo bench -- {{ NAME }}

# Rust and Python as the checks want them
fmt:
    cargo fmt --all
    bash scripts/lint.sh fix

# licences, advisories and sources of the crates
deny:
    cargo deny --locked check
