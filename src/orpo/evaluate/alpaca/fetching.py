"""The official files from where their authors keep them, fetched once."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from orpo.data.sources import default_cache
from orpo.runs import write_bytes

__all__ = ["fetched"]

_IN_PACKAGE = "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
_LARGEST = 8 * 2**20  # bytes; the file has some twenty thousand
_GITHUB = (
    f"https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/main/src/alpaca_eval/{_IN_PACKAGE}"
)


def fetched(
    repo: str, files: Sequence[str], leaderboard: str
) -> tuple[dict[str, Path], dict[str, str]]:
    """(file -> path, file -> why it is not there) of a data set of the Hub, and the leaderboard.

    Args:
        repo: The data set's id.
        files: Their names in it.
        leaderboard: What to call the leaderboard, which is not in it.
    """
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name in files:
        try:
            found[name] = _from_hub(repo, name)
        except Exception as error:  # whatever the Hub's client raises, nothing came
            missing[name] = _reason(error)
    try:
        found[leaderboard] = _leaderboard()
    except OSError as error:
        missing[leaderboard] = _reason(error)
    return found, missing


def _from_hub(repo: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - seconds to load

    return Path(hf_hub_download(repo, name, repo_type="dataset"))


def _leaderboard() -> Path:
    spec = find_spec("alpaca_eval")  # found, not imported: its imports are many and old
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / _IN_PACKAGE).is_file():
            return Path(place) / _IN_PACKAGE
    kept = default_cache() / "alpaca_eval" / "leaderboard.csv"
    if not kept.is_file():
        from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415 - seconds to load

        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(_GITHUB, timeout=30) as answer:
            content: bytes = answer.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise OSError(f"more than {_LARGEST:,} bytes came")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, content)
    return kept


def _reason(error: Exception) -> str:
    if type(error).__name__ in {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return "not in the cache, and the Hub cannot be reached"
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
