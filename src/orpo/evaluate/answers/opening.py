"""Who answers, from what the user named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate.answers.types import AnswerSource

__all__ = ["open_source_of_answers"]


def open_source_of_answers(
    model: str,
    *,
    server: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    raw: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
) -> AnswerSource:
    """A model that answers: loaded here through transformers, or behind a server.

    Args:
        model: A model folder, an adapter folder or a Hub id; with a server, its name there.
        server: Address of an OpenAI-compatible server: `vllm serve`, `transformers serve`, any
            other. "http://localhost:8000" means "http://localhost:8000/v1".
        api_key_env: Environment variable with the server's key; a server that asks for none needs
            none.
        dtype: Of the weights; "auto" keeps what they are saved in. Not for a server.
        trust_remote_code: Allow the model's own code to run. Not for a server.
        raw: Continue texts as they are, without a chat template. Not for a server.
        template_kwargs: Variables for the chat template that win over those of the training. Not
            for a server.

    Raises:
        ConfigError: The address is none, `raw` is asked of a server, or the openai package is
            missing.
        ModelError: The tokenizer cannot be loaded; the model is loaded with the first question.
    """
    if server is None:
        from orpo.evaluate.answers.local import LocalSource  # noqa: PLC0415 - loads transformers

        return LocalSource(
            model,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            raw=raw,
            template_kwargs=template_kwargs,
        )
    if template_kwargs:
        raise ConfigError(
            "a server renders its chat template itself",
            where="--chat_template_kwargs",
            fix="Set its defaults there, or leave out --server.",
        )
    if raw:
        raise ConfigError(
            "a server applies its chat template to whatever it is asked",
            where="--raw",
            fix="Leave out --raw or --server.",
        )
    from orpo.evaluate.answers.server import ServerSource  # noqa: PLC0415 - may be absent

    return ServerSource(model, server, api_key_env)
