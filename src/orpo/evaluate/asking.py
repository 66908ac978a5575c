"""The one way to ask a model behind an OpenAI-compatible server, for answers and for verdicts.

Where it is and its key; the official client, which repeats by itself what a busy or broken server
did not answer; and what a refusal means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orpo.errors import ConfigError, DataError, OrpoError
from orpo.evaluate.pacing import PATIENCE, Pacer, Say, Stopped, retry_after, silent
from orpo.evaluate.settings import JudgeSettings, api_key

_RETRIES, _TIMEOUT = 5, 600.0  # of a model that answers; a judge's are settings
_PROBE = 10.0  # seconds to find out whether anybody is there
_SHOWN = 300  # characters of a server's own words
_LONGEST_WORD = 200  # characters of a name that a server gives
_MOST_TOKENS = 2**31
_BUSY = {408, 409, 425, 429}
_UNKNOWN = re.compile("support|permitted|unexpected|unrecogni|unknown")
_TOO_LONG = re.compile("context[_ ]length", re.IGNORECASE)
_LOOKS_LIKE_KEY = re.compile(r"\bsk-[\w*-]{4,}")
_NO_COMPLETION = (
    *(AttributeError, TypeError, IndexError, KeyError, ValueError),
    *(ArithmeticError, RecursionError),
)


class Refused(DataError):  # noqa: N818 - the error is what the server said
    """The server will not answer this one question.

    Attributes:
        said: What it says.
        too_long: Because there is no room for an answer to it.
    """

    said = ""
    too_long = False


class Unanswered(ConfigError):  # noqa: N818 - the error is what the server said
    """Nobody answers, or the server stayed busy or broken.

    Attributes:
        all_are: The next question would fare no better.
    """

    all_are = False


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        key: Of its request.
        text: The reply; empty where the model said nothing.
        finish_reason: As reported: "stop", "length" for a reply that was cut off, ...;
            "refused" where the server will not answer this one request.
        model: As the server reports it, which can be more exact than the name asked for.
        prompt_tokens: As reported, or None.
        completion_tokens: As reported, or None.
        logprobs: For each token of the reply {token: log-probability}, if asked for.
        cached: It was not asked for now.
        error: Why the server refused this request, or nothing.
    """

    key: str
    text: str
    finish_reason: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[Mapping[str, float], ...] = ()
    cached: bool = False
    error: str = ""


