"""The site builds without a warning, and what README and docs/ say to type runs as printed."""

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from orpo.commands import data, evaluate
from orpo.commands.main import COMMANDS, main
from tests.documents import ROOT, Workplace, blocks_of, workplace
from tests.evaluate.judge.server import Asked, ScriptedServer, longer
from tests.evaluate.small_alpaca import write_set
from tests.evaluate.small_mt_bench import small_benchmark
from tests.report.test_pages_in_browser import Browser, browser

__all__ = ["browser"]

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TO_RUN = [page for page in PAGES if {b.kind for b in blocks_of(page)} & {"sh", "python"}]
KINDS = {"sh", "python", "yaml", "json", "text", "math", "bash", "diff"}
BESIDE = ("benchmarks", "examples", "notebooks", "recipes", "scripts", "src")
NEEDS_MORE = ("TOKENIZER", "postgresql://host", "pip install")
"""In what is shown and not run: another tokenizer, several machines, the network."""
_COMMAND = re.compile(r"^(orpo|python|pip|make|accelerate|torchrun) ", re.M)
_INDENTED = re.compile(r"^    (orpo|python|pip|make|accelerate|torchrun) ", re.M)


def _reply(asked: Asked) -> str:
    """What the documents' servers say: a judge's verdict where one is asked for, or an answer."""
    if "<<<REQUEST" in asked.last:
        return str(longer(asked))
    return "Rating: [[7]]" if "[[" in asked.text else "The answer is 25."


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """The repository's folder as a reader of README.md leaves it, and the servers of a reader.

    Benchmarks that a reader would fetch are small ones in the same formats.
    """
    folder = tmp_path_factory.mktemp("readme")
    for name in BESIDE:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    with ScriptedServer(_reply) as server, workplace(folder) as bare:
        servers = dict.fromkeys(("OPENAI_BASE_URL", "JUDGE_URL", "SERVER"), server.url)
        cache = {"HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("datasets"))}
        place = replace(bare, environment={**bare.environment, **servers, **cache})
        assert place.run("orpo demo").returncode == 0  # `make demo` in an environment that is there
        assert place.follow(ROOT / "README.md", skip=("make demo",)) >= 4
        small_benchmark(folder / "mt_bench")
        write_set(folder / "alpaca_eval")
        yield place


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_readme_runs_as_printed(read: Workplace) -> None:
    assert (read.folder / "orpo-demo" / "report.html").is_file()
    assert (read.folder / "run" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_of_a_page_runs_as_printed(page: Path, read: Workplace, tmp_path: Path) -> None:
    """In order, in a copy of the folder that the README leaves."""
    folder = shutil.copytree(read.folder, tmp_path / "folder", symlinks=True)
    replace(read, folder=Path(folder)).follow(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_nothing_to_type_hides_from_the_tests(page: Path) -> None:
    """A command stands in a block that is run; a shell reads the scripts of a cluster."""
    assert not _INDENTED.search(page.read_text(encoding="utf-8"))
    for block in blocks_of(page):
        assert block.kind in KINDS, f"{page.name}:{block.line}"
        if block.kind == "text" and not any(words in block.text for words in NEEDS_MORE):
            assert not _COMMAND.search(block.text), f"{page.name}:{block.line}"
        if block.kind == "bash":
            assert block.title, f"{page.name}:{block.line}: a script has a name, a command is sh"
            subprocess.run(["bash", "-n"], input=block.text.encode(), check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a strict build: a broken link, or a page that is not in `nav`, is an error."""
    config = pytest.importorskip("mkdocs.config")
    from mkdocs.commands.build import build

    folder = tmp_path_factory.mktemp("site")
    where = {"site_dir": str(folder), "docs_dir": str(DOCS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # mkdocs' and its plugins' own
        build(config.load_config(str(ROOT / "mkdocs.yml"), strict=True, **where))
    return folder


def test_the_site_builds_without_a_warning_and_asks_nobody(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    fetched = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not fetched.search(text), page.name
        assert "Traceback" not in text
    reference = (site / "api" / "objective.html").read_text(encoding="utf-8")
    assert 'id="orpo.orpo_loss"' in reference
    assert "<math" in (site / "how-it-works.html").read_text(encoding="utf-8")


def test_the_search_works_on_a_page_that_was_opened_from_a_file(
    site: Path, browser: Browser
) -> None:
    address = (site / "api" / "objective.html").as_uri()
    shown = browser(f"{address}?q=lambda", "--virtual-time-budget=60000")
    assert re.search(r"\d+ matching documents", shown.dom)
    assert '<mark data-md-highlight="">' in shown.dom or "<mark>" in shown.dom
    assert shown.requests == []


@pytest.fixture(scope="module")
def reference(site: Path) -> dict[str, set[str]]:
    """The flags of each command, by its words, as the page of all commands has them."""
    page = (site / "api" / "commands.html").read_text(encoding="utf-8")
    told = dict(part.split('">', 1) for part in page.split('<h2 id="')[1:])
    flags = {words: set(re.findall(r"<dt><code>(--\w+)", text)) for words, text in told.items()}
    for words, text in told.items():
        flags[words] |= {"--help", "--json"}
        flags[words] |= flags["orpo-train"] if "Every setting of" in text else set()
    return flags


def test_every_command_and_option_is_in_the_reference(
    reference: dict[str, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    actions = {"data": data.ACTIONS, "evaluate": evaluate.ACTIONS}
    for name in COMMANDS:
        for words in [[name, action] for action in actions.get(name, ())] or [[name]]:
            with suppress(SystemExit):
                main([*words, "--help", "all"])
            flags = re.findall(r"^ +(?:-\w, )?(--\w+)(?![\w-])", capsys.readouterr().out, re.M)
            assert len(flags) > 1
            assert set(flags) <= reference["-".join(("orpo", *words))], words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_flag_that_a_page_names_is_one(page: Path, reference: dict[str, set[str]]) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for words, rest in re.findall(r"\borpo ((?:data |evaluate )?[a-z][a-z-]+)([^`\n|#]*)", text):
        known = reference.get(f"orpo-{words.replace(' ', '-')}")
        flags = re.findall(r"(?<!\S)--[a-z][\w-]*", rest.partition(" -- ")[0])
        if known is not None:
            assert {flag.replace("-", "_").replace("__", "--", 1) for flag in flags} <= known


@pytest.mark.parametrize("name", ["demo", "pipelines"])
def test_a_picture_is_what_its_script_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = __import__({"demo": "draw_result", "pipelines": "draw_pipelines"}[name])
    numbers = script.json.loads(script.NUMBERS.read_text(encoding="utf-8"))
    assert script.picture(numbers) == script.PICTURE.read_text(encoding="utf-8")
