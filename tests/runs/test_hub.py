"""What keeps the Hub from giving something is told apart: network, permission, name."""

from types import SimpleNamespace

import pytest

from orpo.runs.hub import refusal


class ConnectError(Exception):
    """As httpx has it; so the others, as huggingface_hub and datasets have them."""


class GatedRepoError(Exception): ...


class RepositoryNotFoundError(Exception): ...


class DatasetNotFoundError(Exception): ...


class LocalEntryNotFoundError(Exception): ...


class RevisionNotFoundError(Exception): ...


class HfHubHTTPError(Exception): ...


def raised(*kinds: type[Exception], status: int | None = None) -> Exception:
    """An error that was raised of others, the last of which has a status."""
    last: Exception | None = None
    for kind in reversed(kinds):
        error = kind("said")
        if last is None and status is not None:
            error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
        error.__cause__, last = last, error
    assert last is not None
    return last


@pytest.mark.parametrize("offline", ["", "1"])
@pytest.mark.parametrize(
    ("error", "what", "fix"),
    [
        (
            raised(OSError, LocalEntryNotFoundError, ConnectError),
            "cannot be reached",
            "HF_ENDPOINT",
        ),
        (raised(DatasetNotFoundError, ConnectError), "cannot be reached", "network"),
        (raised(OSError, GatedRepoError, status=403), "is gated", "huggingface.co/datasets/a/b"),
        (raised(RepositoryNotFoundError, status=401), "none of this name", "hf auth login"),
        (raised(DatasetNotFoundError), "none of this name", "spelling"),
        (raised(RevisionNotFoundError, status=404), "no such revision", "a commit"),
        (raised(HfHubHTTPError, status=503), "refuses it (503: said)", "later"),
    ],
)
def test_it_is_told_apart(
    error: Exception, what: str, fix: str, offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    said = refusal(error, "a/b@main:train", "data set")
    assert said is not None
    if offline and "reached" in what:
        what, fix = "HF_HUB_OFFLINE=1 keeps from asking", "Unset HF_HUB_OFFLINE"
    assert what in said[0]
    assert fix in said[1]


def test_what_the_hub_has_nothing_to_do_with() -> None:
    assert refusal(ValueError("no tokenizer.json"), "a/b") is None
