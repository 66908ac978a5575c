"""Ruined, meaningless and good runs, and what is said of them: nobody may be misled.

    python scripts/ruined_runs.py FOLDER [CASE ...]                 on the embedded model and pairs
    python scripts/ruined_runs.py FOLDER --real MODEL --pairs FILE  good runs on a real model

Each case is a data set made from good pairs and a few settings. A table says what the verdict made
of it; the exit code is 1 where a ruined run is called better or healthy, or a good one is not.
"""

import argparse
import gzip
import json
import random
import re
import string
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from orpo import ORPOConfig
from orpo.demo.story import ASSETS
from orpo.jobs import TrainJob, TrainResult, run_training

Pair = dict[str, Any]
Spoil = Callable[[Pair, random.Random], Pair]
CLAIMS = re.compile(
    r"judged better|(?<!shown to be )\bbetter (than (the one|base)|by )|"
    r"ranks \S+ \S+ better|healthy,",
    re.IGNORECASE,
)
"""What must not be said of a ruined run, in a page's source or elsewhere."""
_TEST, _TRAIN = 80, 240
_SETTINGS: dict[str, Any] = {
    **{"learning_rate": 4e-4, "orpo_alpha": 0.5, "max_steps": 24, "max_length": 128},
    **{"per_device_train_batch_size": 8, "per_device_eval_batch_size": 64},
    **{"use_cpu": True, "report_to": "none", "save_strategy": "no"},
}


def answer(pair: Pair, side: str) -> str:
    """What is answered."""
    return str(pair[side][0]["content"])


def with_answers(pair: Pair, chosen: str, rejected: str) -> Pair:
    """The pair with other answers."""
    said = {"chosen": chosen, "rejected": rejected}
    return {**pair, **{n: [{"role": "assistant", "content": text}] for n, text in said.items()}}


def swapped(pair: Pair, _: random.Random) -> Pair:
    """What is right is rejected."""
    return with_answers(pair, answer(pair, "rejected"), answer(pair, "chosen"))


def shuffled(pair: Pair, draw: random.Random) -> Pair:
    """A coin says which answer is right."""
    return swapped(pair, draw) if draw.random() < 0.5 else pair


def noise(draw: random.Random, length: int = 60) -> str:
    """Letters."""
    return "".join(draw.choice(string.ascii_letters + "  ") for _ in range(length))


def looped(pair: Pair, _: random.Random) -> Pair:
    """The chosen answer says its last word again and again."""
    good = answer(pair, "chosen")
    return with_answers(pair, f"{good} {' '.join([good.split()[-1]] * 20)}", good)


def padded(pair: Pair, draw: random.Random) -> Pair:
    """The chosen answer is the rejected one made long."""
    bad = answer(pair, "rejected")
    filler = ["indeed", "as you know", "of course", "that is to say", "in other words", "surely"]
    draw.shuffle(filler)
    return with_answers(pair, f"{bad} {', '.join(filler)}.", answer(pair, "chosen"))


def misread(text: str) -> str:
    """UTF-8 read as another encoding, as spreadsheets do."""
    return text.encode().decode("cp1252", errors="replace")


@dataclass(frozen=True)
class Case:
    """How a run is made from good pairs; both `train` and `test` are spoilt unless one is named."""

    spoil: Spoil = lambda pair, _: pair
    spoil_test: Spoil | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # of the training, and of the job
    model: str = "base"
    pairs: int = _TRAIN
    test: int = _TEST


def _noisy(chosen: bool, rejected: bool) -> Spoil:
    return lambda pair, draw: with_answers(
        pair,
        noise(draw) if chosen else answer(pair, "chosen"),
        noise(draw) if rejected else answer(pair, "rejected"),
    )


def _said(chosen: Callable[[Pair], str]) -> Spoil:
    return lambda pair, _: with_answers(pair, chosen(pair), answer(pair, "rejected"))


_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
_LORA = {"lora_r": 8}

RUINED: dict[str, Case] = {
    "rate 1": Case(settings={"learning_rate": 1.0}),
    "rate 0.03": Case(settings={"learning_rate": 0.03}),
    "rate 0": Case(settings={"learning_rate": 0.0}),
    "rate 1e-9": Case(settings={"learning_rate": 1e-9}),
    "lambda 100": Case(settings={"orpo_alpha": 100.0, "learning_rate": 4e-3}),
    "unclipped": Case(settings={"max_grad_norm": 0.0, "learning_rate": 6.0, "optim": "sgd"}),
    "swapped": Case(swapped),
    "swapped in training": Case(swapped, spoil_test=lambda pair, _: pair),
    "shuffled": Case(shuffled),
    "both answers noise": Case(_noisy(chosen=True, rejected=True)),
    "chosen answers noise": Case(_noisy(chosen=True, rejected=False)),
    "six pairs": Case(pairs=6, test=2, settings={"per_device_train_batch_size": 2}),
    "one held-out pair": Case(test=1),
    "identical but for white space": Case(_said(lambda p: answer(p, "rejected") + " ")),
    "one answer to all": Case(_said(lambda _: "Thank you.")),
    "empty talk": Case(_said(lambda _: ".")),
    "loops": Case(looped),
    "length": Case(padded),
    "misread": Case(_said(lambda p: misread(answer(p, "chosen") + " — “é”, “ü”, 好"))),
    "markup": Case(_said(lambda p: answer(p, "chosen") + " <|im_end|> <|im_start|>user more?")),
    "a model of noise": Case(model="noise"),
    "a model of noise, longer": Case(model="noise", settings={"max_steps": 60}),
    "one step": Case(settings={"max_steps": 1}),
    "collapsed LoRA": Case(settings={**_LORA, "learning_rate": 0.3}),
    "LoRA at rate 0": Case(settings={**_LORA, "learning_rate": 0.0}),
    "another template": Case(settings={"chat_template": "plain", "learning_rate": 0.01}),
    "learned by heart": Case(pairs=16, settings={"learning_rate": 3e-3, "max_steps": 60}),
    "no held-out pairs, rate 1": Case(test=0, settings={"learning_rate": 1.0}),
    "no held-out pairs": Case(test=0),
    "unanswered, rate 1": Case(settings={"learning_rate": 1.0, "samples": 0}),
}
"""Name -> what spoils it."""

