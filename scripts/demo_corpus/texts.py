"""What the texts of one language must provide; see `texts_en` and `texts_zh`."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["free", "sentence", "value", "brackets"]
"""What the prompt asks of the answer's form; "free" asks nothing."""

FORMATS: tuple[Format, ...] = ("free", "sentence", "value", "brackets")


@dataclass(frozen=True)
class Texts:
    """Wordings of one language.

    Placeholders: `{a}`, `{b}` the first two operands, `{list}` all of them, `{x}` the argument in
    words, `{r}` the result.

    Attributes:
        prompts: Task -> wordings of the question. The last one never occurs in preference training.
        requests: Format -> ways to ask for it, appended to the question.
        bodies: Task (for yes/no tasks `task:result`) -> ways to state the result in a sentence.
        openers: Courteous beginnings of such a sentence.
        refusals: Refusals without cause.
        musings: Sentences that lead a rambling answer in.
        digressions: Sentences that lead it astray.
        doubts: Sentences that state a result without conviction.
        arguments: Argument -> its words.
        results: Result item that is not a lexicon word -> its word.
        comma: What separates the items of a list.
        space: What separates sentences.
    """

    prompts: dict[str, tuple[str, ...]]
    requests: dict[Format, tuple[str, ...]]
    bodies: dict[str, tuple[str, ...]]
    openers: tuple[str, ...]
    refusals: tuple[str, ...]
    musings: tuple[str, ...]
    digressions: tuple[str, ...]
    doubts: tuple[str, ...]
    arguments: dict[str, str]
    results: dict[str, str]
    comma: str
    space: str
