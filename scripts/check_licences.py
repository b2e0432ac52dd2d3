"""Check that each dependency may be passed on: crates that the wheel contains, and packages.

Crates come from `cargo metadata`, Python packages from the environment that runs this: those that
redfloe and its extras need, as far as they are installed there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip

#: Licences that are none of those, and why these packages may be needed all the same.
EXCEPTIONS = {
    # Weak copyleft, of its own files only: an optional package, which is not in the wheel.
    "tqdm": "MPL-2.0 AND MIT",
    "certifi": "MPL-2.0",
}

#: What classifiers and texts of packages without an SPDX expression mean.
NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD-3-Clause License": "BSD-3-Clause",
}

spdx = get_spdx_licensing()


def is_allowed(expression: str) -> bool:
    """Say whether one of the choices that a licence gives is of allowed ones only."""
    parsed = spdx.parse(expression, validate=True)

    def holds(node: object) -> bool:
        if isinstance(node, spdx.OR):
            return any(map(holds, node.args))
        if isinstance(node, spdx.AND):
            return all(map(holds, node.args))
        return str(node) in ALLOWED

    return holds(parsed)


#: What chooses a crate that has a wheel: redfloe, and redfloe-expressions.
CRATES = ("--features=python", "--manifest-path=expressions/Cargo.toml")


def crates(which: str = CRATES[0]) -> dict[str, str]:
    """Give the licence of each crate that an extension module contains."""
    command = [
        "cargo", "metadata", "--locked", "--format-version=1", which,
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]  # fmt: skip
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    needs = {node["id"]: node["deps"] for node in found["resolve"]["nodes"]}
    waiting, contained = [found["resolve"]["root"]], set()
    while waiting:
        one = waiting.pop()
        if one in contained:
            continue
        contained.add(one)
        waiting += [
            dependency["pkg"]
            for dependency in needs[one]
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        ]
    return {
        f"{package['name']} {package['version']}": (package["license"] or "").replace("/", " OR ")
        for package in found["packages"]
        if package["id"] in contained
    }


def packages() -> dict[str, str]:
    """Give the licence of each Python package that redfloe, or an extra of it, needs."""
    found: dict[str, str] = {}
    extras = metadata.metadata("redfloe").get_all("Provides-Extra") or []
    waiting = [("redfloe", extra) for extra in ["", *extras]]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = licence_of(about)
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                wanted = re.sub(r"[-_.]+", "-", needed.name).lower()
                waiting += [(wanted, one) for one in ["", *needed.extras]]
    return found


def licence_of(about: metadata.PackageMetadata) -> str:
    """Give a package's licence as an SPDX expression, or as it says it."""
    if "License-Expression" in about:
        return about["License-Expression"]
    named = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: OSI Approved :: ")
    ]
    if named:
        return " OR ".join(NAMES.get(name, name) for name in named)
    text = about["License"].split("\n")[0].strip() if "License" in about else ""
    return NAMES.get(text, text)


def main() -> int:
    """Print what may not be used; say whether there is any."""
    wrong = 0
    all_of_them = {**crates(CRATES[0]), **crates(CRATES[1]), **packages()}
    for name, licence in sorted(all_of_them.items()):
        if EXCEPTIONS.get(name) == licence:
            continue
        try:
            is_fine = is_allowed(licence)
        except ExpressionError:
            is_fine = False
        if not is_fine:
            wrong += 1
            print(f"{name}: {licence or 'says no licence'}", file=sys.stderr)
    print(f"licences of {len(all_of_them)} dependencies looked at, {wrong} not allowed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
