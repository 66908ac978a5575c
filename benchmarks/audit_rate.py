"""Seconds and peak memory of `orpo data audit` on many rows, near duplicates and leakage included.

    python benchmarks/audit_rate.py --tokenizer ./model [--rows 100000] [--texts hh.jsonl.gz]

Rows are made of the sentences of real rows, drawn anew for each, so that no row is nearly another;
without --texts, of made-up words whose frequencies fall as those of a language do. Some rows are
then repeated, word for word or with every twelfth word changed; the audit's counts are printed
beside how many there are.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orpo.audit.faults import view
from orpo.data.reading import PairReader
from orpo.data.sources import open_source
from orpo.data.types import PreferencePair

_SENTENCE = re.compile(r"[^.!?。！？]+[.!?。！？]+\s*")
_COPIES = 0.01
_LETTERS = str.maketrans("0123456789", "aeioubdlnr")


def main() -> None:
    """Make the rows, run the command, print what it took."""
    given = _parse()
    with tempfile.TemporaryDirectory() as folder:
        train, held = Path(folder, "train.jsonl"), Path(folder, "held_out.jsonl")
        planted = _write(train, held, given.rows, _speaker(given.texts, random.Random(0)))
        command = [sys.executable, "-m", "orpo", "data", "audit", str(train), "--json"]
        command += ["--eval_dataset", str(held)]
        command += ["--model", given.tokenizer] if given.tokenizer else []
        start = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, busy = used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime
    audit = json.loads(done.stdout)
    found = {finding["check"]: finding["count"] for finding in audit["findings"]}
    print(
        f"{given.rows:,} rows: {seconds:.1f} s ({busy:.1f} s of processor time), "
        f"peak {peak:.2f} GiB, lengths in {audit['unit']}"
    )
    for check, count in planted.items():
        print(f"{check}: {found[check]:,} found, {count:,} planted")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokenizer", help="folder of a tokenizer or model; none: characters")
    parser.add_argument("--texts", help="preference data whose sentences are mixed")
    return parser.parse_args()


def _speaker(texts: str | None, rng: random.Random) -> Callable[[int], str]:
    """A function that says so many sentences."""
    if texts is None:
        return lambda count: " ".join(_made_up(rng) for _ in range(count))
    sentences = sorted(set(_sentences(texts)))
    return lambda count: "".join(rng.choices(sentences, k=count)).strip()


def _sentences(texts: str) -> Iterator[str]:
    read = PairReader(on_bad_row="drop")
    for row in open_source(texts):
        pair = read(row)
        if isinstance(pair, PreferencePair):
            seen = view(pair)
            for text in (seen.prompt, seen.chosen, seen.rejected or ""):
                yield from (s.strip() + " " for s in _SENTENCE.findall(text) if len(s) > 20)


def _made_up(rng: random.Random) -> str:
    numbers = (str(int(rng.paretovariate(0.6))) for _ in range(12))
    return " ".join(n.translate(_LETTERS) for n in numbers).capitalize() + "."


def _write(train: Path, held: Path, rows: int, speak: Callable[[int], str]) -> dict[str, int]:
    """Write both files; how many faults of each kind are in them."""
    rng, copies = random.Random(1), int(rows * _COPIES)
    fresh = rows - 2 * copies
    kept: list[dict[str, str]] = []
    with train.open("w", encoding="utf-8") as file:
        for number in range(fresh):
            prompt, chosen, rejected = (speak(rng.randint(2, most)) for most in (9, 5, 5))
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            if number < 2 * copies:
                kept.append(row)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for row in kept[:copies]:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for row in kept[copies:]:
            changed = {name: _reworded(text, rng) for name, text in row.items()}
            file.write(json.dumps(changed, ensure_ascii=False) + "\n")
    leaked = copies // 10
    with held.open("w", encoding="utf-8") as file:
        for number in range(copies):
            prompt = kept[number]["prompt"] if number < leaked else speak(6)
            row = {"prompt": prompt, "chosen": speak(3), "rejected": speak(2)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"exact_duplicates": copies, "near_duplicates": copies, "leakage": leaked}


def _reworded(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for place in range(rng.randrange(6), len(words), 12):
        words[place] = rng.choice(("really", "maybe", "quite", "Also,"))
    return " ".join(words)


if __name__ == "__main__":
    main()
