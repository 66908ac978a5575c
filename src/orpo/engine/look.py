"""What a text meets on its way through a model, found out with one that is short and random.

* Whether a token's prediction depends on what comes after it: then the method has no meaning.
* Which modules draw random numbers in training though every dropout is off, such as routers that
  jitter: what they give would depend on which pairs are computed together.
* Which weights of a model that also sees or hears are reached by no text.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orpo.engine import probing
from orpo.engine.attention import transformer
from orpo.errors import ModelError, UserError

REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What a model's own code raises where it cannot take what it is given."""
_TOKENS = 16


@dataclass(frozen=True)
class Look:
    """What was found, by the names of modules and parameters."""

    random: tuple[str, ...] = ()  # modules that draw random numbers in training
    unreached: tuple[str, ...] = ()  # trained parameters that no text reaches


def look_through(model: nn.Module) -> Look:
    """Send a short text through a model and watch.

    A ModelError if the model cannot take a text, or predicts a token from those after it.
    """
    device = next(model.parameters()).device
    count = max(2, min(_TOKENS, probing.positions_of_text(model) or _TOKENS))
    ids = torch.tensor(
        [probing.random_ids(model, count, torch.Generator().manual_seed(0))], device=device
    )
    try:
        with probing.on_trial(model), torch.no_grad():
            _require_causal(model, ids)
        with probing.on_trial(model, training=True), probing.without_checkpointing(model):
            return _watched(model, ids)
    except UserError:
        raise
    except REFUSALS as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(
            f"the model cannot be trained on text ({first.rstrip('.')})",
            where=type(transformer(model) or model).__name__,
            fix="Use a causal language model such as Llama, Qwen or Mistral.",
        ) from error


def make_steady(model: nn.Module, names: Sequence[str]) -> None:
    """Have these modules compute as in evaluation, also while the model is trained."""
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, _inputs: setattr(module, "training", False)
        )


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Train these parameters no longer."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    torch.manual_seed(0)  # for a model that draws random numbers even so
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _require_causal(model: nn.Module, ids: Tensor) -> None:
    other = ids.clone()
    other[0, -1] = ids[0, 0] if ids[0, 0] != ids[0, -1] else ids[0, 1]
    moved = (_logits(model, ids) - _logits(model, other))[0].double().abs()
    rounding = 1e-3 if all(p.dtype.itemsize >= 4 for p in model.parameters()) else 5e-2
    if moved[:-1].max() > rounding * moved[-1].max():
        raise ModelError(
            "the model sees what comes after a token; orpo trains decoder-only models",
            where=type(transformer(model) or model).__name__,
            fix="Use a causal language model such as Llama, Qwen or Mistral.",
        )


def _watched(model: nn.Module, ids: Tensor) -> Look:
    config = getattr(transformer(model), "config", None)
    with torch.enable_grad(), _watching(model) as (drawing, called):
        logits = _logits(model, ids)
    found: list[tuple[str, nn.Parameter]] = []
    if probing.text_config(model) is not config:
        found = [(n, p) for n, p in _beside_the_text(model, called) if p.requires_grad]
    grads: Sequence[Tensor | None] = []
    if found and logits.requires_grad:
        grads = torch.autograd.grad(logits.sum(), [p for _, p in found], allow_unused=True)
    unreached = [n for (n, _), grad in zip(found, grads, strict=False) if grad is None]
    return Look(tuple(drawing), tuple(unreached))


@contextmanager
def _watching(model: nn.Module) -> Iterator[tuple[list[str], set[nn.Module]]]:
    """Names of modules that draw random numbers themselves, and all that are called, within it."""
    names = {module: name for name, module in model.named_modules()}
    drawing: dict[str, None] = {}
    called: set[nn.Module] = set()
    within: list[nn.Module] = []
    last = _random_state()

    def look() -> None:
        nonlocal last
        now = _random_state()
        if now != last and within:
            drawing[names[within[-1]]] = None
        last = now

    def before(module: nn.Module, _inputs: Any) -> None:
        look()
        called.add(module)
        within.append(module)

    def after(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        look()
        within.pop()

    handles = [m.register_forward_pre_hook(before) for m in names]
    handles += [m.register_forward_hook(after) for m in names]
    told: list[str] = []
    try:
        yield told, called
    finally:
        told += drawing
        for handle in handles:
            handle.remove()


def _random_state() -> tuple[Any, ...]:
    """Of everything that random numbers are drawn from."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    own = tuple(state.numpy().tobytes() for state in states)
    numpys: Any = np.random.get_state(legacy=False)
    return *own, numpys["state"]["key"].tobytes(), numpys["state"]["pos"], random.getstate()


def _beside_the_text(
    model: nn.Module, called: set[nn.Module]
) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of modules that a text does not call; an expert that was not chosen counts not.

    Within the part that reads these are only layers of a kind of their own, such as attention to
    an image.
    """
    bare = transformer(model)
    assert bare is not None
    reader = bare.get_decoder()
    reached = {p for module in called for p in module.parameters(recurse=False)}

    def walk(module: nn.Module, prefix: str, *, inside: bool) -> Iterator[tuple[str, nn.Parameter]]:
        inside = inside or module is reader
        kinds = {type(child) for child in module.children() if child in called}
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            is_list = isinstance(module, nn.ModuleList)
            if child in called or isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield from walk(child, f"{path}.", inside=inside)
            elif type(child) not in kinds if is_list else not inside:
                own = child.named_parameters()
                yield from ((f"{path}.{n}", p) for n, p in own if p not in reached)

    yield from walk(model, "", inside=False)
