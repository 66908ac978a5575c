"""The one way to ask a model behind a server: the official client, with limits.

It repeats by itself what a busy or broken server did not answer. But what answers at an address may
be anything. So every request has an end, however slowly its response drips; a response has a size,
packed and unpacked; and none is taken from another address than the one that was given, which would
get to see what is asked and perhaps the key.
"""

import re
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from orpo.errors import ConfigError, OrpoError, require_package
from orpo.evaluate import asking
from orpo.evaluate.questions import Answered, Answers, Asked
from orpo.evaluate.settings import Sampling
from orpo.terminal import Say, silent, under_way

require_package("openai", where="--server, --judge")
import openai  # noqa: E402 - an extra

_LARGEST = 8 * 2**20  # bytes; a hundred times the longest answer
_HOPS = 5  # redirects within one address
_PACKED = {"gzip", "x-gzip", "deflate"}
_ANY_ZLIB = 47  # zlib's number for: whatever header there is
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
    *(ArithmeticError, RecursionError, openai.APIResponseValidationError),
)
# The client repeats what its own library of HTTP calls late; it goes by httpx or httpx2.
_httpx: Any = import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


class Unusable(openai.OpenAIError):
    """A response that is not taken in; says why."""


class Elsewhere(Unusable):
    """A redirect to another address; nothing was sent there."""


class Halted(openai.OpenAIError):
    """Not sent: the others have stopped."""


class Client:
    """The official client at an endpoint, used by many threads; to be closed.

    `optional` settings are left out from when on a model says that it does not know them.
    """

    def __init__(
        self,
        endpoint: asking.Endpoint,
        pacer: asking.Pacer | None = None,
        optional: Sequence[str] = (),
        say: Say = silent,
    ) -> None:
        self._endpoint, self._optional, self._say = endpoint, optional, say
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._openai: Any = openai.OpenAI(
            api_key=endpoint.key or "none",  # a server without keys takes any; the client wants one
            base_url=endpoint.url,
            timeout=endpoint.seconds,
            max_retries=endpoint.retries,
            http_client=_Limited(endpoint.seconds, pacer),
        )
        self.close = self._openai.close

    def probe(self) -> None:
        """Find out whether anybody is there and knows the key, before all repetitions.

        Not every server has a list of models, so what it says otherwise does not matter.
        """
        try:
            self._openai.with_options(max_retries=0, timeout=_PROBE).models.list()
        except Exception as error:
            if type(error) in {openai.APIConnectionError, openai.AuthenticationError}:
                raise _meaning(self._endpoint, error) or error from error

    def ask(
        self, messages: Sequence[Mapping[str, Any]], key: str = "", question: str = "", **how: Any
    ) -> asking.Reply:
        """The model's reply to a conversation, with settings of the protocol that are not None.

        It raises `Refused` for this very question, `Unanswered` where the server stayed busy or
        broken, another ConfigError of the key, the model or the address, and `Stopped`.
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
                if Halted in {type(error), type(error.__cause__)}:
                    raise asking.Stopped from None
                if not self._adapts(error, sent):
                    raise _meaning(self._endpoint, error, question) or error from error

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

    def _read(self, completion: Any, key: str) -> asking.Reply:
        choice = completion.choices[0]
        message, usage = choice.message, completion.usage
        content = message.content or getattr(message, "refusal", None) or ""
        if not isinstance(content, str):
            raise TypeError(content)
        # Names that a server gives; nothing where it gives something else.
        finish, model = (
            name[:_LONGEST_WORD] if isinstance(name, str) else ""
            for name in (choice.finish_reason, completion.model)
        )
        return asking.Reply(
            key=key,
            text=_sendable(self._endpoint.clean(content)),
            finish_reason=finish,
            model=self._endpoint.clean(model),
            prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
            completion_tokens=_count(getattr(usage, "completion_tokens", None)),
        )


class ServedSource:
    """A model behind a server, asked for several answers at once."""

    def __init__(self, endpoint: asking.Endpoint) -> None:
        self.model, self._endpoint = endpoint.model, endpoint

    def identity(self) -> dict[str, Any]:
        """The name: the same model may answer from another address when a broken run goes on."""
        return {"served": self.model}

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Answers:
        """Where one question fails for good, those under way are waited for before the error."""
        wanted, stop = [one for one in asked if one.wanted], Event()
        failed: Exception | None = None
        bar = under_way("answering", len(wanted))
        with closing(Client(self._endpoint)) as client, bar as advance:

            def work(one: Asked) -> Answered:
                try:
                    return self._answered(client, one, sampling)
                except Exception:
                    stop.set()  # here, ahead of this thread's next question
                    raise

            client.probe()
            for one, found in asking.in_threads(work, wanted, sampling.batch_size, stop):
                if isinstance(found, Exception):
                    failed = failed or found
                else:
                    advance(1)
                    yield one.key, found
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Nothing is held: connections live as long as the questions that are asked."""

    def _answered(self, client: Client, one: Asked, sampling: Sampling) -> Answered:
        """Every turn of a question, each with the answers before it."""
        said: list[str] = []
        cut: list[bool] = []
        for _ in one.question.turns:
            try:
                reply = client.ask(
                    one.question.conversation(said),
                    question=one.question.id,
                    max_tokens=sampling.max_new_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p if sampling.top_p < 1 else None,
                    seed=sampling.seed + one.repeat,  # asked again, it is drawn again
                )
            except asking.Refused as error:
                if not error.too_long:
                    raise
                said, cut = [*said, ""], [*cut, True]  # as a model here does
            else:
                said, cut = [*said, reply.text.strip()], [*cut, reply.finish_reason == "length"]
        return Answered(one.question, tuple(said), self.model, tuple(cut))


