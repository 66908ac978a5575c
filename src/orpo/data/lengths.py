"""What happens to a pair that is longer than the model may see.

A pair that fits is never touched. An answer that was cut has lost its end-of-turn token, so the
model is not taught to stop there.
"""

from dataclasses import dataclass, replace

from orpo.data.types import Dropped, TokenizedPair
from orpo.errors import DataError

TRUNCATIONS = ("truncate_answer", "keep_end", "keep_start", "drop", "error")
"""Each answer is cut on its own to the room that the prompt leaves, and a pair with too long a
prompt is dropped; the prompt is cut first and its end (or beginning) is kept; the pair is dropped;
the run stops and names the row."""

MIN_ANSWER_ROOM = 16
"""Tokens that an over-long pair's prompt must leave to the answers."""


class TooLongError(DataError):
    """A pair that is too long where `truncation` is "error"."""


@dataclass(frozen=True)
class LengthPolicy:
    """The longest sequence, and how a pair is made to fit.

    Attributes:
        max_length: Tokens of prompt and answer together; None for no limit.
        max_prompt_length: Tokens of the prompt; None for no limit of its own.
        truncation: One of `TRUNCATIONS`.
    """

    max_length: int | None = 1024
    max_prompt_length: int | None = None
    truncation: str = "truncate_answer"

    def fit(self, pair: TokenizedPair, where: str, prefix: int = 0) -> TokenizedPair | Dropped:
        """The pair within the limits, or the reason why it is dropped.

        `prefix` leading tokens of the prompt (BOS) are preserved by `keep_end`.

        Raises:
            TooLongError: The pair is too long and `truncation` is "error".
        """
        if self._fits(pair):
            return pair
        lengths = _lengths(pair)
        if self.truncation == "error":
            limits = f"max_length={self.max_length}"
            if self.max_prompt_length is not None:
                limits += f", max_prompt_length={self.max_prompt_length}"
            what = f"the pair is too long ({lengths}) for {limits}"
            fix = "Raise max_length, shorten the row, or choose another truncation."
            raise TooLongError(what, where=where, fix=fix)
        if self.truncation == "drop":
            return Dropped("too_long", where, lengths)
        if self.truncation == "truncate_answer":
            if self._prompt_over(pair):
                return Dropped("prompt_too_long", where, lengths)
        else:
            pair = self._cut_prompt(pair, prefix)
        return self._cut_answers(pair, where)

    def _fits(self, pair: TokenizedPair) -> bool:
        longest = len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
        too_long = self.max_length is not None and longest > self.max_length
        return not too_long and not self._prompt_over(pair)

    def _prompt_over(self, pair: TokenizedPair) -> bool:
        return self.max_prompt_length is not None and len(pair.prompt_ids) > self.max_prompt_length

    def _cut_prompt(self, pair: TokenizedPair, prefix: int) -> TokenizedPair:
        prompt = pair.prompt_ids
        room = self._prompt_room(pair)
        if len(prompt) <= room:
            return pair
        if self.truncation == "keep_start":
            kept = prompt[:room]
        else:
            prefix = min(prefix, room)
            kept = prompt[:prefix] + prompt[len(prompt) - (room - prefix) :]
        return replace(pair, prompt_ids=kept, cut=(*pair.cut, "prompt"))

    def _prompt_room(self, pair: TokenizedPair) -> int:
        """max_prompt_length, or else what the longer answer leaves, but at least half."""
        if self.max_prompt_length is not None:
            return self.max_prompt_length
        assert self.max_length is not None
        answer = max(len(pair.chosen_ids), len(pair.rejected_ids))
        return max(self.max_length - answer, self.max_length // 2)

    def _cut_answers(self, pair: TokenizedPair, where: str) -> TokenizedPair | Dropped:
        if self._fits(pair):
            return pair
        assert self.max_length is not None
        room = self.max_length - len(pair.prompt_ids)
        if room < MIN_ANSWER_ROOM:
            return Dropped("prompt_too_long", where, _lengths(pair))
        chosen, rejected = pair.chosen_ids[:room], pair.rejected_ids[:room]
        if chosen == rejected:
            return Dropped("identical_after_truncation", where, _lengths(pair))
        both = {"chosen": pair.chosen_ids, "rejected": pair.rejected_ids}
        cut = (*pair.cut, *(name for name, ids in both.items() if len(ids) > room))
        return replace(pair, chosen_ids=chosen, rejected_ids=rejected, cut=cut)


def _lengths(pair: TokenizedPair) -> str:
    prompt, chosen, rejected = map(len, (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))
    return f"prompt {prompt}, chosen {chosen}, rejected {rejected} tokens"
