"""The demo's tasks: what can be asked, what is right, which mistakes are plausible.

An `Instance` is a task with its operands, free of language and wording. Every instance belongs to
one split for good: pre-training, preference training or held-out. The split hangs on the
instance's *family*, so that 25 + 17, 17 + 25 and 42 - 17, or all tasks over one set of words, never
stand on two sides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from demo_corpus.draw import Draw, digest
from demo_corpus.lexicon import WORDS

Split = Literal["pretrain", "train", "heldout"]
"""Where an instance may be used."""

Result = tuple[str, ...]
"""The items of an answer in order: numbers as digits, words in English."""


@dataclass(frozen=True)
class Instance:
    """One question free of wording, such as `Instance("add", ("17", "25"))`.

    `argument` says what the operands alone do not: which place to pick, how often to repeat,
    which order to sort in, which word to look for.
    """

    task: str
    operands: tuple[str, ...]
    argument: str = ""

    @property
    def numbers(self) -> list[int]:
        """The operands as numbers; only for tasks about numbers."""
        return [int(operand) for operand in self.operands]


@dataclass(frozen=True)
class Task:
    """How instances of one task are drawn, solved and got wrong.

    `mistakes` returns wrong results in a fixed order of kinds; none equals the right one.
    """

    draw: Callable[[Draw], Instance]
    solve: Callable[[Instance], Result]
    mistakes: Callable[[Instance], list[Result]]


def _strings(*numbers: int) -> tuple[str, ...]:
    return tuple(str(number) for number in numbers)


def _word_list(draw: Draw, low: int, high: int) -> tuple[str, ...]:
    return tuple(draw.distinct(WORDS, draw.number(low, high)))


def _near(instance: Instance, *offsets: int) -> list[Result]:
    value = int(solve(instance)[0])
    return [(str(value + offset),) for offset in offsets if value + offset >= 0]


def _draw_add(draw: Draw) -> Instance:
    return Instance("add", _strings(draw.number(10, 99), draw.number(10, 99)))


def _draw_subtract(draw: Draw) -> Instance:
    rest, taken = draw.number(10, 89), draw.number(10, 89)
    return Instance("subtract", _strings(rest + taken, taken))


def _draw_two_numbers(task: str) -> Callable[[Draw], Instance]:
    def draw_instance(draw: Draw) -> Instance:
        first = draw.number(100, 999)
        second = first
        while second == first:
            close = draw.chance(0.5)
            second = 100 * (first // 100) + draw.number(0, 99) if close else draw.number(100, 999)
        return Instance(task, _strings(first, second))

    return draw_instance


def _draw_sort(draw: Draw) -> Instance:
    numbers = draw.distinct(range(10, 100), 3)
    return Instance("sort", _strings(*numbers), draw.pick(("ascending", "descending")))


def _solve_sort(instance: Instance) -> Result:
    return _strings(*sorted(instance.numbers, reverse=instance.argument == "descending"))


def _mistakes_sort(instance: Instance) -> list[Result]:
    first, second, third = solve(instance)
    return [(third, second, first), (second, first, third), (first, third, second)]


def _mistakes_reverse(instance: Instance) -> list[Result]:
    right = instance.operands[::-1]
    return [instance.operands, right[1:], (right[1], right[0], *right[2:])]


def _draw_pick(draw: Draw) -> Instance:
    words = _word_list(draw, 3, 5)
    return Instance("pick", words, draw.pick(("1", "2", "3", "last")))


def _picked(instance: Instance) -> int:
    last = instance.argument == "last"
    return len(instance.operands) - 1 if last else int(instance.argument) - 1


def _mistakes_pick(instance: Instance) -> list[Result]:
    place, words = _picked(instance), instance.operands
    return [(words[(place + step) % len(words)],) for step in (1, len(words) - 1)]


def _draw_repeat(draw: Draw) -> Instance:
    item = draw.pick(WORDS) if draw.chance(0.6) else str(draw.number(10, 99))
    return Instance("repeat", (item,), str(draw.number(2, 6)))


def _repeated(instance: Instance, extra: int = 0) -> Result:
    return instance.operands * (int(instance.argument) + extra)


def _draw_sequence(draw: Draw) -> Instance:
    start, step = draw.number(1, 60), draw.number(2, 12)
    return Instance("sequence", _strings(start, start + step, start + 2 * step))


def _solve_sequence(instance: Instance) -> Result:
    _, second, third = instance.numbers
    return _strings(2 * third - second)


def _mistakes_translate(instance: Instance) -> list[Result]:
    right = instance.operands
    other = WORDS[(WORDS.index(right[-1]) + 7) % len(WORDS)]
    return [(*right[:-1], other), right[::-1], right[:-1]]


def _draw_contains(draw: Draw) -> Instance:
    words = draw.distinct(WORDS, draw.number(3, 5) + 1)
    target = words[0] if draw.chance(0.5) else draw.pick(words[1:])
    return Instance("contains", tuple(words[1:]), target)


def _solve_contains(instance: Instance) -> Result:
    return ("yes",) if instance.argument in instance.operands else ("no",)


def _solve_parity(instance: Instance) -> Result:
    return ("odd",) if instance.numbers[0] % 2 else ("even",)


def _other(*answers: str) -> Callable[[Instance], list[Result]]:
    return lambda instance: [(item,) for item in answers if (item,) != solve(instance)]


def _other_operand(instance: Instance) -> list[Result]:
    return [(item,) for item in instance.operands if (item,) != solve(instance)]


TASKS: dict[str, Task] = {
    "add": Task(
        _draw_add,
        lambda instance: _strings(sum(instance.numbers)),
        lambda instance: _near(instance, 1, -1, 10, -10, 2),
    ),
    "subtract": Task(
        _draw_subtract,
        lambda instance: _strings(instance.numbers[0] - instance.numbers[1]),
        lambda instance: _near(instance, 1, -1, 10, -10, 2),
    ),
    "larger": Task(
        _draw_two_numbers("larger"),
        lambda instance: _strings(max(instance.numbers)),
        _other_operand,
    ),
    "smaller": Task(
        _draw_two_numbers("smaller"),
        lambda instance: _strings(min(instance.numbers)),
        _other_operand,
    ),
    "sort": Task(_draw_sort, _solve_sort, _mistakes_sort),
    "sequence": Task(
        _draw_sequence, _solve_sequence, lambda instance: _near(instance, 1, -1, 2, 10)
    ),
    "parity": Task(
        lambda draw: Instance("parity", _strings(draw.number(100, 9999))),
        _solve_parity,
        _other("even", "odd"),
    ),
    "count": Task(
        lambda draw: Instance("count", _word_list(draw, 2, 7)),
        lambda instance: _strings(len(instance.operands)),
        lambda instance: _near(instance, 1, -1),
    ),
    "reverse": Task(
        lambda draw: Instance("reverse", _word_list(draw, 3, 5)),
        lambda instance: instance.operands[::-1],
        _mistakes_reverse,
    ),
    "pick": Task(
        _draw_pick, lambda instance: (instance.operands[_picked(instance)],), _mistakes_pick
    ),
    "repeat": Task(
        _draw_repeat, _repeated, lambda instance: [_repeated(instance, 1), _repeated(instance, -1)]
    ),
    "contains": Task(_draw_contains, _solve_contains, _other("yes", "no")),
    "translate": Task(
        lambda draw: Instance("translate", _word_list(draw, 2, 3)),
        lambda instance: instance.operands,
        _mistakes_translate,
    ),
}
"""Every task by name."""


def solve(instance: Instance) -> Result:
    """Return the right result."""
    return TASKS[instance.task].solve(instance)


def mistakes(instance: Instance) -> list[Result]:
    """Return plausible wrong results, the kinds in an order that is fixed for each task."""
    return TASKS[instance.task].mistakes(instance)


def family(instance: Instance) -> str:
    """Return the fact that the instance rests on; instances of one family share a split."""
    operands = instance.operands
    if instance.task in ("add", "subtract"):
        parts = operands if instance.task == "add" else (operands[1], solve(instance)[0])
        return "sum:" + ",".join(sorted(parts))
    if instance.task == "repeat":
        return f"repeat:{operands[0]}:{instance.argument}"
    if operands[0].isdigit():
        return "numbers:" + ",".join(sorted(operands))
    return "words:" + ",".join(sorted(operands))


def split_of(instance: Instance) -> Split:
    """Return the one split in which the instance may be used."""
    bucket = digest(family(instance)) % 100
    if bucket < 70:
        return "pretrain"
    return "train" if bucket < 88 else "heldout"


def draw_instance(draw: Draw, task: str, split: Split) -> Instance:
    """Draw an instance of `task` that belongs to `split`."""
    while True:
        instance = TASKS[task].draw(draw)
        if split_of(instance) == split:
            return instance
