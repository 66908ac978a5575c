"""The files of a benchmark, from where its authors keep them; none of their text is in here."""

import urllib.request
from pathlib import Path

from orpo.runs.manifest import describe
from orpo.runs.writing import write_bytes

_LARGEST = 8 * 2**20  # bytes; the largest has some hundred thousand


def from_hub(repo: str, name: str, kind: str) -> Path:
    """A file of a data set or a Space of the Hub; whatever its client raises, nothing came."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - seconds to load

    return Path(hf_hub_download(repo, name, repo_type=kind))


def from_address(address: str, kept: Path) -> Path:
    """A file of the network, fetched once and kept; an OSError where it does not come."""
    if not kept.is_file():
        from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415 - seconds to load

        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - https
            content: bytes = answer.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise OSError(f"more than {_LARGEST:,} bytes came")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, content)
    return kept


def reason(error: Exception) -> str:
    """Why a file did not come, in one line."""
    if type(error).__name__ in {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return "not in the cache, and the Hub cannot be reached"
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def source_of(path: Path, origin: str = "") -> dict[str, str]:
    """What a result says of a file that it was made with."""
    return {"from": origin or path.name, "sha256": describe(path).sha256}
