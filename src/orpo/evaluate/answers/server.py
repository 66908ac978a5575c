"""A model behind an OpenAI-compatible server, asked through the official client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeAlias

from orpo.data.types import Message
from orpo.evaluate.answers.endpoint import endpoint_at, is_about_length, wants_other_limit
from orpo.evaluate.answers.types import Answered, Asked
from orpo.evaluate.generation import Completion, Sampling

__all__ = ["ServerSource"]

_PROBE = 10.0  # seconds to find out whether anybody is there
_NEWER = "max_completion_tokens"  # what some servers call the limit, and nothing else

_Finished: TypeAlias = tuple[str, Answered] | Exception | None


class ServerSource:
    """A model behind a server.

    Args:
        model: Its name there.
        server: The server's address, such as "http://localhost:8000".
        api_key_env: Environment variable with the key; a server without keys needs none.

    Attributes:
        model: Its name there.

    Raises:
        ConfigError: The address is none, or the openai package is missing.
    """

    def __init__(self, model: str, server: str, api_key_env: str = "OPENAI_API_KEY") -> None:
        self.model = model
        self._endpoint = endpoint_at(server, api_key_env)
        self._endpoint.client().close()  # refused now, if it is not installed
        self._limit = "max_tokens"

    def identity(self) -> dict[str, Any]:
        """The name: the same model may answer from another address when a broken run goes on."""
        return {"served": self.model}

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[str, Answered]]:
        """(key, answer) of the wanted questions as they are finished, several asked at once.

        Lost connections, busy and failing servers are tried again, with growing pauses. Where one
        question fails for good, those that are under way are waited for before the error is
        raised: they may have been paid for.
        """
        with self._endpoint.client() as self._client:
            yield from self._answers(asked, sampling)

    def _answers(
        self, asked: Sequence[Asked], sampling: Sampling
    ) -> Iterator[tuple[str, Answered]]:
        self._probe()
        waiting: SimpleQueue[Asked] = SimpleQueue()
        for one in asked:
            if one.wanted:
                waiting.put(one)
        finished: SimpleQueue[_Finished] = SimpleQueue()
        stop = Event()
        running = min(sampling.batch_size, waiting.qsize())
        for _ in range(running):  # daemons: Ctrl-C need not wait for a slow answer
            Thread(target=self._work, args=(waiting, finished, stop, sampling), daemon=True).start()
        failed: Exception | None = None
        try:
            while running:
                found = finished.get()
                if found is None:
                    running -= 1
                elif isinstance(found, Exception):
                    failed = failed or found
                else:
                    yield found
        finally:
            stop.set()
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Nothing is held: connections live as long as the questions that are asked."""

    def _work(
        self,
        waiting: SimpleQueue[Asked],
        finished: SimpleQueue[_Finished],
        stop: Event,
        sampling: Sampling,
    ) -> None:
        try:
            while not stop.is_set():
                one = waiting.get_nowait()
                finished.put((one.key, self._converse(one, sampling)))
        except Empty:
            pass
        except Exception as error:  # raised where the answers are waited for
            stop.set()
            finished.put(error)
        finally:
            finished.put(None)

    def _converse(self, one: Asked, sampling: Sampling) -> Answered:
        """Every turn of a question, each with the answers before it."""
        said: list[Completion] = []
        for _ in one.question.turns:
            messages = one.question.conversation([done.text for done in said])
            try:
                said.append(self._complete(messages, sampling, sampling.seed + one.repeat))
            except Exception as error:
                if not is_about_length(error):
                    raise self._explained(error, one.question.id) from error
                said.append(Completion("", truncated=True))  # as a model here does
        return Answered(
            one.question,
            tuple(done.text for done in said),
            self.model,
            tuple(done.truncated for done in said),
        )

    def _complete(self, messages: list[Message], sampling: Sampling, seed: int) -> Completion:
        """One answer; a question that is asked again has another seed, and so another answer."""
        settings: dict[str, Any] = {"temperature": sampling.temperature, "seed": seed}
        if sampling.top_p < 1:
            settings["top_p"] = sampling.top_p
        limit = self._limit
        try:
            reply = self._create(messages, settings, {limit: sampling.max_new_tokens})
        except Exception as error:
            if limit == _NEWER or not wants_other_limit(error):
                raise
            self._limit = _NEWER  # for all that follow
            reply = self._create(messages, settings, {_NEWER: sampling.max_new_tokens})
        choice = reply.choices[0]
        text = choice.message.content or ""
        if not isinstance(text, str):
            raise TypeError(text)
        whole = text.encode("utf-8", "replace").decode()  # a file holds no half characters
        return Completion(whole.strip(), truncated=choice.finish_reason == "length")

    def _create(
        self, messages: list[Message], settings: dict[str, Any], limit: dict[str, int]
    ) -> Any:
        return self._client.chat.completions.create(
            model=self.model, messages=messages, **settings, **limit
        )

    def _probe(self) -> None:
        """Find out whether anybody is there, and whether the key is right, before all retries.

        Not every server has a list of models, so what it says otherwise does not matter.
        """
        try:
            self._client.with_options(max_retries=0, timeout=_PROBE).models.list()
        except Exception as error:
            absent = type(error).__name__ == "APIConnectionError"
            if absent or getattr(error, "status_code", None) in {401, 403}:
                raise self._explained(error, "") from error

    def _explained(self, error: Exception, question: str) -> Exception:
        return self._endpoint.explain(error, self.model, question) or error
