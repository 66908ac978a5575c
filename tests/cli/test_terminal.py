"""Whatever strangers wrote, and wherever it enters, the terminal shows it as text."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orpo.commands.console import Screen, rows_table
from orpo.commands.data import ACTIONS as DATA
from orpo.commands.evaluate import ACTIONS as EVALUATE
from orpo.commands.main import COMMANDS, main
from orpo.terminal import guarded, json_line, progress_stream, spelled_out
from tests.cli.conftest import Orpo
from tests.evaluate.judge.server import Fail, ScriptedServer
from tests.train.small import write_rows

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\u2066\u200b\x7f"
"""Sets a title, clears the screen, colours, goes back, turns around, hides, deletes."""
NAME = EVIL + "\udcff"
"""The same as a file's name, which need not be UTF-8."""
STEERING = re.compile("[^\n\t\x20-\x7e\xa0-\u2027\u202f-\ud7ff\ue000-\U0010ffff]|[\u200b\u2066]")
WORDS = [
    *([name] for name in COMMANDS if name not in {"data", "evaluate"}),
    *(["data", action] for action in DATA),
    *(["evaluate", action] for action in EVALUATE),
]


def assert_inert(orpo: Orpo) -> None:
    assert STEERING.findall(orpo.out) == []
    assert STEERING.findall(orpo.err) == []


def changed(model: Path, folder: Path, name: str, **entries: Any) -> Path:
    """A copy of a model with other entries in one of its JSON files."""
    copy = Path(shutil.copytree(model, folder, dirs_exist_ok=True))
    told = json.loads((copy / name).read_text(encoding="utf-8"))
    (copy / name).write_text(json.dumps(told | entries), encoding="utf-8")
    return copy


def rows(path: Path, *changes: dict[str, Any]) -> Path:
    first = {"prompt": f"Say {EVIL}", "chosen": f"yes {EVIL}", "rejected": f"no {EVIL}"}
    lines = [{**first, "prompt": f"{n} {EVIL}", "source": EVIL} for n in range(8)]
    return write_rows(path, [*lines, *changes])


