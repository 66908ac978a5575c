"""Files of a run folder that anyone may have written: one line, and an honest exit code.

Every file is put through the same mutations. Where a manifest would tell of the change, it is
signed anew, as whoever prepares a folder would. In a folder full of links a run ends well, and
nothing beside it has changed.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import SETTINGS, Orpo

DEEP = 100_000
LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)
WHOLE: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "number": b"5",
    "never closed": b"[" * DEEP,
    "deep": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "NaN": b"NaN",
    "huge number": b'{"step": ' + b"9" * 5000 + b"}\n",
    "not UTF-8": b'{"a": "\xff"}\n',
    "binary": bytes(range(256)) * 10,
    "half a character": b'{"a": "\\ud800"}\n',
    "billion laughs": LAUGHS.encode(),
}
NO_FILE = ("folder", "loop", "pipe", "nothing")
WRONG: tuple[Any, ...] = ("x", [1], {"a": {"b": 1}}, 10**30, -7, None, True, float("nan"))
OF_A_RUN = (
    *("recipe.yaml", "metrics.jsonl", "events.jsonl", "audit.json", "evaluation.json"),
    *("samples.jsonl", "scores.jsonl", "work.json", "trainer_state.json", "manifest.json"),
)
OF_A_MODEL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def mutations(path: Path) -> Iterator[tuple[str, bytes | str]]:
    """What takes the place of a file: its name for messages, and bytes or one of `NO_FILE`."""
    content = path.read_bytes()
    yield "half", content[: len(content) // 2]
    yield from WHOLE.items()
    yield from zip(NO_FILE, NO_FILE, strict=True)
    if path.suffix == ".json":
        values = json.loads(content)
        for number, name in enumerate(values):
            wrong = WRONG[number % len(WRONG)]
            yield f"{name} is {wrong!r:.20}", json.dumps({**values, name: wrong}).encode()
            if number % 3 == 0:
                fewer = {n: v for n, v in values.items() if n != name}
                yield f"no {name}", json.dumps(fewer).encode()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        for number, name in enumerate({name: None for row in rows for name in row}):
            wrong = WRONG[number % len(WRONG)]
            lines = "".join(json.dumps({**row, name: wrong}) + "\n" for row in rows)
            yield f"{name} is {wrong!r:.20}", lines.encode()
        yield "a line is a list", b"[1]\n" + content
        yield "a line is deep", b"[" * DEEP + b"\n" + content
    elif path.suffix == ".safetensors":
        yield from _headers(content)


def _headers(content: bytes) -> Iterator[tuple[str, bytes]]:
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    first, second = [name for name in header if name != "__metadata__"][:2]

    def with_header(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data

    def with_first(**changed: Any) -> bytes:
        return with_header(json.dumps({**header, first: {**header[first], **changed}}).encode())

    yield "length 2^60", (2**60).to_bytes(8, "little") + content[8:]
    yield "length 2^64", b"\xff" * 8 + content[8:]
    yield "length 0", bytes(8) + content[8:]
    yield "no JSON", with_header(b"x" * length)
    yield "a list", with_header(b"[]")
    yield "deep", with_header(b"[" * DEEP)
    yield "overlapping", with_first(data_offsets=header[second]["data_offsets"])
    yield "beyond the end", with_first(data_offsets=[0, 2**62])
    yield "huge shape", with_first(shape=[2**40, 2**40])
    yield "another shape", with_first(shape=[1])
    yield "unknown dtype", with_first(dtype="Q7")


def some(path: Path, part: int = 5) -> Iterator[tuple[str, bytes | str]]:
    """A part of them, another one for each file, where a command takes its time."""
    yield from itertools.islice(mutations(path), len(path.name) % part, None, part)


def put(path: Path, what: bytes | str) -> None:
    """Let something else stand where a file was."""
    clear(path)
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif isinstance(what, bytes):
        path.write_bytes(what)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sign(folder: Path) -> None:
    """Make the manifest agree with the files that are there, and with itself."""
    path = folder / "manifest.json"
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
        body = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        body.pop("sha256", None)
        for name, facts in body.get("files", {}).items():
            content = (folder / name).read_bytes() if (folder / name).is_file() else b""
            digest = hashlib.sha256(content).hexdigest()
            facts.update({"size": len(content), "sha256": digest})
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**body, "sha256": digest}, indent=1) + "\n")


def refused_or_done(orpo: Orpo, told: str, *words: object, codes: tuple[int, ...] = (0, 2)) -> int:
    """The exit code; a refusal is one line, and nothing that went wrong is told as a traceback."""
    code = orpo(*words)
    errors = [line for line in orpo.err.splitlines() if line.startswith("error: ")]
    assert code in codes, (told, orpo.err)
    assert "Traceback" not in orpo.err, (told, orpo.err)
    assert code == 0 or len(errors) == 1, (told, orpo.err)
    return code


@pytest.mark.parametrize("name", [*OF_A_RUN, *OF_A_MODEL, "model.safetensors"])
def test_doctor_looks_at_anything(orpo: Orpo, copied_runs: Path, runs: Path, name: str) -> None:
    run = copied_runs / "run"
    shutil.rmtree(run / "checkpoint-2")
    for told, what in some(runs / "run" / name, 3):
        put(run / name, what)
        if name in OF_A_MODEL or name == "model.safetensors":
            sign(run)
        code = refused_or_done(orpo, told, "doctor", run, "--json", codes=(0, 1))
        found = json.loads(orpo.out)
        assert found["sound"] is (code == 0), told
        clear(run / name)


@pytest.mark.parametrize("name", OF_A_RUN[:8])
def test_a_report_is_drawn_or_refused(orpo: Orpo, copied_runs: Path, runs: Path, name: str) -> None:
    run = copied_runs / "run"
    for told, what in some(runs / "run" / name, 11):
        put(run / name, what)
        refused_or_done(orpo, told, "report", run)
        clear(run / name)


@pytest.mark.parametrize(
    "name", ["progress.json", "trainer_state.json", "manifest.json", "recipe.yaml", "metrics.jsonl"]
)
def test_a_run_does_not_go_on_from_nonsense(
    orpo: Orpo, tiny: Path, copied_runs: Path, runs: Path, name: str
) -> None:
    """The checkpoint is refused before anything is written, or the run goes on and ends well."""
    for told, what in some(runs / "run/checkpoint-2" / name, 13):
        run = copied_runs / "going-on"
        (run / "checkpoint-2").mkdir(parents=True)
        for path in (runs / "run/checkpoint-2").iterdir():
            shutil.copy(path, run / "checkpoint-2" / path.name)
        put(run / "checkpoint-2" / name, what)
        sign(run / "checkpoint-2")
        data = ("--model", tiny, "--dataset", copied_runs / "pairs.jsonl", "--output_dir", run)
        code = refused_or_done(orpo, told, "train", *data, *SETTINGS, "--resume")
        written = {path.name for path in run.iterdir()}
        assert code == 0 or written == {"checkpoint-2"}, (told, orpo.err)
        shutil.rmtree(run)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json"])
@pytest.mark.parametrize("what", ["list", "binary"])
def test_a_state_that_cannot_be_loaded(
    orpo: Orpo, tiny: Path, copied_runs: Path, name: str, what: str
) -> None:
    checkpoint = copied_runs / "run/checkpoint-4"
    (copied_runs / "run/manifest.json").unlink()
    put(checkpoint / name, WHOLE[what])
    sign(checkpoint)
    data = (
        "--model",
        tiny,
        "--dataset",
        copied_runs / "pairs.jsonl",
        "--output_dir",
        copied_runs / "run",
    )
    changed = ("--resume", "--resume_changed", "true")
    refused_or_done(orpo, name, "train", *data, *SETTINGS, *changed)


@pytest.mark.parametrize("name", [*OF_A_MODEL, "model.safetensors"])
def test_a_model_answers_or_is_refused(
    orpo: Orpo, copied_runs: Path, runs: Path, name: str
) -> None:
    run = copied_runs / "run"
    for told, what in some(runs / "run" / name):
        if name == "tokenizer.json" and not isinstance(what, bytes):
            continue
        put(run / name, what)
        sign(run)
        words = ("generate", run, copied_runs / "prompts.txt", "--max_new_tokens", 1)
        refused_or_done(orpo, told, *words)
        clear(run / name)


@pytest.mark.filterwarnings("ignore")  # peft's advice on what it can make sense of
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_is_merged_or_refused(
    orpo: Orpo, copied_runs: Path, runs: Path, name: str
) -> None:
    run = copied_runs / "lora"
    for told, what in some(runs / "lora" / name, 3):
        put(run / name, what)
        sign(run)
        refused_or_done(orpo, told, "merge", run, copied_runs / "merged")
        clear(run / name)
        shutil.rmtree(copied_runs / "merged", ignore_errors=True)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        LAUGHS.replace("{<<: ", "").replace("}", ""),
        "a: &a [*a]",
        "[" * DEEP,
        "- " * DEEP,
        "model: m\nmodel: other",
        "model: !!python/object/apply:os.system ['false']",
        "max_steps: 0x" + "f" * 100_000,
        "max_steps: " + "9" * 5000,
        "seed: !!int x",
        "seed: !!bool x",
        "seed: 2026-99-99",
        "model: '" + "x" * 2**21 + "'",
        "? [a]\n: 1",
        "model: *nothing",
        "model: \x00",
        "model: m\n---\nmodel: other",
    ],
    ids=range(17),
)
def test_a_recipe_that_cannot_be_meant(orpo: Orpo, tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    refused_or_done(orpo, text[:20], "train", path, codes=(2,))
    assert str(path) in orpo.err


def test_a_recipe_may_name_a_value_and_use_it_again(orpo: Orpo, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: &model ./nowhere\ntokenizer: *model\ndataset: [a.jsonl]\n")
    assert orpo("train", path) == 2
    assert "nowhere" in orpo.err  # it was read, and the model is what is missing


# What lies in the place of files

WRITTEN = (
    *("report.html", "README.md", "metrics.jsonl", "events.jsonl", "trainer_state.json"),
    *("recipe.yaml", "evaluation.json", "samples.jsonl", "scores.jsonl", "audit.json", "work.json"),
    *("config.json", "model.safetensors", "tokenizer.json", ".lock"),
    *(".report.html.new", ".recipe.yaml.new", ".metrics.jsonl.new"),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_on_among_links(
    orpo: Orpo, tiny: Path, copied_runs: Path, tmp_path: Path
) -> None:
    run, outside = copied_runs / "run", tmp_path / "outside"
    outside.mkdir()
    (run / "manifest.json").unlink()  # its model is to be saved again
    shutil.rmtree(run / "checkpoint-4")
    for name in WRITTEN:
        (outside / name).write_bytes((run / name).read_bytes() if (run / name).exists() else b"x")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / name)
    (run / "checkpoint-2").rename(outside / "checkpoint-2")
    (run / "checkpoint-2").symlink_to(outside / "checkpoint-2")
    (run / "checkpoint-4").symlink_to(outside / "nowhere")
    (run / "checkpoint-3").write_text("a file")
    before = contents(outside)
    told = ("--model", tiny, "--dataset", copied_runs / "pairs.jsonl", "--output_dir", run)
    told += ("--save_total_limit", 1)
    assert orpo("train", *told, *SETTINGS, "--resume") == 0, orpo.err
    assert contents(outside) == before
    assert not any(path.is_symlink() for path in run.iterdir())
    assert not (run / "checkpoint-2").exists()  # one may stay, and the link was the older one
    assert orpo("doctor", run, "--json") == 0, orpo.out


@pytest.mark.parametrize("stood", ["link", "pipe", "broken link"])
def test_a_report_is_drawn_over_what_is_no_file(
    orpo: Orpo, copied_runs: Path, tmp_path: Path, stood: str
) -> None:
    run = copied_runs / "run"
    page = run / "report.html"
    page.unlink()
    (tmp_path / "victim").write_text("precious")
    if stood == "pipe":
        os.mkfifo(page)
    else:
        page.symlink_to(tmp_path / ("victim" if stood == "link" else "nowhere"))
    assert orpo("report", run) == 0, orpo.err
    assert page.read_text().rstrip().endswith("</html>")
    assert not page.is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    # Where the user names the file, what a link points to is what was meant.
    (tmp_path / "named.html").symlink_to(tmp_path / "victim")
    assert orpo("report", run, "--output", tmp_path / "named.html") == 0
    assert (tmp_path / "victim").read_text().rstrip().endswith("</html>")
    assert orpo("report", run, "--output", "/dev/null") == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("place", ["report.html", "recipe.yaml", "evaluation.json", ".lock"])
def test_a_folder_in_the_place_of_a_file_is_said_before_training(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "run" / place).mkdir(parents=True)
    told = ("--model", tiny, "--dataset", pairs, "--output_dir", tmp_path / "run")
    assert orpo("train", *told, *SETTINGS, "--overwrite") == 2
    assert orpo.err.count("\n") == 1
    assert place in orpo.err or "run: " in orpo.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [place]


def test_an_evaluation_follows_no_link(orpo: Orpo, copied_runs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "loss.svg").write_text("precious")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "figures").symlink_to(outside)
    told = ("--dataset", copied_runs / "pairs.jsonl", "--output_dir", tmp_path / "evaluation")
    assert orpo("evaluate", "preference", copied_runs / "run", *told) == 2
    assert "figures" in orpo.err
    assert contents(outside) == {str(outside / "loss.svg"): b"precious"}


def test_answers_are_not_added_to_a_text_of_someone_else(
    orpo: Orpo, copied_runs: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("a line without an end")
    told = ("--output", precious, "--max_new_tokens", 2)
    assert orpo("generate", copied_runs / "run", copied_runs / "prompts.txt", *told) == 2
    assert precious.read_text() == "a line without an end"
