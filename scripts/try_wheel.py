"""Try a wheel as a newcomer does: the site's first pages, as copied, in an empty environment.

``make test`` runs all pages with what development needs; this says whether a reader has enough.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
#: The first page, the quickstart, workers, exactly-once processors and typed events.
PAGES = ("index", "guide/quickstart", "guide/workers", "guide/exactly-once", "guide/messages")
#: What comes after it needs a package of its own, which the page names.
UNTIL = "\n## Beside a web service\n"

INSTALL = re.compile(
    r"^pip install '\S+\.whl(?P<extras>\[[\w,]+\])'(?P<others>[^#\n]*)", re.MULTILINE
)
# As in tests/support/pages.py, which needs redfloe; that is not installed here.
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def installation(wheel: Path) -> list[str]:
    """Give what the quickstart has its reader install, with this wheel."""
    line = INSTALL.search(page("guide/quickstart"))
    if line is None:
        msg = "the quickstart does not say how to install the wheel"
        raise ValueError(msg)
    return [f"{wheel.resolve()}{line['extras']}", *line["others"].split()]


def page(name: str) -> str:
    """Give the text of a page, as far as it is run here."""
    return (ROOT / "docs" / f"{name}.md").read_text().partition(UNTIL)[0]


def problems(python: Path, folder: Path) -> list[str]:
    """Run the pages, each in a folder and a process of its own; say what did not go as shown."""
    # Nothing of the checkout may be found, only what was installed.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONIOENCODING": "utf-8"}
    found = []
    for name in PAGES:
        blocks = list(BLOCK.finditer(page(name)))
        program = folder / f"{name.replace('/', '-')}.py"
        program.write_text("\n".join(block["code"] for block in blocks))
        workplace = program.with_suffix("")
        workplace.mkdir()
        done = subprocess.run(
            [python, program],
            capture_output=True,
            check=False,
            cwd=workplace,
            encoding="utf-8",
            env=environment,
            timeout=120,
        )
        if done.returncode:
            found.append(f"{name}: {done.stderr}")
        elif done.stdout != "".join(block["output"] or "" for block in blocks):
            found.append(f"{name} shows something else than its code prints:\n{done.stdout}")
    return found


def main() -> int:
    """Print what went wrong with the wheel that is named; say whether there was anything."""
    (wheel,) = map(Path, sys.argv[1:])
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        venv.create(folder / "environment", with_pip=True)
        python = folder / "environment" / "bin" / "python"
        # What somebody else releases meanwhile is no reason to fail.
        pinned = ["--quiet", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", *pinned, *installation(wheel)], check=True)
        found = problems(python, folder)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{wheel.name}: {len(PAGES)} pages ran as copied, but for {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