def _count(value: Any) -> int | None:
    """Tokens as reported; None for what is no count, lest it be paid for or taken off."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < _MOST_TOKENS else None


def _sendable(text: Any) -> Any:
    """A text without halves of characters, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


def _meaning(there: asking.Endpoint, error: Exception, question: str = "") -> OrpoError | None:
    """What a client's error on a question means; None where it is no such error."""

    def has(*kinds: type) -> bool:
        return isinstance(error, kinds) or isinstance(error.__cause__, kinds)

    said = _told(there, error)
    start = f"Start it (`vllm serve MODEL`, `transformers serve`), or correct {there.flag}."
    if has(Elsewhere):
        fix = f"Give that address itself as {there.flag} if it is the server's."
        return ConfigError(f"{said}; nothing was sent there", where=there.address, fix=fix)
    if isinstance(error, openai.APIStatusError):
        return _of_status(there, error, said, question)
    if has(openai.APITimeoutError):
        what, start = f"did not answer within {there.seconds:g} s", "See its log."
    elif has(Unusable):
        what = f"answers, but not as an OpenAI-compatible server: {said}"
    elif has(openai.APIConnectionError):
        what = f"no server answers ({said})"
    elif isinstance(error, _NO_COMPLETION):
        what = "answers, but not as an OpenAI-compatible server"
    else:
        return None
    return asking.Unanswered(what, where=there.address, fix=start)


def _of_status(there: asking.Endpoint, error: Any, said: str, question: str) -> OrpoError:
    status = error.status_code
    if status in {401, 403}:
        what = f"refuses the key in ${there.env}" if there.key else "asks for a key"
        fix = f"Put the right one into ${there.env}, or name another variable."
        return ConfigError(f"{what} (status {status}: {said})", where=there.address, fix=fix)
    if status == 404:
        return ConfigError(
            f"knows no model {there.model!r}, or is no OpenAI-compatible server ({said})",
            where=there.address,
            fix="Give the model as the server calls it, and the server's address.",
        )
    if status < 500 and status not in _BUSY:
        refused = asking.Refused(
            f"{there.address} refuses to answer as {there.model!r} ({said})",
            where=f"question {question!r}" if question else "",
            fix="Answers that are finished are kept: correct it and run the same again.",
        )
        refused.said, refused.too_long = said, bool(_TOO_LONG.search(str(error)))
        return refused
    wait = asking.retry_after(error.response.headers) or 0.0
    used_up = error.code == "insufficient_quota"
    if used_up:
        what, fix = f"the account is used up ({said})", "Fill it up."
    elif wait > asking.PATIENCE:
        what, fix = f"asks to wait {wait:.0f} seconds ({said})", "Come again later."
    else:
        what = f"failed again and again with status {status} ({said})"
        fix = f"See its log; does it have {there.model!r}?"
    failed = asking.Unanswered(what, where=there.address, fix=fix)
    failed.all_are = used_up or wait > asking.PATIENCE
    return failed


