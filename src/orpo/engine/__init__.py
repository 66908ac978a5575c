"""How a batch of pairs goes through a model."""

from orpo.engine.padded import PaddedEngine
from orpo.engine.select import select_engine
from orpo.engine.types import Engine, EngineOutput, Objective

__all__ = ["Engine", "EngineOutput", "Objective", "PaddedEngine", "select_engine"]
