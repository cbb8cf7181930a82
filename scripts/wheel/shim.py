"""The part of camflow that is compiled for each torch: a shared library with a C interface in front of libtorch.

What the program calls are C functions, tch's (`at_…`, `atg_…`) and camflow's own (`cf_…`). Behind them is C++, whose interface is
another one in each torch. So the program is linked once, with a library of nothing but these names (`stub`), and the library that
it loads is compiled for each torch, with the functions that the program calls and no others: what tch offers beside them need not
compile with every torch (`source`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN_SOURCES = sorted((ROOT / "src" / "torch" / "src" / "program").glob("*.cpp"))
# A function of tch's generated file begins in the first column, and so does the brace that ends it.
GENERATED_FUNCTION = re.compile(r"^\S[^\n(]*\b(?P<name>\w+)\([^\n]*\) \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)
DECLARATION = re.compile(r"^[a-z][\w ]*[ *]+(?P<name>\w+)\(", re.MULTILINE)


def tch_sources() -> Path:
    """The folder of tch's C++, in the crate that Cargo.lock names."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", f"--manifest-path={ROOT / 'Cargo.toml'}"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["packages"]
    [manifest] = [package["manifest_path"] for package in packages if package["name"] == "torch-sys"]
    return Path(manifest).parent / "libtch"


def offered(tch: Path) -> list[str]:
    """The C functions of tch and of camflow."""
    files = [tch / "torch_api.h", tch / "torch_api_generated.h", *OWN_SOURCES]
    names = {match["name"] for file in files for match in DECLARATION.finditer(file.read_text())}
    return sorted(name for name in names if re.match(r"(at|atc|atg|atm|ati|ato|ats|cf)_|get_and_reset_last_err$", name))


def called(program: Path, tch: Path) -> list[str]:
    """Those that `program` calls."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", "--just-symbols", program], check=True, capture_output=True, text=True
    )
    return sorted(set(offered(tch)) & set(listed.stdout.split()))


def source(names: list[str], tch: Path) -> str:
    """One file of C++ with the functions `names`: one, because reading torch's headers is most of the work."""
    generated = {match["name"]: match[0] for match in GENERATED_FUNCTION.finditer((tch / "torch_api_generated.cpp").read_text())}
    wanted = [name for name in names if name.startswith("atg_")]
    if missing := [name for name in wanted if name not in generated]:
        sys.exit(f"error: `{tch / 'torch_api_generated.cpp'}` does not define {', '.join(missing)}")
    includes = [f'#include "{file}"' for file in [*OWN_SOURCES, tch / "torch_api.cpp", tch / "torch_api_generated.h"]]
    return "\n".join([*includes, "", *(generated[name] for name in wanted)])


def main() -> None:
    """`shim.py stub FILE` and `shim.py source PROGRAM FOLDER`, which also writes which symbols the library shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stub").add_argument("file", type=Path)
    of_program = commands.add_parser("source")
    of_program.add_argument("program", type=Path)
    of_program.add_argument("folder", type=Path)
    args = parser.parse_args()
    tch = tch_sources()
    if args.command == "stub":
        args.file.write_text("".join(f"void {name}(void) {{}}\n" for name in offered(tch)))
        return
    names = called(args.program, tch)
    (args.folder / "shim.cpp").write_text(source(names, tch))
    (args.folder / "shim.map").write_text(f"{{ global: {' '.join(f'{name};' for name in names)} local: *; }};\n")
    # Where the sources look for tch's headers.
    (args.folder / "tch").unlink(missing_ok=True)
    (args.folder / "tch").symlink_to(tch)
    print(f"{len(names)} functions")


if __name__ == "__main__":
    main()
