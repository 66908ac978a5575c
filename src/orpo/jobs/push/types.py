"""What `orpo push` is asked for, and what it has made of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError

__all__ = ["PushFile", "PushJob", "PushPlan"]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class PushJob:
    """What `orpo push` needs.

    Attributes:
        run: A run folder.
        repo: "owner/name" on the Hub.
        private: Make a repository that is not there private.
        revision: Branch; made if it is not there.
        merge: Push the adapter merged into its base model.
        base_model: Hub id of the base model, where the run knows a folder only.
        licence: Licence id of the model; that of the base model if absent.
        message: Of the commit.
        overwrite: Push into a repository that holds another model.

    Raises:
        ConfigError: A name that the Hub would refuse.
    """

    run: str
    repo: str
    private: bool = False
    revision: str | None = None
    merge: bool = False
    base_model: str | None = None
    licence: str | None = None
    message: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the run."""
        if not _fits(self.repo):
            raise ConfigError(
                f"{self.repo!r} is no name of a repository",
                where="REPO",
                fix="Give owner/name, in letters, digits, -, _ and dots.",
            )
        if self.base_model is not None and not _fits(self.base_model):
            raise ConfigError(
                f"{self.base_model!r} is no Hub id", where="--base_model", fix="Give owner/name."
            )
        if self.licence is not None and not _LICENCE.fullmatch(self.licence):
            raise ConfigError(
                f"{self.licence!r} is no licence id of the Hub",
                where="--license",
                fix="Give one such as apache-2.0, mit, llama3.2 or other.",
            )
        for flag, text in (("--message", self.message), ("--revision", self.revision)):
            if text is not None and not text.strip():
                raise ConfigError("is empty", where=flag, fix="Leave it out.")


def _fits(name: str) -> bool:
    return bool(_REPO.fullmatch(name)) and not re.search(r"--|\.\.|\.git$|[.-]$", name)


@dataclass(frozen=True)
class PushFile:
    """A file of the repository.

    Attributes:
        name: Its path there.
        content: A file here, or the bytes that were made for it; None where it is yet to be
            made, by merging.
    """

    name: str
    content: Path | bytes | None

    @property
    def size(self) -> int | None:
        """Bytes, if they are known."""
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return None if self.content is None else len(self.content)


@dataclass(frozen=True)
class PushPlan:
    """What would be pushed.

    Attributes:
        job: What was asked for.
        run_id: Which run it is; the same run may be pushed again.
        files: Everything that the repository is to hold.
        card: The text of README.md.
        licence: Licence id, or an empty string.
        notes: What was decided, or is not known, in words.
    """

    job: PushJob
    run_id: str
    files: list[PushFile]
    card: str
    licence: str
    notes: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        """Of the commit."""
        return self.job.message or f"{Path(self.job.run).resolve().name}, pushed with orpo"

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "repo": self.job.repo,
            "private": self.job.private,
            "revision": self.job.revision or "main",
            "message": self.message,
            "license": self.licence or None,
            "files": [{"name": one.name, "size": one.size} for one in self.files],
            "card": self.card,
            "notes": self.notes,
        }
