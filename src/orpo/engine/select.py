"""Which engine takes the pairs through this model, and why."""

from __future__ import annotations

from typing import Any

from orpo.engine.padded import PaddedEngine
from orpo.engine.types import Engine
from orpo.errors import ConfigError

__all__ = ["select_engine"]


def select_engine(requested: str, model_config: Any, nll_scope: str) -> tuple[Engine, str]:
    """The engine for a model, with one line that says why.

    Args:
        requested: `ORPOConfig.engine`.
        model_config: The model's configuration.
        nll_scope: `ORPOConfig.nll_scope`.

    Raises:
        ConfigError: The requested engine does not exist for this model.
    """
    if requested == "shared":
        raise ConfigError(
            "the shared engine is not part of this version",
            where="engine",
            fix="Use engine='auto' or 'padded'.",
        )
    router_loss = bool(getattr(model_config, "output_router_logits", False))
    why = "asked for" if requested == "padded" else "works with every decoder-only model"
    return PaddedEngine(nll_scope=nll_scope, router_loss=router_loss), f"padded engine ({why})"
