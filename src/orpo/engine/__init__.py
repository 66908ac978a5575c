"""How a batch of pairs goes through a model."""

from orpo.engine.allocation import keep_freed_memory
from orpo.engine.apart import ApartEngine
from orpo.engine.attention import transformer
from orpo.engine.casts import share_casts
from orpo.engine.compiling import (
    can_compile,
    compile_blocks,
    compile_head,
    pays,
    uncompile_blocks,
)
from orpo.engine.look import Look, freeze, look_through, make_steady
from orpo.engine.memory import MemoryEstimate, Precision, estimate_memory, most_positions
from orpo.engine.microbatch import cut, even_bins, pack_bins, positions_of
from orpo.engine.noise import noise_columns
from orpo.engine.padded import PaddedEngine
from orpo.engine.select import expect_engine, select_engine
from orpo.engine.shared import SharedEngine
from orpo.engine.text import has_last_position, positions_of_text
from orpo.engine.types import Engine, EngineOutput, Objective

__all__ = [
    "ApartEngine",
    "Engine",
    "EngineOutput",
    "Look",
    "MemoryEstimate",
    "Objective",
    "PaddedEngine",
    "Precision",
    "SharedEngine",
    "can_compile",
    "compile_blocks",
    "compile_head",
    "cut",
    "estimate_memory",
    "even_bins",
    "expect_engine",
    "freeze",
    "has_last_position",
    "keep_freed_memory",
    "look_through",
    "make_steady",
    "most_positions",
    "noise_columns",
    "pack_bins",
    "pays",
    "positions_of",
    "positions_of_text",
    "select_engine",
    "share_casts",
    "transformer",
    "uncompile_blocks",
]
