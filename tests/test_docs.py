"""What the documentation claims: its code runs, and prints what is shown."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import polars as pl
import pytest
import redis
import yaml
from nbclient import NotebookClient

import redfloe
from redfloe import _errors, messages
from support.docstrings import add_events, docstrings, run_examples
from support.pages import ENGINES, EXPRESSIONS, ROOT, page_id, python, run_page
from support.server import Server

pytestmark = pytest.mark.usefixtures("server_program")

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
#: Code in these is only shown; `python` is run, and what it prints is the `text` below it.
SHOWN = {"bash", "console", "rust", "text", "yaml"}
#: Their code needs what is not in this environment, and runs where it is.
ELSEWHERE = {*ENGINES, EXPRESSIONS}
#: How pages start a server for a reader who has none.
STARTED_URL = "url = server.start()"

FENCE = re.compile(r"^( *)```(.*)$", re.MULTILINE)


@pytest.fixture
def empty_url(
    any_server: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A server without any key, and frames that print the same everywhere."""
    assert client.dbsize() == 0
    monkeypatch.chdir(tmp_path)  # a page may write files
    with pl.Config(tbl_width_chars=100):
        yield any_server.url


@pytest.fixture
def url(empty_url: str, client: redis.Redis) -> str:
    """A server with the stream `events`, which the examples in docstrings read."""
    add_events(client)
    return empty_url


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_are_of_known_languages(page: Path) -> None:
    fences = FENCE.findall(page.read_text())
    assert not any(indent for indent, _ in fences)  # such a block would not be run
    assert {language for _, language in fences[::2]} <= SHOWN | {"python"}
    assert {rest for _, rest in fences[1::2]} <= {""}
    # An admonition would be shown as it is written, and its text as code.
    assert not re.search(r"^(?:!!!|\?\?\?)", page.read_text(), re.MULTILINE)


def test_yaml_is_yaml() -> None:
    """The manifests are not applied to a cluster here; they are at least well-formed."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    assert len(documents) >= 3
    assert all(isinstance(document, dict) for document in documents)


def in_reading_order() -> list[Path]:
    """The pages with code: README, then those of the navigation, from top to bottom."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\n\n")[0]
    names = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    pages = [ROOT / "README.md", *(ROOT / "docs" / name for name in names)]
    return [page for page in pages if python(page) and page not in ELSEWHERE]


def test_all_code_is_in_the_reading_order() -> None:
    assert set(in_reading_order()) == {page for page in PAGES if python(page)} - ELSEWHERE


@pytest.mark.parametrize("page", in_reading_order(), ids=page_id)
def test_a_page_runs_alone_and_prints_what_it_shows(page: Path, empty_url: str) -> None:
    """As a reader runs it who opens this page first, on a server of the page's own."""
    run_page(page, empty_url, {})


@pytest.mark.timeout(120)
def test_the_pages_run_one_after_the_other_on_one_server(empty_url: str) -> None:
    """As a reader runs them who has a server: no page trips over what others have left there."""
    for page in in_reading_order():
        run_page(page, empty_url, {STARTED_URL: f"url = {empty_url!r}"})


def test_the_readme_works_outside_of_the_repository() -> None:
    """PyPI shows it alone, so its links and pictures are addresses, of files that are here."""
    page = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", page)
    addresses = [link or picture for link, picture in targets]
    assert [target for target in addresses if not re.match(r"https://|#", target)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    ours = re.compile(f"(?:{re.escape(repository)}/blob|{re.escape(raw)})/main/([^#]+)")
    files = [match[1] for target in addresses if (match := ours.match(target))]
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).exists()] == []
    pictures = [picture for _, picture in targets if picture]
    assert len(pictures) == 2
    assert all(picture.startswith(f"{raw}/main/docs/assets/") for picture in pictures)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not re.match(r"https?://|#", target)
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert not missing


EXAMPLES = list(docstrings())


