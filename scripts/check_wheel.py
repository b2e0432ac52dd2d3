"""Check a wheel that is to be published: whom it installs for, what it says, and what is in it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

#: The newest C library that it may need: of Debian 10, RHEL 8 and Ubuntu 20.04.
GLIBC = (2, 28)
#: In bytes; PyPI takes 100 MB, and who installs it waits for all of them.
LARGEST = 20_000_000


def problems(wheel: Path) -> list[str]:
    """Say what is wrong with a wheel."""
    found = []
    _, _, _, tags = parse_wheel_filename(wheel.name)
    for tag in tags:
        if tag.abi != "abi3" or tag.interpreter != "cp311":
            found.append(f"it is for {tag}, and not for every Python from 3.11")
        glibc = re.fullmatch(r"manylinux_(\d+)_(\d+)_\w+", tag.platform)
        if glibc and (int(glibc[1]), int(glibc[2])) > GLIBC:
            found.append(f"{tag.platform} is newer than many servers' systems")
    if not tags & {*sys_tags()}:
        found.append("it cannot be installed here")
    if wheel.stat().st_size > LARGEST:
        found.append(f"it has {wheel.stat().st_size:,} bytes, and {LARGEST:,} are enough")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = HeaderParser().parsestr(
            archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        )
        if about["License-Expression"] != "MIT OR Apache-2.0":
            found.append("its metadata do not say the licence")
        if not about.get_all("Project-URL"):
            found.append("its metadata do not say where it lives")
        found += [
            f"{file} is not in it"
            for file in ("LICENSE-MIT", "LICENSE-APACHE")
            if not any(name.endswith(f"/licenses/{file}") for name in names)
        ]
        if not any(".dist-info/sboms/" in name for name in names):
            found.append("no bill of materials says which crates are in it")
        if "redfloe/py.typed" not in names or "redfloe/_core.pyi" not in names:
            found.append("its types are not in it")
        strange = [name for name in names if not name.startswith(("redfloe/", "redfloe-"))]
        if strange:
            found.append(f"{strange[0]} is none of ours")
        with TemporaryDirectory() as folder:
            library = archive.extract("redfloe/_core.abi3.so", folder)
            found += library_problems(library)
    return found


def library_problems(library: str) -> list[str]:
    """Say what is wrong with the extension module."""
    found = []
    sections = _output("readelf", "--sections", "--wide", library)
    if ".symtab" in sections or ".debug_info" in sections:
        found.append("the extension module is not stripped")
    needed = {
        (int(major), int(minor))
        for major, minor in re.findall(
            r"GLIBC_(\d+)\.(\d+)", _output("readelf", "--dyn-syms", "--wide", library)
        )
    }
    if needed and max(needed) > GLIBC:
        found.append(f"the extension module needs glibc {max(needed)}")
    return found


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Print what is wrong with the wheels that are named; say whether there is anything."""
    wrong = 0
    for wheel in map(Path, sys.argv[1:]):
        found = problems(wheel)
        wrong += len(found)
        for problem in found:
            print(f"{wheel.name}: {problem}", file=sys.stderr)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(found)} problems")
    return 1 if wrong or len(sys.argv) == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
