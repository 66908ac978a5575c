"""The official client, with limits: what answers at an address may be anything.

Every request has an end, however slowly its response drips; a response has a size, packed and
unpacked; and none is taken from another address than the one that was given, which would get to
see what is asked and perhaps the key.
"""

from __future__ import annotations

import threading
import time
import zlib
from queue import Empty, SimpleQueue
from typing import Any

import openai

__all__ = ["Elsewhere", "Unusable", "connect"]

LARGEST = 8 * 2**20
"""Bytes of a response: a hundred times the longest answer with all its log-probabilities."""

_HOPS = 5  # redirects within one address
_PACKED = {"gzip", "x-gzip", "deflate"}
_ANY_ZLIB = 47  # zlib's number for: whatever header there is


class Unusable(openai.OpenAIError):
    """A response that is not taken in; says why."""


class Elsewhere(Unusable):
    """A redirect to another address; nothing was sent there."""


def connect(
    base_url: str | None, key: str, *, seconds: float, retries: int, largest: int = LARGEST
) -> Any:
    """An `openai.OpenAI` whose requests are limited; whoever opens it closes it.

    Args:
        base_url: Of the server; OpenAI's own if absent.
        key: Its key.
        seconds: That a request may take in all, its response included.
        retries: How often the client repeats a request by itself.
        largest: Bytes that a response may have.
    """
    http = _Limited(seconds, largest)
    return openai.OpenAI(
        api_key=key, base_url=base_url, timeout=seconds, max_retries=retries, http_client=http
    )


class _Limited(openai.DefaultHttpxClient):
    """An HTTP client of which each request has an end and each response a size."""

    def __init__(self, seconds: float, largest: int) -> None:
        super().__init__(timeout=seconds, headers={"Accept-Encoding": "identity"})
        self._seconds, self._largest = seconds, largest

    def send(self, request: Any, **how: Any) -> Any:
        """The whole response; its headers may drip as well, so the clock is another thread's.

        Raises:
            openai.APITimeoutError: It was not there in time.
            Unusable: It is too large, or comes from elsewhere.
        """
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
            raise openai.APITimeoutError(request=request) from None
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
                    return self._taken_in(response, end)
            finally:
                response.close()
                if self.is_closed:  # while this waited; no pool knows this connection any more
                    response.extensions["network_stream"].close()
            if _origin(following.url) != _origin(request.url):
                raise Elsewhere(f"redirects to {following.url.copy_with(userinfo=b'', query=None)}")
            request = following
        raise Unusable(f"redirects more than {_HOPS} times")

    def _taken_in(self, response: Any, end: float) -> Any:
        """The same response with its body, unpacked."""
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self._largest:
                raise Unusable(f"a response of more than {self._largest:,} bytes")
            if time.monotonic() > end:
                raise openai.APITimeoutError(request=response.request)
        own = {"content-encoding", "content-length", "transfer-encoding"}
        return type(response)(
            response.status_code,
            headers=[(k, v) for k, v in response.headers.multi_items() if k.lower() not in own],
            content=self._unpacked(bytes(body), response.headers.get("content-encoding", "")),
            request=response.request,
            extensions=response.extensions,
        )

    def _unpacked(self, body: bytes, encoding: str) -> bytes:
        packed = encoding.strip().lower()
        if packed in {"", "identity"} or not body:
            return body
        if packed not in _PACKED:
            raise Unusable(f"a response that is packed, though none was asked for ({packed[:20]})")
        try:
            content = zlib.decompressobj(_ANY_ZLIB).decompress(body, self._largest + 1)
        except zlib.error as error:
            raise Unusable("a packed response that cannot be unpacked") from error
        if len(content) > self._largest:
            raise Unusable(f"a response of more than {self._largest:,} bytes once unpacked")
        return content


def _origin(url: Any) -> tuple[str, str, int | None]:
    """Scheme, host and port: who is spoken to."""
    return url.scheme, url.host, url.port
