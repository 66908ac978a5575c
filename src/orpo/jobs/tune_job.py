"""Learning rate and lambda by short runs: a study, a choice, and a test that no trial has seen."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from orpo.errors import RunStopped, TrainingError, UserError
from orpo.experiments.tasks import load_checker
from orpo.jobs.tune.budget import Budget, plan_steps
from orpo.jobs.tune.choice import Choice, choose
from orpo.jobs.tune.folder import claim_tuning, kept_comparison, leave_nothing
from orpo.jobs.tune.identity import identity_of, require_same
from orpo.jobs.tune.recipe import write_recipe
from orpo.jobs.tune.result import measures_of, result_of
from orpo.jobs.tune.runs import Pruned, Runs, Speed
from orpo.jobs.tune.score import pair_scores
from orpo.jobs.tune.signals import Stop, Stopped
from orpo.jobs.tune.spec import TuneJob, Values
from orpo.jobs.tune.study import Study, Tried, require_optuna
from orpo.jobs.tune.words import recipe_words
from orpo.runs import EVALUATION, run_lock, write_json

__all__ = ["TuneJob", "run_tune"]

Say = Callable[[str], None]
_BATCH = " The batch is in"  # of a folder that is gone with its run
_OF_THE_TEST = 1
"""Added to the seed for the two runs of the comparison: no trial has seen their order of data."""


def run_tune(
    job: TuneJob,
    *,
    say: Say,
    overwrite: bool = False,
    callbacks: Callable[[], list[TrainerCallback]] = list,
) -> dict[str, Any]:
    """Search, recommend, compare with what the search started from, and write the page.

    Args:
        job: What is tuned, and within which budget.
        say: Told, line by line, what happens.
        overwrite: Begin anew where the folder holds a study of its own.
        callbacks: Makes callbacks for each run, such as a progress display.

    Returns:
        What evaluation.json holds, and the paths of recipe and page.

    Raises:
        UserError: Wrong input.
        TrainingError: No trial came to its end.
        RunStopped: A signal arrived; what was found so far is written.
    """
    require_optuna()
    grade = load_checker(job.checker) if job.checker else None
    with run_lock(job.folder), Stop() as stop:
        budget = Budget(job.minutes)
        fresh = claim_tuning(job, overwrite=overwrite)
        work: _Tuning | None = None
        try:
            found = Study.find(job)  # a storage out of reach is told of before anything loads
            runs = Runs(job, grade=grade, callbacks=callbacks)
            for line in runs.notes:
                say(line)
            work = _Tuning(job, runs, budget, stop, say)
            work.search(found)
        except UserError:
            if fresh and (work is None or work.study is None):
                leave_nothing(job.folder)
            raise
        except Stopped:
            assert work is not None
            work.conclude(compared=False)
            raise RunStopped(work.stopped_words(), stop.number) from None
        return work.conclude(compared=True)


class _Tuning:
    """One call of `orpo tune`."""

    def __init__(self, job: TuneJob, runs: Runs, budget: Budget, stop: Stop, say: Say) -> None:
        self.job, self.runs, self.budget, self.stop, self.say = job, runs, budget, stop, say
        self.study: Study | None = None
        self.speed = Speed(0.0, 0.0, 0.0)

    def search(self, found: Study | None) -> None:
        """Begin or join the study, and run trials until the budget is used up."""
        with self.stop.raising():
            self.speed = self.runs.speed()
        self.say(
            f"a step takes {self.speed.step:.2f} s, a score {self.speed.around:.1f} s, "
            f"the test {self.speed.testing:.1f} s"
        )
        settings = identity_of(self.job, self.runs)
        if found is None:
            steps = plan_steps(self.job, self.speed, self.runs.full_steps, self.budget)
            found = Study.begin(self.job, settings, steps)
        self.study = found
        require_same(found, settings, self.job)
        self._tell_beginning()
        begun = 0
        while self._may_go_on(begun):
            self._trial()
            begun += 1

    def _tell_beginning(self) -> None:
        study, sizes = self._study, self.runs.sizes
        swept = study.sweep()
        there = len(study.tried())
        if there:
            cut_off = f", {swept} of them cut off and to be run again" if swept else ""
            self.say(f"going on with a study of {there} trials{cut_off}")
        self.say(
            f"trials of {study.steps} steps of {self.runs.batch} pairs (the recipe takes "
            f"{self.runs.full_steps}); {sizes['train']} training pairs; held out: "
            f"{sizes['choosing']} to choose by, {sizes['test']} others for the test"
        )

    def _may_go_on(self, begun: int) -> bool:
        ended = sum(one.state != "cut off" for one in self._study.tried())
        if self.job.trials is not None and ended >= self.job.trials:
            return False
        return self.budget.allows(self.speed, self._study.steps)

    @property
    def _study(self) -> Study:
        assert self.study is not None
        return self.study

    def _trial(self) -> None:
        trial, values = self._study.ask()
        begun = time.perf_counter()

        def not_worth_it(step: int, score: float) -> bool:
            trial.report(score, step)
            return bool(not trial.user_attrs.get("start") and trial.should_prune())

        try:
            with self.stop.raising():
                done = self.runs.run(values, self._study.steps, self.job.config.seed, not_worth_it)
        except Pruned:
            self._study.keep(trial, seconds=time.perf_counter() - begun)
            self._study.prune(trial)
        except TrainingError as error:
            self._study.fail(trial, str(error).partition(_BATCH)[0])
        except BaseException as error:
            again = values if isinstance(error, Stopped) else None
            reason = "stopped" if again else f"{type(error).__name__}: {error}"
            self._study.fail(trial, reason, again=again)
            raise
        else:
            score = pair_scores(done.pairs.chosen, done.pairs.rejected).mean()
            self.budget.whole.append(done.seconds)
            self._study.keep(
                trial,
                chosen=_short(done.pairs.chosen),
                rejected=_short(done.pairs.rejected),
                steps=self._study.steps,
                seconds=done.seconds,
            )
            self._study.complete(trial, float(score))
        self._tell(trial.number)

    def _tell(self, number: int) -> None:
        tried = self._study.tried()
        one = next(t for t in tried if t.number == number)
        head = f"trial {number}, {self.budget.used:.0f} s: {one.values}"
        if one.state == "failed":
            self.say(f"{head}: broke: {one.reason}")
            return
        assert one.score is not None
        scored = f"score {one.score:.4f}".replace("-", "−")
        if one.state == "pruned":
            self.say(f"{head}: given up at step {one.reached}, {scored}")
            return
        best = max(t.score for t in tried if t.state == "complete" and t.score is not None)
        mark = ", the best so far" if one.score >= best else ""
        self.say(f"{head}: {scored}{mark}")

    # What came of it

    def conclude(self, *, compared: bool) -> dict[str, Any]:
        """Choose, compare if there is something to compare, and write everything.

        Raises:
            TrainingError: No trial came to its end, and none was cut off.
        """
        if self.study is None:
            return {}
        tried, prompts = self._study.tried(), self.runs.prompts
        choice = choose(tried, prompts)
        if choice is None:
            broken = [one.reason for one in tried if one.state == "failed"]
            if compared:
                raise TrainingError(
                    f"no trial came to its end; the last broke: {broken[-1] if broken else '?'}"
                )
            return {}
        comparison = self._comparison(tried, choice, run=compared)
        result = result_of(self.job, self._study, self.runs, tried, choice, comparison)
        result |= {"finished": compared, "seconds": self.budget.used}
        write_json(self.job.folder / EVALUATION, result)
        best = Values(**result["recommended"]["values"])
        recipe = write_recipe(self.job, best, recipe_words(result))
        page = _write_page(result, self.job.folder)
        return {**result, "recipe": str(recipe), "report": str(page)}

    def _comparison(
        self, tried: list[Tried], choice: Choice, *, run: bool
    ) -> dict[str, Any] | None:
        """The best beside the start on pairs that no trial has seen; None if there is nothing."""
        start, best = self._study.start, choice.best.values
        broken = any(one.start and one.state == "failed" for one in tried)
        whole = any(one.start and one.state == "complete" for one in tried)
        if any(one.start for one in choice.near) or (broken and not whole):
            return None
        seed, steps = self.job.config.seed + _OF_THE_TEST, self._study.steps
        key = {"start": start.as_dict(), "best": best.as_dict(), "steps": steps, "seed": seed}
        key |= {"checker": self.job.checker, "facts": self.runs.facts}
        kept = kept_comparison(self.job.folder, key)
        if kept is not None or not run:
            return kept
        self.say(f"the test: {best} beside {start}, trained once more with seed {seed}")
        with self.stop.raising():
            before = self.runs.test(start, steps, seed)
            after = self.runs.test(best, steps, seed)
        return {"key": key, "seed": seed, "measures": measures_of(before, after)}

    def stopped_words(self) -> str:
        """Where it stands, and how it goes on."""
        ended = [one for one in self.study.tried() if one.score is not None] if self.study else []
        name = signal.Signals(self.stop.number).name
        kept = f"{len(ended)} trials are kept" if ended else "no trial had ended"
        return f"stopped by {name}: {kept}; the same command goes on from there."


def _short(values: Any) -> list[float]:
    return [float(f"{value:.8g}") for value in values]


def _write_page(result: Mapping[str, Any], folder: Path) -> Path:
    from orpo.report import write_evaluation_page  # noqa: PLC0415 - matplotlib loads in seconds
    from orpo.report.evaluation.tuning import build_page  # noqa: PLC0415

    return write_evaluation_page(build_page(result, folder), folder)