@pytest.mark.parametrize("test", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_examples_in_docstrings(test: doctest.DocTest, url: str) -> None:
    run_examples(test, url)


def test_what_users_call_has_an_example() -> None:
    named = {test.name.partition(":")[2] for test in EXAMPLES}
    functions = {name for name in redfloe.__all__ if inspect.isfunction(getattr(redfloe, name))}
    assert functions >= {"iter_stream", "scan_stream", "stream_batches", "stream_reader"}
    assert functions | {"RedisConnection"} <= named


def test_all_that_is_public_is_in_the_reference() -> None:
    pages = "".join(page.read_text() for page in ROOT.glob("docs/api/*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    # One line shows all of a module.
    assert "redfloe._errors" in shown
    shown |= {f"redfloe.{name}" for name in vars(_errors)}
    missing = {name for name in redfloe.__all__ if f"redfloe.{name}" not in shown}
    assert missing == {"__version__"}


def test_the_table_of_exceptions_is_complete() -> None:
    """Each exception, and the builtin that it is as well."""
    page = (ROOT / "docs/guide/types.md").read_text().partition("## Exceptions")[2]
    shown = dict(re.findall(r"^\| `([\w.]+)` \| (?:`(\w+)` )?\|", page, re.MULTILINE))
    errors = {name: value for name, value in vars(redfloe).items() if _is_error(value)}
    errors |= {
        f"messages.{name}": value for name, value in vars(messages).items() if _is_error(value)
    }
    del errors["RedfloeError"]
    assert shown == {name: _builtin_of(value) for name, value in errors.items()}


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, redfloe.RedfloeError)


def _builtin_of(error: type) -> str:
    """The base beside `RedfloeError` that is shown."""
    names = [base.__name__ for base in error.__bases__ if base is not redfloe.RedfloeError]
    return "".join(names)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=page_id)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    book = nbformat.read(notebook, as_version=4)
    # The site and GitHub show the outputs that it has.
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=120, kernel_name="python3", resources=resources).execute()


def test_readme_and_first_page_say_what_the_tables_say() -> None:
    """The number and the chart are written from the tables of docs/performance.md."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benches" / "summary.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_text_on_performance_has_no_figures_of_its_own() -> None:
    """The bench writes the tables: a figure in the text would contradict them one day."""
    page = (ROOT / "docs/performance.md").read_text()
    text = re.sub(r"^(\||#|`make bench`).*$", "", page, flags=re.MULTILINE)
    figures = (
        r"\d[\d.,]* ?(?:s|ms|µs|MB|times|x|%)(?![\w-])|[a-z]+ times as|an? (?:third|tenth|half)\b"
    )
    assert re.findall(figures, text) == []


def test_the_first_page_lists_the_extras() -> None:
    page = (ROOT / "docs/index.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(first_cells))) == {*project["optional-dependencies"]}


#: What read stiffly, and was rewritten: words carried over from another language.
STIFF = re.compile(
    r"\b(with its like|get over its|had come to\b|where it stands|behind the last|time may mend"
    r"|better scanned|does? no harm|(?:needs?|need) not|to be had|hardly what|take note"
    r"|beg(?:in|ins|inning|un) anew|[Ww]hoever)\b"
)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_is_in_plain_english(page: Path) -> None:
    text = re.sub(r"^#.*$|`[^`]*`", "", page.read_text(), flags=re.MULTILINE)
    assert [match[0] for match in STIFF.finditer(" ".join(text.split()))] == []


def test_the_tests_that_a_page_names_are_there() -> None:
    """The table of what is shown where must not outlive what it names."""
    page = (ROOT / "docs/guide/coming-from.md").read_text()
    sources = "".join(path.read_text() for path in ROOT.glob("tests/test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 20
    assert named <= set(re.findall(r"def (test_\w+)", sources))
    files = set(re.findall(r"`(tests/test_\w+\.py)`", page))
    assert all((ROOT / file).exists() for file in files)