@dataclass(frozen=True)
class Endpoint:
    """A model's server, how to show oneself to it, and how patient to be.

    Attributes:
        model: What the model is called there.
        address: Where it is, without user and password, for messages.
        flag: By which it was named.
        env: The environment variable with its key.
        url: Where requests go; OpenAI's own if absent.
        key: The key; in no message and no file.
        seconds: That a request may take.
        retries: How often the client repeats one.
    """

    model: str
    address: str
    flag: str
    env: str
    url: str | None = field(repr=False)
    key: str = field(repr=False)
    seconds: float = _TIMEOUT
    retries: int = _RETRIES

    def told(self, error: BaseException) -> str:
        """What the server said, in one short line and without the key."""
        body = getattr(error, "body", None)
        said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
        if type(error).__name__ == "APIConnectionError" and error.__cause__ is not None:
            said = error.__cause__
        text = " ".join(str(said or getattr(error, "message", "") or error).split())
        text = _LOOKS_LIKE_KEY.sub("***", self.clean(text)) or "it says no more"
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

    def clean(self, text: str) -> str:
        """A text without the key, should the server repeat it."""
        return text.replace(self.key, "***") if len(self.key) >= 8 else text

    def meaning(self, error: BaseException, question: str = "") -> OrpoError | None:
        """What a client's error on a question means; None where it is no such error."""
        names = {cls.__name__ for one in (error, error.__cause__) for cls in type(one).__mro__}
        status, said = getattr(error, "status_code", None), self.told(error)
        start = f"Start it (`vllm serve MODEL`, `transformers serve`), or correct {self.flag}."
        if "Elsewhere" in names:
            fix = f"Give that address itself as {self.flag} if it is the server's."
            return ConfigError(f"{said}; nothing was sent there", where=self.address, fix=fix)
        if status is not None:
            return self._of_status(status, error, question)
        if "APITimeoutError" in names:
            what, fix = f"did not answer within {self.seconds:g} s", "See its log."
        elif "Unusable" in names:
            what, fix = f"answers, but not as an OpenAI-compatible server: {said}", start
        elif "APIConnectionError" in names:
            what, fix = f"no server answers ({said})", start
        elif isinstance(error, _NO_COMPLETION) or "APIResponseValidationError" in names:
            what, fix = "answers, but not as an OpenAI-compatible server", start
        else:
            return None
        return Unanswered(what, where=self.address, fix=fix)

    def _of_status(self, status: int, error: BaseException, question: str) -> OrpoError:
        said = self.told(error)
        if status in {401, 403}:
            what = f"refuses the key in ${self.env}" if self.key else "asks for a key"
            fix = f"Put the right one into ${self.env}, or name another variable."
            return ConfigError(f"{what} (status {status}: {said})", where=self.address, fix=fix)
        if status == 404:
            return ConfigError(
                f"knows no model {self.model!r}, or is no OpenAI-compatible server ({said})",
                where=self.address,
                fix="Give the model as the server calls it, and the server's address.",
            )
        if status < 500 and status not in _BUSY:
            return self._refused(error, said, question)
        return self._failed(error, said, status)

    def _refused(self, error: BaseException, said: str, question: str) -> Refused:
        found = Refused(
            f"{self.address} refuses to answer as {self.model!r} ({said})",
            where=f"question {question!r}" if question else "",
            fix="Answers that are finished are kept: correct it and run the same again.",
        )
        found.said, found.too_long = said, bool(_TOO_LONG.search(str(error)))
        return found

    def _failed(self, error: BaseException, said: str, status: int) -> Unanswered:
        wait = retry_after(getattr(getattr(error, "response", None), "headers", {})) or 0.0
        used_up = getattr(error, "code", None) == "insufficient_quota"
        if used_up:
            what, fix = f"the account is used up ({said})", "Fill it up."
        elif wait > PATIENCE:
            what, fix = f"asks to wait {wait:.0f} seconds ({said})", "Come again later."
        else:
            what = f"failed again and again with status {status} ({said})"
            fix = f"See its log; does it have {self.model!r}?"
        found = Unanswered(what, where=self.address, fix=fix)
        found.all_are = used_up or wait > PATIENCE
        return found


