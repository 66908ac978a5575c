"""Data with known faults: rows that are clean for sure, and what spoils them."""

import gzip
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from orpo.audit.findings import Audit, Finding
from orpo.audit.run import AuditPlan, audit_rows
from orpo.data.types import Row

FILLERS = ("really", "perhaps", "also", "quite", "simply")
ZH_FILLERS = "也很都再就"
TOPICS = ("gardens", "rivers", "clocks", "violins", "bridges", "kettles", "comets", "ladders")
PARTS = ("prompt", "chosen", "rejected")


def made(values: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows with a place each: "data:1" and so on."""
    return [Row(dict(row), f"data:{i}", i - 1) for i, row in enumerate(values, start=1)]


def audited(values: Iterable[Mapping[str, Any]], **settings: Any) -> Audit:
    """The audit of rows given as dicts; `eval_values` are the evaluation rows."""
    held = settings.pop("eval_values", None)
    plan = AuditPlan("data", eval_name="" if held is None else "held", **settings)
    return audit_rows(plan, made(values), None if held is None else made(held))


def found(audit: Audit, check: str) -> Finding:
    """The finding of one check."""
    (one,) = [f for f in audit.findings if f.check == check]
    return one


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    """A row of messages."""
    answers = {"chosen": chosen, "rejected": rejected}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()},
        **more,
    }


def plain(prompt: str, chosen: Any, rejected: Any, **more: Any) -> dict[str, Any]:
    """A row of texts."""
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def write(path: Path, rows: Iterable[Any]) -> Path:
    """A file of rows; those that are texts stand in it as they are."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in content.splitlines()]


def distinct_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of made-up sentences that share no more than a word or two."""
    rng = random.Random(seed)

    def word() -> str:
        if rng.random() < 0.2:
            return rng.choice(TOPICS)
        return "".join(rng.choice("bdfgklmnprstv") + rng.choice("aeiou") for _ in range(3))

    def said() -> str:
        return " ".join(word() for _ in range(rng.randint(8, 30))).capitalize() + "."

    return [pair(said(), said(), said()) for _ in range(count)]


def reworded(text: str, rng: random.Random, every: int = 10) -> str:
    """About every tenth word swapped with the next, replaced, followed by another, or shouted."""
    words = text.split(" ")
    for place in range(rng.randrange(min(every, max(1, len(words)))), len(words), every):
        kind = rng.randrange(4)
        if kind == 0 and place + 1 < len(words):
            words[place], words[place + 1] = words[place + 1], words[place]
        elif kind == 1:
            words[place] = rng.choice(FILLERS)
        elif kind == 2:
            words[place] += f" {rng.choice(FILLERS)}"
        else:
            words[place] = words[place].upper().rstrip(".,!?") + ","
    return " ".join(words)


def reworded_zh(text: str, rng: random.Random, every: int = 14) -> str:
    """The same for Chinese: characters put in, left out or replaced."""
    out = list(text)
    for place in range(rng.randrange(every), len(out), every):
        if "\u4e00" <= out[place] <= "\u9fff":
            out[place] = rng.choice(["", rng.choice(ZH_FILLERS), out[place] + ZH_FILLERS[0]])
    return "".join(out)


def like(row: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """A row of messages with every text changed but system messages: other ones ask otherwise."""
    return {
        name: [
            m if m["role"] == "system" else {**m, "content": change(m["content"])}
            for m in row[name]
        ]
        for name in PARTS
    }


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """Prompt, chosen and rejected of a row of messages."""
    return ["\n\n".join(m["content"] for m in row[name]) for name in PARTS]


def clean_rows(transcripts: Sequence[Mapping[str, str]], count: int) -> list[dict[str, Any]]:
    """Real HH rows of whose faults the truth is known: they have none.

    Chosen without the audit's code: both answers there and different, no speaker's name and no
    markup within a turn, and no two rows that share more than a quarter of their pairs of words.
    """
    kept: list[dict[str, Any]] = []
    seen: list[set[tuple[str, str]]] = []
    for transcript in transcripts:
        row = _messages(transcript)
        if row is None or not _sound(row):
            continue
        prompt, chosen, _ = texts_of(row)
        words = re.findall(r"\w+", f"{prompt} {chosen}".lower())
        bigrams = set(pairwise(words))
        if all(len(bigrams & other) <= 0.25 * min(len(bigrams), len(other)) for other in seen):
            kept.append(row)
            seen.append(bigrams)
        if len(kept) == count:
            return kept
    raise AssertionError(f"only {len(kept)} clean rows")


def _messages(transcript: Mapping[str, str]) -> dict[str, Any] | None:
    texts = {name: transcript[name].split("\n\nAssistant:") for name in ("chosen", "rejected")}
    if texts["chosen"][:-1] != texts["rejected"][:-1]:
        return None
    turns = re.split(r"\n\n(Human|Assistant):", transcript["chosen"].rsplit("\n\nAssistant:", 1)[0])
    roles = {"Human": "user", "Assistant": "assistant"}
    prompt = [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(turns[1::2], turns[2::2], strict=True)
    ]
    answers = {
        name: [{"role": "assistant", "content": parts[-1].strip()}] for name, parts in texts.items()
    }
    return {"prompt": prompt, **answers}


def _sound(row: Mapping[str, Any]) -> bool:
    contents = [m["content"] for name in PARTS for m in row[name]]
    speakers = [m["role"] for m in row["prompt"]]
    alternate = speakers == ["user", "assistant"] * (len(speakers) // 2) + ["user"]
    answers_differ = row["chosen"][0]["content"].split() != row["rejected"][0]["content"].split()
    named = any(re.search(r"(?i)human:|assistant:|###|<\||\[inst|</?s>", c) for c in contents)
    return all(contents) and alternate and answers_differ and not named
