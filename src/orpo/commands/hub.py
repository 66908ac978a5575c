"""The Hub, as `orpo push` asks it: whether a repository can take a run, and one commit of it."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import yaml
from huggingface_hub import errors

from orpo.errors import ConfigError, OrpoError, refuse_first
from orpo.runs.files import RECIPE, Run
from orpo.runs.public import scrubbed
from orpo.runs.reading import load_yaml

# What a request that got no answer raises: of the HTTP library that huggingface_hub is built on,
# which is another one from version to version.
_UNANSWERED: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
_OF_THE_REPOSITORY = {".gitattributes", "README.md", "LICENSE"}
_OF_A_MODEL = (".safetensors", ".safetensors.index.json", ".bin", ".gguf", ".pt", ".pth")
_LICENCE = ("license", "license_name", "license_link")
_UNSET = "Unset it, or add --dry_run to see what would be sent."
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that can write."
_PRIVATE = "Make it private on the Hub, name another one, or drop --private."
_ANOTHER = "Name another repository, or give --overwrite to replace its model."
_REFUSED = {
    401: ("the Hub does not know this token", "`hf auth login`, or another HF_TOKEN."),
    403: ("this token may not write here", "Use one with write access, or another owner."),
    404: ("there is no such repository, or it is hidden", "Check owner and name."),
}
"""Status of an answer -> what it means, and what to do."""


def licence_in(header: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a card's header that name a licence; none if there is none."""
    found = {name: header[name] for name in _LICENCE if isinstance(header.get(name), str)}
    return found if "license" in found else {}


def licence_here(run: Run, base_model: str | None) -> dict[str, str]:
    """What the base model's card says of its licence, if it lies in its folder or in the cache."""
    folder = Path(str(run.recipe.get("model") or "")).expanduser()
    paths = [folder / "README.md"] if folder.is_dir() else []
    cached = hub.try_to_load_from_cache(base_model, "README.md") if base_model else None
    for path in (*paths, *([Path(cached)] if isinstance(cached, str) else [])):
        with suppress(OSError, ValueError):  # a card that cannot be read says nothing
            if path.is_file() and (found := licence_in(hub.metadata_load(path) or {})):
                return found
    return {}


class Hub:
    """The Hub that HF_ENDPOINT names, with the token that is set."""

    def __init__(self, repo: str, revision: str | None) -> None:
        token = hub.get_token() or ""
        refuse_first(
            (hub.is_offline_mode(), "HF_HUB_OFFLINE", "is set: nothing can be sent", _UNSET),
            (not token, "orpo push", "there is no Hub token", _LOG_IN),
        )
        self._repo, self._revision, self.token = repo, revision, token
        self._api = hub.HfApi(token=token)

    def licence_of(self, base_model: str | None) -> dict[str, str]:
        """What the card of a model of the Hub says of its licence; nothing if it cannot be read."""
        with suppress(OSError, ValueError, errors.EntryNotFoundError, _UNANSWERED):
            if base_model:
                card: Any = hub.ModelCard(self._file(base_model, "README.md"))
                return licence_in(card.data.to_dict())
        return {}

    def check(self, run_id: str, *, private: bool, overwrite: bool) -> set[str]:
        """The files that are there: no other model's, nor public where private was asked for."""
        with self._explained():
            try:
                public = not self._api.repo_info(self._repo).private and private
                refuse_first((public, self._repo, "is there already, and public", _PRIVATE))
                files = set(self._api.list_repo_files(self._repo, revision=self._revision))
            except errors.RevisionNotFoundError:
                return set()
            except errors.RepositoryNotFoundError as error:
                if error.response.status_code == HTTPStatus.UNAUTHORIZED:
                    self._api.whoami()  # of a token that it knows it hides what is not its
                return set()
            others = sorted(files - _OF_THE_REPOSITORY)
            foreign = others and not overwrite and self._run_there(files) != run_id
            what = f"holds something else already ({', '.join(others[:3])})"
            refuse_first((foreign, self._repo, what, _ANOTHER))
        return files

    def push(
        self, files: Mapping[str, Any], message: str, there: set[str], *, private: bool
    ) -> str:
        """Make the repository if need be and commit, without another model's files; the address."""
        with self._explained():
            self._api.create_repo(self._repo, private=private or None, exist_ok=True)
            if self._revision:
                self._api.create_branch(self._repo, branch=self._revision, exist_ok=True)
            stale = sorted(n for n in there - files.keys() if n.endswith(_OF_A_MODEL))
            operations: list[Any] = [hub.CommitOperationDelete(name) for name in stale]
            operations += [hub.CommitOperationAdd(name, made) for name, made in files.items()]
            done = self._api.create_commit(
                self._repo, operations, commit_message=message, revision=self._revision
            )
        return str(done.commit_url)

    def _run_there(self, files: set[str]) -> str | None:
        """The run whose recipe the repository holds."""
        if RECIPE not in files:
            return None
        text = self._file(self._repo, RECIPE, self._revision)
        try:
            return str(load_yaml(text)["_run"]["id"])
        except (yaml.YAMLError, KeyError, TypeError):
            return None

    def _file(self, repo: str, name: str, revision: str | None = None) -> str:
        """A text file of a repository, not through the cache."""
        with tempfile.TemporaryDirectory(prefix="orpo-push-") as folder:
            path = self._api.hf_hub_download(repo, name, revision=revision, local_dir=folder)
            return Path(path).read_text(encoding="utf-8")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the Hub or the way to it brings about, as one line without the token."""
        try:
            yield
        except ConfigError:
            raise
        except (RuntimeError, OSError, ValueError, _UNANSWERED) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) else None
            raise self._told(cause or error) from None

    def _told(self, error: BaseException) -> OrpoError:
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            said = scrubbed(error.server_message or str(error).splitlines()[0], self.token)
            what, fix = _REFUSED.get(status, (f"the Hub refused it ({status})", ""))
            return ConfigError(f"{what}: {said}" if said else what, where=self._repo, fix=fix)
        reason = " ".join(scrubbed(str(error) or type(error).__name__, self.token).split())
        if isinstance(error, _UNANSWERED):
            return OrpoError(f"{self._api.endpoint} cannot be reached: {reason}")
        return OrpoError(f"{self._repo}: {reason}")