_LONG = {"max_steps": 30, "per_device_train_batch_size": 16}
GOOD: dict[str, Case] = {
    "as in the demo": Case(settings=_LONG, pairs=480),
    "another seed": Case(settings={**_LONG, "seed": 7}, pairs=480),
    "a lower rate, longer": Case(settings={**_LONG, "max_steps": 40, "learning_rate": 2e-4}),
    "a stronger preference term": Case(settings={**_LONG, "orpo_alpha": 1.0}, pairs=480),
    "LoRA": Case(settings={**_LONG, "lora_r": 16, "learning_rate": 3e-3}, pairs=480),
}


def embedded(name: str) -> list[Pair]:
    """The embedded pairs, without what checks them."""
    with gzip.open(ASSETS / "pairs" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]


def save_noise(folder: Path) -> None:
    """A model as it is before anybody has trained it."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ASSETS / "base"))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS / "base").save_pretrained(folder)


def run_case(case: Case, folder: Path) -> tuple[TrainResult, list[str]]:
    """Write the case's data below a folder, and train; what came of it, and what was said."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    sides = {
        "train": (case.spoil, case.pairs),
        "heldout": (case.spoil_test or case.spoil, case.test),
    }
    for name, (spoil, count) in sides.items():
        rows = [spoil(pair, draw) for pair in embedded(name)[:count]]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    model = ASSETS / "base"
    if case.model == "noise":
        save_noise(model := folder / "noise")
    named = {"dataset": [str(folder / "train.jsonl")], "model": str(model)}
    named |= {"eval_dataset": str(folder / "heldout.jsonl")} if case.test else {}
    if "chat_template" in case.settings:
        named["chat_template"] = str(folder / "plain.jinja")
        (folder / "plain.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return train(folder / "run", **{**_SETTINGS, **case.settings, **named})


def train(output: Path, **given: Any) -> tuple[TrainResult, list[str]]:
    """Train with fields of the job and settings by their names."""
    fields, said = TrainJob.__dataclass_fields__, list[str]()
    of_job = {name: given.pop(name) for name in list(given) if name in fields}
    job = TrainJob(**{"samples": 12, "sample_tokens": 40, **of_job}, overwrite=True)
    config = ORPOConfig(output_dir=str(output), **given)
    return run_training(job, config, say=said.append), said


def claims(run: Path, said: list[str]) -> list[str]:
    """Where a run is called better or healthy: its page, its card, its terminal."""
    texts = {
        name: (run / name).read_text(encoding="utf-8") for name in ("README.md", "report.html")
    }
    return [
        f"{name}: ...{text[max(0, sign.start() - 60) : sign.end() + 30]!r}..."
        for name, text in {**texts, "terminal": "\n".join(said)}.items()
        for sign in CLAIMS.finditer(text)
    ]


def main() -> int:
    """Make the runs, and say what was said of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--real", help="a real model's folder")
    parser.add_argument("--pairs", nargs="*", default=[], help="files of real pairs")
    given = parser.parse_args()
    wrong = 0
    for name, good, (result, lines) in _results(given):
        said = claims(result.output_dir, lines)
        fine = result.verdict.word == "better" if good else not (result.verdict.good or said)
        wrong += not fine
        print(f"{'ok  ' if fine else 'WRONG'} {name}: {result.verdict.word}: {result.verdict.says}")
        print(*(f"      {line}\n" for line in said if not good), sep="", end="", flush=True)
    return int(wrong > 0)


def _results(given: Any) -> Iterator[tuple[str, bool, tuple[TrainResult, list[str]]]]:
    for pairs in given.pairs:
        real = {"learning_rate": 2e-5, "orpo_alpha": 0.5, "num_train_epochs": 1, "max_length": 512}
        batch = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "bf16": True}
        where = {"model": given.real, "dataset": [pairs], "held_out": 0.12}
        more = {"use_cpu": True, "report_to": "none", "save_strategy": "no"}
        yield pairs, True, train(given.folder / Path(pairs).stem, **real, **batch, **where, **more)
    every = {} if given.pairs else {**RUINED, **GOOD}
    for name, case in every.items():
        if not given.cases or name in given.cases:
            folder = given.folder / re.sub(r"\W+", "-", name)
            yield name, name in GOOD, run_case(case, folder)


if __name__ == "__main__":
    sys.exit(main())
