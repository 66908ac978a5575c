"""The official client, with limits: what answers at an address may be anything.

Every request has an end, however slowly its response drips; a response has a size, packed and
unpacked; and none is taken from another address than the one that was given, which would get to
see what is asked and perhaps the key.
"""

from __future__ import annotations

import threading
import time
import zlib
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

import openai

from orpo.evaluate.pacing import Pacer, Stopped

LARGEST = 8 * 2**20
"""Bytes of a response: a hundred times the longest answer with all its log-probabilities."""

_HOPS = 5  # redirects within one address
_PACKED = {"gzip", "x-gzip", "deflate"}
_ANY_ZLIB = 47  # zlib's number for: whatever header there is
# The client repeats what its own library of HTTP calls late; it goes by httpx or httpx2.
_httpx: Any = import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


class Unusable(openai.OpenAIError):
    """A response that is not taken in; says why."""


class Elsewhere(Unusable):
    """A redirect to another address; nothing was sent there."""


class Halted(openai.OpenAIError):
    """Not sent: the others have stopped."""


def connect(
    base_url: str | None, key: str, *, seconds: float, retries: int, pacer: Pacer | None = None
) -> Any:
    """An `openai.OpenAI` whose requests are limited; whoever opens it closes it.

    Args:
        base_url: Of the server; OpenAI's own if absent.
        key: Its key.
        seconds: That a request may take in all, its response included.
        retries: How often the client repeats a request by itself.
        pacer: Lets requests go, repeated ones too.
    """
    http = _Limited(seconds, pacer)
    return openai.OpenAI(
        api_key=key, base_url=base_url, timeout=seconds, max_retries=retries, http_client=http
    )


class _Limited(openai.DefaultHttpxClient):
    """An HTTP client of which each request has an end and each response a size."""

    def __init__(self, seconds: float, pacer: Pacer | None) -> None:
        super().__init__(timeout=seconds, headers={"Accept-Encoding": "identity"})
        self._seconds, self._pacer = seconds, pacer

    def send(self, request: Any, **how: Any) -> Any:
        """The whole response; its headers may drip as well, so the clock is another thread's.

        Raises:
            httpx.ReadTimeout: It was not there in time.
            Unusable: It is too large, or comes from elsewhere.
            Halted: The others have stopped.
        """
        if self._pacer is not None and request.method == "POST":
            try:
                self._pacer.wait()
            except Stopped:
                raise Halted from None
        response = self._in_time(request, how)
        if response.status_code == 429:
            if b"insufficient_quota" in response.content:
                response.headers["x-should-retry"] = "false"  # no waiting mends that
            elif self._pacer is not None:
                self._pacer.busy(response.headers)
        return response

    def _in_time(self, request: Any, how: dict[str, Any]) -> Any:
        given: float | None = request.extensions.get("timeout", {}).get("read")
        end = time.monotonic() + min(self._seconds, given or self._seconds)
        found: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def exchange() -> None:
            try:
                found.put((self._exchange(request, how, end), None))
            except BaseException as error:
                found.put((None, error))

        threading.Thread(target=exchange, daemon=True).start()
        try:
            response, error = found.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:  # the other thread ends with its next byte, or with the client
            raise _httpx.ReadTimeout("late", request=request) from None
        if error is not None:
            raise error
        return response

    def _exchange(self, request: Any, how: dict[str, Any], end: float) -> Any:
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
            if _origin(following.url) != _origin(request.url):
                raise Elsewhere(f"redirects to {following.url.copy_with(userinfo=b'', query=None)}")
            request = following
        raise Unusable(f"redirects more than {_HOPS} times")


def _taken_in(response: Any, end: float) -> Any:
    """The same response with its body, unpacked."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > LARGEST:
            raise Unusable(f"a response of more than {LARGEST:,} bytes")
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
        content = zlib.decompressobj(_ANY_ZLIB).decompress(body, LARGEST + 1)
    except zlib.error as error:
        raise Unusable("a packed response that cannot be unpacked") from error
    if len(content) > LARGEST:
        raise Unusable(f"a response of more than {LARGEST:,} bytes once unpacked")
    return content


def _origin(url: Any) -> tuple[str, str, int | None]:
    """Scheme, host and port: who is spoken to."""
    return url.scheme, url.host, url.port