def _told(there: asking.Endpoint, error: Exception) -> str:
    """What the server said, in one short line and without the key."""
    body = getattr(error, "body", None)
    said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
    if type(error) is openai.APIConnectionError and error.__cause__ is not None:
        said = error.__cause__
    text = " ".join(str(said or getattr(error, "message", "") or error).split())
    text = _LOOKS_LIKE_KEY.sub("***", there.clean(text)) or "it says no more"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class _Limited(openai.DefaultHttpxClient):
    """An HTTP client of which each request has an end and each response a size."""

    def __init__(self, seconds: float, pacer: asking.Pacer | None) -> None:
        super().__init__(timeout=seconds, headers={"Accept-Encoding": "identity"})
        self._seconds, self._pacer = seconds, pacer

    def send(self, request: Any, **how: Any) -> Any:
        """The whole response, in time, or `Unusable`, or `Halted`."""
        if self._pacer is not None and request.method == "POST":
            try:
                self._pacer.wait()
            except asking.Stopped:
                raise Halted from None
        response = self._in_time(request, how)
        if response.status_code == 429:
            if b"insufficient_quota" in response.content:
                response.headers["x-should-retry"] = "false"  # no waiting mends that
            elif self._pacer is not None:
                self._pacer.busy(response.headers)
        return response

    def _in_time(self, request: Any, how: dict[str, Any]) -> Any:
        """Headers may drip as well as a body, so the clock is another thread's."""
        given: float | None = request.extensions.get("timeout", {}).get("read")
        end = time.monotonic() + min(self._seconds, given or self._seconds)
        found: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def exchange() -> None:
            try:
                found.put((self._exchange(request, how, end), None))
            except BaseException as error:
                found.put((None, error))

        Thread(target=exchange, daemon=True).start()
        try:
            response, error = found.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:  # the other thread ends with its next byte, or with the client
            raise _httpx.ReadTimeout("late", request=request) from None
        if error is not None:
            raise error
        return response

    def _exchange(self, request: Any, how: dict[str, Any], end: float) -> Any:
        def origin(url: Any) -> tuple[str, str, int | None]:
            return url.scheme, url.host, url.port

        how = {**how, "stream": True, "follow_redirects": False}
        for _ in range(_HOPS):
            response = super().send(request, **how)
            try:
                following = response.next_request
                if following is None:
                    return _taken_in(response, end)
            finally:
                response.close()
                if self.is_closed:  # while this waited; no pool knows this connection any more
                    response.extensions["network_stream"].close()
            if origin(following.url) != origin(request.url):
                raise Elsewhere(f"redirects to {following.url.copy_with(userinfo=b'', query=None)}")
            request = following
        raise Unusable(f"redirects more than {_HOPS} times")


def _taken_in(response: Any, end: float) -> Any:
    """The same response with its body, unpacked."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > _LARGEST:
            raise Unusable(f"a response of more than {_LARGEST:,} bytes")
        if time.monotonic() > end:
            raise _httpx.ReadTimeout("late", request=response.request)
    own = {"content-encoding", "content-length", "transfer-encoding"}
    return type(response)(
        response.status_code,
        headers=[(k, v) for k, v in response.headers.multi_items() if k.lower() not in own],
        content=_unpacked(bytes(body), response.headers.get("content-encoding", "")),
        request=response.request,
        extensions=response.extensions,
    )


def _unpacked(body: bytes, encoding: str) -> bytes:
    packed = encoding.strip().lower()
    if packed in {"", "identity"} or not body:
        return body
    if packed not in _PACKED:
        raise Unusable(f"a response that is packed, though none was asked for ({packed[:20]})")
    try:
        content = zlib.decompressobj(_ANY_ZLIB).decompress(body, _LARGEST + 1)
    except zlib.error as error:
        raise Unusable("a packed response that cannot be unpacked") from error
    if len(content) > _LARGEST:
        raise Unusable(f"a response of more than {_LARGEST:,} bytes once unpacked")
    return content
