"""Learning rate and lambda by short runs: a study, a choice, and a test that no trial has seen."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from orpo.errors import ConfigError, DataError, RunStopped, TrainingError, UserError
from orpo.experiments.choice import (
    Choice,
    choose,
    measures_of,
    pair_scores,
    recommend,
    told_trials,
)
from orpo.experiments.measuring import machine
from orpo.experiments.study import JOURNAL, Study, Tried, require_optuna
from orpo.experiments.tasks import load_checker
from orpo.experiments.trials import Pruned, Runs
from orpo.experiments.tune_plan import Budget, TuneJob
from orpo.experiments.tuning import KIND, STATES, FinalTest, TuningResult, Values
from orpo.runs.claim import claim_folder, flat
from orpo.runs.files import EVALUATION, RECIPE, REPORT, write_json, yaml_text
from orpo.runs.lock import run_lock
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.runs.writing import remove, write_text
from orpo.train.recorder import versions
from orpo.train.signals import StopOnSignal, StopRequested

if TYPE_CHECKING:
    import optuna

_OURS = (JOURNAL, f"{JOURNAL}.lock", EVALUATION, RECIPE, REPORT)
_OF_THE_TEST = 1
"""Added to the seed for the two runs of the test: no trial has seen their order of data."""

Say = Callable[[str], None]


def run_tune(
    job: TuneJob,
    *,
    say: Say,
    overwrite: bool = False,
    callbacks: Callable[[], list[TrainerCallback]] = list,
) -> TuningResult:
    """Search, recommend, and compare with what the search started from; recipe.yaml says it.

    `callbacks` makes callbacks for each run, such as a progress display.

    Raises:
        UserError: Wrong input.
        TrainingError: No trial came to its end.
        RunStopped: A signal arrived; what was found so far is written.
    """
    require_optuna()
    grade = load_checker(job.plan.checker) if job.plan.checker else None
    work: _Tuning | None = None
    stop = StopOnSignal()
    with run_lock(job.folder):
        budget = Budget(job.plan.limit)
        fresh = claim_folder(
            job.folder,
            KIND,
            (*_OURS, "figures"),
            overwrite=overwrite,
            mark={"finished": False},
        )
        try:
            with stop, stop.noted():  # storage and files are written to their end
                found = Study.find(job.place)  # out of reach, it is told of before anything loads
                common = job.of_trials()
                runs = Runs(job.train, job.config, common, grade=grade, callbacks=callbacks)
                for line in runs.notes:
                    say(line)
                work = _Tuning(job, runs, budget, stop, say)
                work.search(found)
                return work.conclude()
        except UserError:
            if fresh and (work is None or work.study is None):
                for name in _OURS:
                    remove(job.folder / name)
            raise
        except StopRequested:
            if work is not None:
                work.conclude(stopped=True)
            raise RunStopped(_stopped_words(work, stop), stop.number) from None


def _stopped_words(work: _Tuning | None, stop: StopOnSignal) -> str:
    """Where it stands, and how it goes on."""
    tried = work.study.tried() if work and work.study else []
    ended = [one for one in tried if one.result.score is not None]
    kept = f"{len(ended)} trials are kept" if ended else "no trial had ended"
    name = stop.received.name if stop.received else "a signal"
    return f"stopped by {name}: {kept}; the same command goes on from there."


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / EVALUATION)
    except DataError:
        return {}


class _Tuning:
    """One call of `orpo tune`."""

    def __init__(
        self, job: TuneJob, runs: Runs, budget: Budget, stop: StopOnSignal, say: Say
    ) -> None:
        self.job, self.runs, self.budget, self.stop, self.say = job, runs, budget, stop, say
        self.study: Study | None = None

    @property
    def _study(self) -> Study:
        assert self.study is not None
        return self.study

    def search(self, found: Study | None) -> None:
        """Begin or join the study, and run trials until the budget is used up."""
        job, runs = self.job, self.runs
        with self.stop.at_once():
            speed = runs.speed()
        self.say(
            f"a step takes {speed.step:.2f} s, a score {speed.around:.1f} s, "
            f"the test {speed.testing:.1f} s"
        )
        settings = job.identity(runs.facts)
        if found is None:
            steps = self.budget.plan_steps(job.plan, speed, runs.full_steps)
            found = Study.begin(job.place, settings, steps)
        self.study = found
        self._require_same(settings)
        swept, there = found.sweep(), len(found.tried())
        if there:
            cut_off = f", {swept} of them cut off and to be run again" if swept else ""
            self.say(f"going on with a study of {there} trials{cut_off}")
        sizes = runs.sizes
        self.say(
            f"trials of {found.steps} steps of {runs.batch} pairs (the recipe takes "
            f"{runs.full_steps}); {sizes['train']} training pairs; held out: "
            f"{sizes['choosing']} to choose by, {sizes['test']} others for the test"
        )
        while self._wants_more() and self.budget.allows(speed, found.steps):
            self._tell(found.run(self._train))

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to put other trials beside those that the study holds."""
        job, before, now = self.job, flat(self._study.settings), flat(plain(settings))
        other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if not other:
            return
        name = other[0]
        fix = "--study NAME" if job.plan.storage else "--overwrite or another --output_dir"
        raise ConfigError(
            f"study {job.plan.study!r} has {name} {before.get(name)}, now it is {now.get(name)}",
            where=f"--storage {job.place.public}" if job.plan.storage else str(job.folder),
            fix=f"Use {fix} for other settings.",
        )

    def _wants_more(self) -> bool:
        ended = sum(one.result.state != "cut off" for one in self._study.tried())
        trials = self.job.plan.trials
        return trials is None or ended < trials

    def _train(self, trial: optuna.Trial, values: Values) -> float:
        """A trial of the study: its score."""
        begun = time.perf_counter()

        def not_worth_it(step: int, score: float) -> bool:
            trial.report(score, step)
            return bool(not trial.user_attrs.get("start") and trial.should_prune())

        steps = self._study.steps
        try:
            with self.stop.at_once():
                pairs = self.runs.run(values, steps, self.job.config.seed, not_worth_it)
        except Pruned:
            trial.set_user_attr("seconds", time.perf_counter() - begun)
            raise require_optuna().TrialPruned from None
        seconds = time.perf_counter() - begun
        self.budget.whole.append(seconds)
        kept = {"chosen": _short(pairs.chosen), "rejected": _short(pairs.rejected)}
        for name, value in {**kept, "steps": steps, "seconds": seconds}.items():
            trial.set_user_attr(name, value)
        return float(pair_scores(pairs.chosen, pairs.rejected).mean())

    def _tell(self, tried: Tried) -> None:
        one = tried.result
        head = f"trial {one.number}, {self.budget.used:.0f} s: {one.values}"
        if one.state == "failed":
            self.say(f"{head}: broke: {one.reason}")
            return
        assert one.score is not None
        scored = f"score {one.score:.4f}".replace("-", "−")
        if one.state == "pruned":
            self.say(f"{head}: given up at step {one.steps}, {scored}")
            return
        results = [other.result for other in self._study.tried()]
        best = max(r.score for r in results if r.state == "complete" and r.score is not None)
        self.say(f"{head}: {scored}{', the best so far' if one.score >= best else ''}")

    # What came of it

    def conclude(self, *, stopped: bool = False) -> TuningResult:
        """Choose, test if there is something to test, and write everything.

        Raises:
            TrainingError: No trial came to its end, and none was cut off.
        """
        tried = self.study.tried() if self.study else []
        choice = choose(tried, self.runs.prompts)
        if choice is None:
            if not stopped:
                broken = [one.result.reason for one in tried if one.result.state == "failed"]
                said = broken[-1] if broken else "?"
                raise TrainingError(f"no trial came to its end; the last broke: {said}")
            return TuningResult(finished=False)
        test = self._test(tried, choice, run=not stopped)
        result = self._result(tried, choice, test)
        result = replace(result, finished=not stopped, seconds=self.budget.used)
        write_json(self.job.folder / EVALUATION, plain(result))
        _write_recipe(self.job, result)
        return result

    def _test(self, tried: list[Tried], choice: Choice, *, run: bool) -> FinalTest | None:
        """The best beside the start on pairs that no trial has seen; None if there is nothing."""
        start, best = self._study.start, choice.best.values
        states = {one.result.state for one in tried if one.result.start}
        broken = "failed" in states and "complete" not in states
        if broken or any(one.start for one in choice.near):
            return None
        seed, steps = self.job.config.seed + _OF_THE_TEST, self._study.steps
        key = {"start": plain(start), "best": plain(best), "steps": steps, "seed": seed}
        key |= {"checker": self.job.plan.checker, "facts": self.runs.facts}
        kept = _read(self.job.folder).get("comparison")
        if isinstance(kept, dict) and kept.get("key") == json.loads(json.dumps(key)):
            return typed(FinalTest, kept, where=str(self.job.folder / EVALUATION))
        if not run:
            return None
        self.say(f"the test: {best} beside {start}, trained once more with seed {seed}")
        with self.stop.at_once():
            before, after = (self.runs.test(values, steps, seed) for values in (start, best))
        return FinalTest(key, seed, measures_of(before, after))

    def _result(self, tried: list[Tried], choice: Choice, test: FinalTest | None) -> TuningResult:
        job, runs, study = self.job, self.runs, self._study
        trials = told_trials(tried, choice)
        return TuningResult(
            settings=study.settings,
            model=str(job.train.model),
            dataset=(job.train.dataset or [""])[0],
            storage=job.place.public,
            study=job.plan.study,
            command=job.command,
            steps=study.steps,
            full_steps=runs.full_steps,
            batch=runs.batch,
            seed=study.settings["seed"],
            held_out={**runs.sizes, "prompts": len(set(runs.prompts))},
            space=study.space,
            start=study.start,
            trials=trials,
            account={state: sum(one.state == state for one in trials) for state in STATES},
            recommended=recommend(study.space, study.start, choice, test),
            comparison=test,
            checked=bool(job.plan.checker),
            minutes=job.plan.limit,
            machine=machine(),
            versions={**versions(), "optuna": require_optuna().__version__},
        )