def endpoint_at(model: str, server: str, api_key_env: str) -> Endpoint:
    """A model at an address: with a path, or "/v1" is meant; a variable not set means no key."""
    try:
        parts = urlsplit(server)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ConfigError(
            "is no address of a server",
            where=f"--server {server}",
            fix="Give one like http://localhost:8000.",
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
    url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    key = os.environ.get(api_key_env, "").strip()
    return Endpoint(model, address, "--server", api_key_env, url, key)


def endpoint_of(judge: JudgeSettings) -> Endpoint:
    """The judge at its server."""
    return Endpoint(
        model=judge.model,
        address=judge.as_dict()["base_url"] or "OpenAI",
        flag="--judge_url",
        env=judge.api_key_env,
        url=judge.base_url,
        key=api_key(judge.api_key_env, judge.base_url),
        seconds=judge.timeout,
        retries=judge.retries,
    )


class Client:
    """The official client at an endpoint; a context manager, used by many threads.

    Args:
        endpoint: Who is asked.
        pacer: Lets requests go; at once if absent.
        optional: Settings that are left out from when on a model says that it does not know them.
        say: Is told of those.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pacer: Pacer | None = None,
        optional: Sequence[str] = (),
        say: Say = silent,
    ) -> None:
        try:
            from orpo.evaluate import served  # noqa: PLC0415 - it needs an extra
        except ImportError as error:
            raise ConfigError(
                "needs the openai package",
                where=endpoint.flag,
                fix="pip install 'orpo[evaluate]'",
            ) from error
        self._halted = served.Halted
        self._endpoint, self._optional, self._say = endpoint, optional, say
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()
        # A server without keys takes any; the client insists on one.
        self._openai: Any = served.connect(
            endpoint.url,
            endpoint.key or "none",
            seconds=endpoint.seconds,
            retries=endpoint.retries,
            pacer=pacer,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._openai.close()

    def probe(self) -> None:
        """Find out whether anybody is there and knows the key, before all repetitions.

        Not every server has a list of models, so what it says otherwise does not matter.
        """
        try:
            self._openai.with_options(max_retries=0, timeout=_PROBE).models.list()
        except Exception as error:
            absent = type(error).__name__ == "APIConnectionError"
            if absent or getattr(error, "status_code", None) == 401:
                raise self._endpoint.meaning(error) or error from error

    def ask(
        self, messages: Sequence[Mapping[str, Any]], key: str = "", question: str = "", **how: Any
    ) -> Reply:
        """The model's reply to a conversation, with settings of the protocol that are not None.

        Raises:
            Refused: The server refuses this very question.
            Unanswered: It stayed busy or broken.
            ConfigError: The key, the model or the address is wrong.
            Stopped: The others have stopped.
        """
        said = [{name: _sendable(text) for name, text in one.items()} for one in messages]
        while True:
            sent = {
                self._renamed.get(name, name): value
                for name, value in how.items()
                if value is not None and name not in self._left_out
            }
            try:
                create = self._openai.chat.completions.create
                return self._read(create(model=self._endpoint.model, messages=said, **sent), key)
            except Exception as error:
                if self._halted in {type(error), type(error.__cause__)}:
                    raise Stopped from None
                if not self._adapts(error, sent):
                    raise self._endpoint.meaning(error, question) or error from error

    def _adapts(self, error: Exception, sent: Mapping[str, Any]) -> bool:
        """Whether a setting that this model does not know is renamed or left out from now on."""
        said = str(error).lower()
        if getattr(error, "status_code", None) not in {400, 422}:
            return False
        if "max_completion_tokens" in said and "max_tokens" in sent:
            self._renamed["max_tokens"] = "max_completion_tokens"
            return True
        for name in self._optional:
            if name in sent and name in said and _UNKNOWN.search(said):
                if name not in self._left_out:
                    self._say(f"the judge takes no {name}; its own is used")
                self._left_out.add(name)
                return True
        return False

    def _read(self, completion: Any, key: str) -> Reply:
        choice = completion.choices[0]
        message, usage = choice.message, completion.usage
        content = message.content or getattr(message, "refusal", None) or ""
        if not isinstance(content, str):
            raise TypeError(content)
        return Reply(
            key=key,
            text=_sendable(self._endpoint.clean(content)),
            finish_reason=_word(choice.finish_reason),
            model=self._endpoint.clean(_word(completion.model)),
            prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
            completion_tokens=_count(getattr(usage, "completion_tokens", None)),
            logprobs=_alternatives(choice),
        )


def _word(value: Any) -> str:
    """A name that a server gives; nothing where it gives something else."""
    return value[:_LONGEST_WORD] if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    """Tokens as reported; None for what is no count, lest it be paid for or taken off."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < _MOST_TOKENS else None


def _alternatives(choice: Any) -> tuple[dict[str, float], ...]:
    """For each token of the reply {token: log-probability}; a TypeError of what is none."""
    found = []
    for step in getattr(getattr(choice, "logprobs", None), "content", None) or ():
        tops = {top.token: top.logprob for top in step.top_logprobs}
        for token, value in tops.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(token, str) and number and value < 1):  # NaN is not, either
                raise TypeError(value)
        found.append({token: float(value) for token, value in tops.items()})
    return tuple(found)


def _sendable(text: Any) -> Any:
    """A text without halves of characters, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text
