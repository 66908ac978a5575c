"""One request to an OpenAI-compatible server: its reply, or what is wrong in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

from orpo.errors import ConfigError, EvaluationError
from orpo.evaluate.judge.pacing import Pacer
from orpo.evaluate.judge.types import JudgeSettings, Reply, Request, Say
from orpo.evaluate.settings import api_key

__all__ = ["Endpoint", "GaveUp"]

_BUSY = {408, 409, 425, 429}
_PATIENCE = 120.0  # seconds that a server may ask us to wait
_LONGEST = 60.0  # seconds between two attempts
_FIRST_CONTACT = 2  # repetitions where no server has ever answered
_SHOWN = 300  # characters of what a server says
_UNKNOWN = re.compile("support|permitted|unexpected|unrecogni|unknown")
_LONGEST_WORD = 200  # characters of a name that a server gives
_MOST_TOKENS = 2**31
_NO_COMPLETION = (
    *(AttributeError, TypeError, IndexError, KeyError, ValueError),
    *(ArithmeticError, RecursionError),
)
_LOOKS_LIKE_KEY = re.compile(r"\bsk-[\w*-]{4,}")


class GaveUp(Exception):  # noqa: N818 - the error is what the server said
    """A request that was repeated as often as allowed."""


class Endpoint:
    """A judge's server, through the official client; a context manager, used by many threads.

    Args:
        settings: Which judge, and how patient we are.
        pacer: Lets requests go.
        say: Is told when the server makes us wait.

    Raises:
        ConfigError: There is no client, or no key.
    """

    def __init__(self, settings: JudgeSettings, pacer: Pacer, say: Say) -> None:
        try:
            import openai  # noqa: PLC0415 - an extra

            from orpo.evaluate import served  # noqa: PLC0415 - it needs the extra
        except ImportError as error:
            raise ConfigError(
                "a judge needs the OpenAI client", fix="pip install 'orpo[evaluate]'"
            ) from error
        self._openai: Any = openai
        self._served: Any = served
        self._settings, self._pacer, self._say = settings, pacer, say
        # A server without keys takes any; the client insists on one.
        self._key = api_key(settings.api_key_env, settings.base_url) or "none"
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()
        self.answered = 0
        self._client: Any = served.connect(
            settings.base_url, self._key, seconds=settings.timeout, retries=0
        )

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, request: Request) -> Reply:
        """The judge's reply to a request.

        Returns:
            The reply; one with an `error` where the server refuses this very request.

        Raises:
            ConfigError: The key, the model or the address is wrong.
            EvaluationError: The account is used up, or the server asks for a longer wait.
            GaveUp: The server stayed busy or broken.
            Stopped: The others have stopped.
        """
        attempt, wait = 0, 0.0
        while True:
            self._pacer.wait(wait)
            arguments = self._arguments(request)
            try:
                reply = self._reply(request, arguments)
            except self._openai.APIError as error:
                if self._adapts(error, arguments):
                    wait = 0.0
                    continue
                refused = self._settle(error, request)
                if refused is not None:
                    return refused
                if attempt >= self._allowed(error):
                    raise GaveUp(self._told(error)) from None
                wait = self._delay(error, attempt)
                attempt += 1
            else:
                self.answered += 1
                return reply

    def _reply(self, request: Request, arguments: Mapping[str, Any]) -> Reply:
        try:
            completion = self._client.chat.completions.create(**arguments)
            return self._read(completion, request.key(self._settings))
        except self._served.Elsewhere as error:
            raise ConfigError(
                f"the judge's server {self._clean(str(error))}; nothing was sent there",
                where=f"--judge_url {self._settings.as_dict()['base_url'] or ''}".strip(),
                fix="Give that address itself if it is the judge's.",
            ) from None
        except self._served.Unusable as error:
            raise self._no_completion(f": {self._clean(str(error))}") from None
        except _NO_COMPLETION:
            raise self._no_completion("") from None

    def _no_completion(self, why: str) -> Exception:
        found: Exception = self._openai.APIError(
            f"what came back is no chat completion{why}", request=None, body=None
        )
        return found

    def _arguments(self, request: Request) -> dict[str, Any]:
        settings = self._settings
        temperature = settings.temperature if request.temperature is None else request.temperature
        arguments: dict[str, Any] = {
            "model": settings.model,
            "messages": [
                {name: _sendable(text) for name, text in message.items()}
                for message in request.messages
            ],
            "max_tokens": request.max_tokens or settings.max_tokens,
            "temperature": temperature,
            "seed": settings.seed if temperature else None,
        }
        if request.top_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return {
            self._renamed.get(name, name): value
            for name, value in arguments.items()
            if value is not None and name not in self._left_out
        }

    def _read(self, completion: Any, key: str) -> Reply:
        choice = completion.choices[0]
        message, usage = choice.message, completion.usage
        content = message.content or getattr(message, "refusal", None) or ""
        if not isinstance(content, str):
            raise TypeError(content)
        return Reply(
            key=key,
            text=self._clean(content),
            finish_reason=_word(choice.finish_reason),
            model=self._clean(_word(completion.model)),
            prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
            completion_tokens=_count(getattr(usage, "completion_tokens", None)),
            logprobs=_alternatives(choice),
        )

    def _adapts(self, error: Any, sent: Mapping[str, Any]) -> bool:
        """Whether a setting that this model does not know is renamed or left out from now on."""
        said = str(error).lower()
        if getattr(error, "status_code", None) not in {400, 422}:
            return False
        if "max_completion_tokens" in said and "max_tokens" in sent:
            self._renamed["max_tokens"] = "max_completion_tokens"
            return True
        for name in ("temperature", "seed"):
            if name in sent and name in said and _UNKNOWN.search(said):
                if name not in self._left_out:
                    self._say(f"the judge takes no {name}; its own is used")
                self._left_out.add(name)
                return True
        return False

    def _settle(self, error: Any, request: Request) -> Reply | None:
        """A refused request's reply; None for what is worth another attempt.

        Raises:
            ConfigError: No request can succeed.
            EvaluationError: None can succeed now.
        """
        status, said = getattr(error, "status_code", None), self._told(error)
        settings = self._settings
        if status in {401, 403}:
            raise ConfigError(
                f"the judge's server refuses the key ({said})",
                where=f"${settings.api_key_env}",
                fix="Set this variable, or name another with --api_key_env.",
            )
        if status == 404:
            raise ConfigError(
                f"the server knows no such model or address ({said})",
                where=f"--judge {settings.model}",
                fix="Compare it with the server's own list, and --judge_url with its manual.",
            )
        if getattr(error, "code", None) == "insufficient_quota":
            raise EvaluationError(f"the judge's account is used up ({said})")
        if status is None or status in _BUSY or status >= 500:
            return None
        return Reply(request.key(settings), "", "refused", settings.model, error=said)

    def _allowed(self, error: Any) -> int:
        """Repetitions: few where nothing that answers like a judge has ever been met."""
        retries = self._settings.retries
        late = isinstance(error, self._openai.APITimeoutError)
        if self.answered or late or getattr(error, "status_code", None) is not None:
            return retries
        return min(retries, _FIRST_CONTACT)

    def _delay(self, error: Any, attempt: int) -> float:
        """Seconds until the next attempt; a busy server makes all wait."""
        asked = _retry_after(error)
        if asked is not None and asked > _PATIENCE:
            raise EvaluationError(f"the judge's server asks to wait {asked:.0f} seconds")
        delay = min(self._settings.backoff * 2.0**attempt, _LONGEST) if asked is None else asked
        if getattr(error, "status_code", None) == 429:
            if self._pacer.pause(delay):
                self._say(f"the judge's server is busy; waiting {delay:.0f} s")
            return 0.0
        return delay

    def _told(self, error: Any) -> str:
        """What the server said, in one short line and without the key."""
        said = _LOOKS_LIKE_KEY.sub("***", self._clean(" ".join(str(error).split())))
        if isinstance(error, self._openai.APITimeoutError):
            said = f"no reply within {self._settings.timeout:g} s"
        elif isinstance(error, self._openai.APIConnectionError) and error.__cause__ is not None:
            said = f"{said.rstrip('.')}: {self._clean(str(error.__cause__))}"
        return said if len(said) <= _SHOWN else said[: _SHOWN - 1] + "…"

    def _clean(self, text: str) -> str:
        """A text without the key, should the server repeat it."""
        return text.replace(self._key, "***") if len(self._key) >= 8 else text


def _word(value: Any) -> str:
    """A name that a server gives; nothing where it gives something else."""
    return value[:_LONGEST_WORD] if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    """Tokens as reported; None for what is no count, lest it be paid for or taken off."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < _MOST_TOKENS else None


def _alternatives(choice: Any) -> tuple[dict[str, float], ...]:
    """For each token of the reply {token: log-probability}.

    Raises:
        TypeError: They are of another kind.
    """
    found = []
    for step in getattr(getattr(choice, "logprobs", None), "content", None) or ():
        tops = {top.token: top.logprob for top in step.top_logprobs}
        for token, value in tops.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(token, str) and number and value < 1):  # NaN is not, either
                raise TypeError(value)
        found.append({token: float(value) for token, value in tops.items()})
    return tuple(found)


def _sendable(text: str) -> str:
    """A text without halves of characters, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _retry_after(error: Any) -> float | None:
    """Seconds to wait, which a server gives as a number or as a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