def _write_recipe(job: TuneJob, result: TuningResult) -> None:
    """recipe.yaml, which `orpo train` runs as it stands: what was given, with the values found."""
    found, account = result.recommended, result.account
    assert found is not None
    path = job.folder / RECIPE
    words = [
        f"orpo train {path}",
        f"Found by orpo tune in {account['complete'] + account['pruned']} trials of "
        f"{result.steps} steps of {result.batch} pairs, seed {result.seed}. {found.why}",
        f"Trials that cannot be told apart from the best: {found.band_words}.",
    ]
    if result.steps < result.full_steps:
        words.append(
            f"This recipe takes {result.full_steps} steps, the trials took {result.steps}, each "
            "with its whole schedule. The best learning rate tends to fall as runs grow longer: "
            "if the loss is restless, halve it."
        )
    words.append("Names of files are as seen from where it was tuned.")
    lines = [line for text in words for line in (*textwrap.wrap(text, 96), "")]
    comments = "\n".join(f"# {line}".rstrip() for line in lines[:-1])
    settings = {**job.kept(), **plain(found.values), "output_dir": str(job.folder / "run")}
    write_text(path, f"{comments}\n{yaml_text(settings)}")


def _short(values: Any) -> list[float]:
    return [float(f"{value:.8g}") for value in values]