@pytest.fixture(scope="module")
def strange(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set, a recipe and a finished run, full of what steers terminals."""
    place = tmp_path_factory.mktemp("strange") / EVIL
    place.mkdir()
    data = rows(place / f"{EVIL}.jsonl", {"prompt": EVIL, "chosen": 5, EVIL: EVIL})
    model = Path(shutil.copytree(tiny, place / "model"))
    recipe = place / "recipe.yaml"
    recipe.write_text(json.dumps({EVIL: EVIL, "model": EVIL}), encoding="utf-8")
    foreign = {"model_name_or_path": EVIL, "dataset": "d", EVIL: EVIL, "template": "default\u2028"}
    (place / "foreign.yaml").write_text(
        yaml.safe_dump({"stage": "dpo", "pref_loss": "orpo", **foreign}), encoding="utf-8"
    )
    run = place / f"run {EVIL}"
    settings = ("--max_steps", "2", "--max_length", "64", "--held_out", "0.3", "--save_steps", "1")
    started = ["train", "--model", str(model), "--dataset", str(data), "--output_dir", str(run)]
    assert main([*started, *settings, "--on_bad_row", "drop"]) == 0
    with (run / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 2, "kind": EVIL, "message": EVIL}) + "\n")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 3, EVIL: 1.0, "loss": EVIL}) + "\n")
    return {"place": place, "data": data, "model": model, "recipe": recipe, "run": run}


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_every_command_shows_what_it_refuses_as_text(
    orpo: Orpo, strange: dict[str, Path], here: Path, words: list[str]
) -> None:
    place = str(strange["place"])
    for given in (
        (f"./{NAME}", f"./{NAME}"),
        (f"--{EVIL}", EVIL),
        ("--model", f"./{NAME}", "--dataset", f"./{NAME}.jsonl"),
        (f"{place}/recipe.yaml",),
        (place,),
    ):
        named = words in (["demo"], ["bench"]) and not given[0].startswith("--")
        code = orpo(*words, *(["--output_dir"] if named else []), *given)
        assert_inert(orpo)
        assert code in {0, 1, 2}
        assert code == 0 or "error: " in orpo.err


@pytest.mark.parametrize(
    "command",
    [
        "doctor RUN",
        "doctor RUN --json",
        "report RUN",
        "push RUN me/mine --dry_run",
        "push RUN me/mine --dry_run --json",
        "merge RUN OUT",
        "export RUN OUT --llama_cpp RUN",
        "serve RUN --dry_run",
        "generate RUN DATA --max_new_tokens 4",
        "generate RUN DATA --max_new_tokens 4 --json",
        "data audit DATA --model MODEL",
        "data audit DATA --model MODEL --json",
        "data show DATA --model MODEL -n 9",
        "data show DATA --model MODEL --json",
        "data fix DATA OUT.jsonl",
        "evaluate preference RUN --dataset DATA --output_dir OUT",
        "evaluate preference RUN --dataset DATA --output_dir OUT --json",
        "train --model MODEL --dataset DATA --dry_run --on_bad_row drop",
        "train --model MODEL --dataset DATA --output_dir RUN",
        "train --model MODEL --dataset DATA --output_dir RUN --resume --learning_rate 1",
        "convert-config FOREIGN",
    ],
)
def test_what_strangers_left_is_text(
    orpo: Orpo, strange: dict[str, Path], tmp_path: Path, command: str
) -> None:
    places = {name.upper(): str(path) for name, path in strange.items()}
    places |= {"OUT": str(tmp_path / EVIL), "OUT.jsonl": str(tmp_path / f"{EVIL}.jsonl")}
    places["FOREIGN"] = str(strange["place"] / "foreign.yaml")
    code = orpo(*(places.get(word, word) for word in command.split()))
    assert_inert(orpo)
    assert "Traceback" not in orpo.err
    assert "\\x1b" in orpo.out + orpo.err or "\\u001b" in orpo.out
    if command.endswith("--json") and code == 0:
        assert "\\x1b" in repr(json.loads(orpo.out))


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("config.json", {"model_type": EVIL}),
        ("config.json", {"architectures": [EVIL], "model_type": "t5"}),
        ("config.json", {"hidden_act": EVIL}),
        ("config.json", {"torch_dtype": EVIL, "dtype": EVIL}),
        ("tokenizer_config.json", {"tokenizer_class": EVIL}),
        ("tokenizer_config.json", {"chat_template": "{{ raise_exception('" + EVIL + "') }}"}),
        ("tokenizer_config.json", {"chat_template": "{% " + EVIL}),
    ],
)
def test_a_strange_model_is_refused_in_words(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, name: str, entries: dict[str, Any]
) -> None:
    model = changed(tiny, tmp_path / "model", name, **entries)
    if "chat_template" in entries:
        (model / "chat_template.jinja").write_text(entries["chat_template"], encoding="utf-8")
    for command in (
        ("train", "--model", model, "--dataset", pairs, "--output_dir", tmp_path / "run"),
        ("data", "audit", pairs, "--model", model),
        ("doctor", "--model", model),
        ("generate", model, "Say 1"),
        ("serve", model, "--dry_run"),
    ):
        orpo(*command)
        assert_inert(orpo)


def test_a_server_speaks_as_text(orpo: Orpo, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Hi"}])
    refusals = (Fail(400, EVIL), Fail(401, EVIL, EVIL), Fail(404, EVIL), Fail(200, raw=b"\x1b["))
    for answer in refusals:
        with ScriptedServer(lambda _, said=answer: said) as server:
            assert orpo("generate", EVIL, prompts, "--server", server.url) == 2
            assert_inert(orpo)
    with ScriptedServer(lambda _: f"yes {EVIL}") as server:
        orpo.does("generate", "m", prompts, "--server", server.url)
        assert_inert(orpo)
        assert orpo.out.startswith("user: Hi\nassistant: yes ")
        told = orpo.does("generate", "m", prompts, "--server", server.url, "--json")
        assert told["answers"][0]["answer"] == f"yes {EVIL}".strip()


def test_a_bug_is_told_as_text(orpo: Orpo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: object) -> None:
        raise RuntimeError(EVIL)

    monkeypatch.setattr("orpo.commands.report.run", broken)
    assert orpo("report", "x") == 1
    assert_inert(orpo)
    assert "RuntimeError: \\x1b]0;owned\\x07" in orpo.err


def test_letters_of_every_script_stay_and_json_says_the_same() -> None:
    for character in map(chr, [*range(0x2100), 0xD800, 0xDFFF, 0xFEFF, 0x1F600]):
        assert json.loads(json_line({character: character})) == {character: character}
        assert STEERING.findall(json_line(character)) == []
    text = "é 中文 العربية עברית ไทย 👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 می‌خواهم ﷽\ta\nb"
    assert spelled_out(text) == text
    assert json_line("é 中文") == '"é 中文"'
    assert spelled_out("a\r\nb\rc") == "a\nb\\x0dc"
    assert spelled_out(EVIL) == (
        "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\x0d\\u202e\\u2066\\u200b\\x7f"
    )


def test_our_own_colours_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(force_terminal=True, color_system="standard", width=60, highlight=False)
    with screen.capture() as drawn:
        screen.print(f"[bold]ours[/bold] {EVIL}")
        screen.print(rows_table([EVIL, "[/b]"], [[EVIL, "[red]x[/red]"]]))
    text = drawn.get()
    assert text.startswith("\x1b[1mours\x1b[0m")
    assert STEERING.findall(re.sub(r"\x1b\[[0-9;]*m", "", text)) == []
    assert "[red]x[/red]" in text


def test_bars_return_and_nothing_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        progress_stream().write(f"\rreading {EVIL}")
        print("\rgone", file=sys.stderr)
    shown = capsys.readouterr().err
    assert shown[0] == "\r"
    assert STEERING.findall(shown[1:]) == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_letters_is_no_reason_to_break(encoding: str) -> None:
    code = (
        "from orpo.commands.main import print_json; from orpo.terminal import guarded\n"
        "with guarded():\n    print('中 \\udc80'); print_json({'a': '😀\\x9b\\ud800'})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, told = done.stdout.decode(encoding).splitlines()
    assert text in {"中 \\udc80", "\\u4e2d \\udc80"}
    assert json.loads(told) == {"a": "😀\x9b\ud800"}
