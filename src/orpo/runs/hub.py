"""What keeps the Hub from giving something: no network, no permission, or no such name."""

import os
from collections.abc import Iterator

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_UNREACHED = ("Connect", "Timeout", "Proxy", "SSLError", "Resolution", "LocalEntryNotFound")
_NOT_KEPT = "is no folder here, and the Hub's cache does not have it"
_ON = {"1", "TRUE", "YES", "ON"}
_LOG_IN = "`hf auth login` (or set HF_TOKEN)"


def refusal(error: BaseException, name: str, kind: str = "model") -> tuple[str, str] | None:
    """What is wrong and what to do, where the Hub or the way to it has failed; else None."""
    raised = list(_chain(error))
    kinds = " ".join(f"{type(one).__name__} {str(one)[:300]}" for one in raised)
    statuses = [getattr(getattr(one, "response", None), "status_code", None) for one in raised]
    status = next((one for one in statuses if one is not None), None)
    unreached = status is None and any(sign in kinds for sign in ("Offline", *_UNREACHED))
    told = next((one for one in _OFFLINE if os.environ.get(one, "").upper() in _ON), "")
    named = [one for one in raised if any(sign in type(one).__name__ for sign in _UNREACHED)]
    page = f"https://huggingface.co/{'datasets/' * (kind == 'data set')}"
    page += name.partition(":")[0].partition("@")[0]
    none = "NotFoundError" in kinds.replace("LocalEntryNotFound", "") or status in {401, 404}
    rules = (
        (
            unreached and told,
            f"{_NOT_KEPT}; {told}={os.environ.get(told)} keeps from asking the Hub",
            f"Unset {told}, or fetch it once with the network.",
        ),
        (
            unreached,
            f"{_NOT_KEPT}; the Hub cannot be reached ({_first([*named, raised[-1]][0])})",
            "Look at the network, a proxy or HF_ENDPOINT; or give a folder.",
        ),
        (
            "gated" in kinds.lower(),
            f"is gated: the Hub gives the {kind} to those who have asked for access",
            f"Ask at {page}, then {_LOG_IN}.",
        ),
        (
            "RevisionNotFound" in kinds,
            f"has no such revision on the Hub ({_first(error)})",
            "Give a branch, a tag or a commit.",
        ),
        (
            none,
            f"is no file or folder here and no {kind} that the Hub gives: it has none of this "
            "name, or it is private",
            f"Check the spelling; for a private one, {_LOG_IN}.",
        ),
        (
            status is not None,
            f"the Hub refuses it ({status}: {_first(error)})",
            "Try again later, or give a folder.",
        ),
    )
    return next(((what, fix) for is_so, what, fix in rules if is_so), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first(error: BaseException) -> str:
    """What an error says, shortly."""
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return (said if len(said) <= 120 else f"{said[:117]}...").rstrip(". ")
