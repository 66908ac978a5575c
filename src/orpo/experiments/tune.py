"""Learning rate and lambda by short runs: a study, a choice, and a test that no trial has seen."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from orpo.errors import ConfigError, RunStopped, TrainingError, UserError
from orpo.experiments import choice as choosing
from orpo.experiments import results
from orpo.experiments.claims import FEWEST_SEEDS, FEWEST_STEPS, pair_scores, too_few
from orpo.experiments.measuring import machine
from orpo.experiments.plans import TuneJob, TunePlan, load_checker
from orpo.experiments.results import FinalTest, TrialResult, TuningResult, Values
from orpo.experiments.study import JOURNAL, Place, Study, require_optuna
from orpo.experiments.trials import TESTED, Runs, Speed
from orpo.runs.claim import changed, claim_folder
from orpo.runs.files import EVALUATION, RECIPE, REPORT, write_json, yaml_text
from orpo.runs.lock import run_lock
from orpo.runs.typed import plain
from orpo.runs.writing import remove, write_text
from orpo.terminal import Say, under_way
from orpo.train.continuity import StopOnSignal, StopRequested
from orpo.train.recorder import versions

if TYPE_CHECKING:
    import optuna

_OURS = (JOURNAL, f"{JOURNAL}.lock", EVALUATION, RECIPE, REPORT)
_TRIALS = 8
"""So many whole trials are to fit into the time, where the steps of a trial are not given."""
_FEWEST_TRIALS = 2


@dataclass
class Budget:
    """The time of this call."""

    minutes: float | None  # None for no limit
    begun: float = field(default_factory=time.monotonic)
    whole: list[float] = field(default_factory=list)  # seconds that whole trials took so far

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds."""
        return math.inf if self.minutes is None else 60 * self.minutes - self.used

    def allows(self, speed: Speed, steps: int) -> bool:
        """Whether one more trial and the test at the end are expected to fit."""
        foreseen = max([speed.run(steps), *self.whole[-3:]])
        return foreseen + TESTED * (foreseen + speed.testing) <= self.left

    def plan_steps(self, plan: TunePlan, speed: Speed, full: int) -> int:
        """Steps of a trial: the recipe's at most unless asked; says what is needed if too few."""
        shortest = min(FEWEST_STEPS, full)
        steps = plan.steps
        if steps is None and self.minutes is None:
            steps = max(shortest, full // 4)
        elif steps is None:
            each = (self.left - TESTED * speed.testing) / (_TRIALS + TESTED) - speed.run(0)
            steps = min(full, max(shortest, int(each / speed.step)))
        trials = min(_FEWEST_TRIALS, plan.trials or _FEWEST_TRIALS)
        needed = trials * speed.run(steps) + speed.comparison(steps)
        if needed > self.left:
            raise ConfigError(
                f"is too little: a trial of {steps} steps takes about {speed.run(steps):.0f} s "
                f"here, and {trials} of them with the comparison at the end {needed:.0f} s",
                where=f"--minutes {self.minutes:g}",
                fix=f"Give at least {(needed + self.used) / 60 * 1.1:.1f}"
                + (", or fewer --steps." if plan.steps is not None else "."),
            )
        return steps


def run_tune(
    job: TuneJob,
    *,
    say: Say,
    overwrite: bool = False,
    callbacks: Callable[[], list[TrainerCallback]] = list,
) -> TuningResult:
    """Search, recommend, and compare with the start; what is found stands, also after a signal."""
    require_optuna()
    grade = load_checker(job.plan.checker) if job.plan.checker else None
    place = Place(job.plan.storage, job.plan.study, job.folder)
    work: _Tuning | None = None
    stop = StopOnSignal()
    with run_lock(job.folder):
        budget, mark = Budget(job.plan.limit), {"finished": False}
        ours = (*_OURS, "figures")
        fresh = claim_folder(job.folder, results.TUNING, ours, overwrite=overwrite, mark=mark)
        try:
            with stop, stop.noted():  # storage and files are written to their end
                Study.find(place)  # out of reach, it is told of before anything loads
                runs = Runs(job, grade=grade, callbacks=callbacks)
                for line in runs.notes:
                    say(line)
                with stop.at_once():
                    speed = runs.speed()
                say(
                    f"a step takes {speed.step:.2f} s, a score {speed.around:.1f} s, "
                    f"the test {speed.testing:.1f} s"
                )
                study = Study.find(place)
                if study is None:
                    steps = budget.plan_steps(job.plan, speed, runs.full_steps)
                    study = Study.begin(place, job.identity(runs.digests), steps)
                work = _Tuning(job, runs, budget, stop, say, speed, study)
                work.search()
                return work.conclude()
        except UserError:
            if fresh and work is None:
                for name in _OURS:
                    remove(job.folder / name)
            raise
        except StopRequested:
            tried = work.study.tried() if work else []
            if work is not None:
                work.conclude(stopped=True)
            ended = [one for one in tried if one.score is not None]
            kept = f"{len(ended)} trials are kept" if ended else "no trial had ended"
            name = stop.received.name if stop.received else "a signal"
            words = f"stopped by {name}: {kept}; the same command goes on from there."
            raise RunStopped(words, stop.number) from None


@dataclass
class _Tuning:
    """One call of `orpo tune`."""

    job: TuneJob
    runs: Runs
    budget: Budget
    stop: StopOnSignal
    say: Say
    speed: Speed
    study: Study

    def search(self) -> None:
        """Run trials until the budget is used up."""
        job, runs, study = self.job, self.runs, self.study
        self._require_same()
        swept, there = study.sweep(), len(study.tried())
        if there:
            cut_off = f", {swept} of them cut off and to be run again" if swept else ""
            self.say(f"going on with a study of {there} trials{cut_off}")
        sizes = runs.sizes
        self.say(
            f"trials of {study.steps} steps of {runs.batch} pairs (the recipe takes "
            f"{runs.full_steps}); {sizes['train']} training pairs; held out: "
            f"{sizes['choosing']} to choose by, {sizes['test']} others for the test"
        )
        wanted = math.inf if job.plan.trials is None else job.plan.trials
        tried = sum(one.state != "cut off" for one in study.tried())
        with under_way("trials", None if job.plan.trials is None else wanted - tried) as advance:
            while tried < wanted and self.budget.allows(self.speed, study.steps):
                self._tell(study.run(self._train))
                advance(1)
                tried = sum(one.state != "cut off" for one in study.tried())

    def _require_same(self) -> None:
        """Refuse to put other trials beside those that the study holds."""
        job, now = self.job, plain(self.job.identity(self.runs.digests))
        shared = f"--storage {self.study.place.public}" if job.plan.storage else ""
        own = "--study NAME" if shared else "--overwrite or another --output_dir"
        fix = f"Use {own} for other settings."
        for name, (old, new) in changed(self.study.settings, now).items():
            held = f"study {job.plan.study!r} has {name} {old}, now it is {new}"
            raise ConfigError(held, where=shared or str(job.folder), fix=fix)

    def _train(self, trial: optuna.Trial, values: Values) -> float:
        """A trial of the study: its score."""
        begun, steps, pruned = time.perf_counter(), self.study.steps, require_optuna().TrialPruned

        def look(step: int, score: float) -> None:
            trial.report(score, step)
            if not trial.user_attrs.get("start") and trial.should_prune():
                trial.set_user_attr("seconds", time.perf_counter() - begun)
                raise pruned

        with self.stop.at_once():
            pairs = self.runs.run(values, steps, self.job.config.seed, look)
        seconds = time.perf_counter() - begun
        self.budget.whole.append(seconds)
        for name in ("chosen", "rejected"):
            trial.set_user_attr(name, [float(f"{value:.8g}") for value in getattr(pairs, name)])
        trial.set_user_attr("steps", steps)
        trial.set_user_attr("seconds", seconds)
        return float(pair_scores(pairs.chosen, pairs.rejected).mean())

    def _tell(self, one: TrialResult) -> None:
        head = f"trial {one.number}, {self.budget.used:.0f} s: {one.values}"
        if one.state == "failed":
            self.say(f"{head}: broke: {one.reason}")
            return
        assert one.score is not None
        scored = f"score {one.score:.4f}".replace("-", "−")
        if one.state == "pruned":
            self.say(f"{head}: given up at step {one.steps}, {scored}")
            return
        whole = (other for other in self.study.tried() if other.state == "complete")
        best = max(other.score for other in whole if other.score is not None)
        self.say(f"{head}: {scored}{', the best so far' if one.score >= best else ''}")

    def conclude(self, *, stopped: bool = False) -> TuningResult:
        """Choose, test if there is something to test, and write everything."""
        tried = self.study.tried()
        choice = choosing.choose(tried, self.runs.prompts)
        if choice is None:
            if not stopped:
                broken = [one.reason for one in tried if one.state == "failed"]
                said = broken[-1] if broken else "?"
                raise TrainingError(f"no trial came to its end; the last broke: {said}")
            return TuningResult(finished=False)
        study, runs, test = self.study, self.runs, None
        starts = {one.state: one.reason for one in tried if one.start}
        broke = "" if "complete" in starts else starts.get("failed", "")
        missing = choosing.lacking(tried, choice, study.steps, runs.prompts, runs.untrained)
        if "complete" in starts and not missing and not any(one.start for one in choice.near):
            test = self._test(choice, run=not stopped)
        if test is not None and test.measures:
            missing += too_few(test_prompts=test.measures["score"].change.clusters)
        result = replace(
            self._result(tried, choice),
            recommended=choosing.recommend(study.space, study.start, choice, test, missing, broke),
            comparison=test,
            evidence=not missing,
            lacking=missing,
            finished=not stopped,
            seconds=self.budget.used,
        )
        write_json(self.job.folder / EVALUATION, plain(result))
        _write_recipe(self.job, result)
        return result

    def _test(self, choice: choosing.Choice, *, run: bool) -> FinalTest | None:
        """The best beside the start on pairs that no trial has seen, with seeds that none had."""
        start, best, steps = self.study.start, choice.best.values, self.study.steps
        seeds = [self.job.config.seed + n for n in range(1, FEWEST_SEEDS + 1)]
        key = {"start": plain(start), "best": plain(best), "steps": steps, "seeds": seeds}
        key |= {"checker": self.job.plan.checker, "facts": self.runs.digests}
        kept = results.read_tuning(self.job.folder).comparison
        if kept is not None and kept.key == json.loads(json.dumps(key)):
            return kept
        if not run:
            return None
        told = ", ".join(map(str, seeds))
        self.say(f"the test: {best} beside {start}, each trained again with the seeds {told}")
        try:
            with self.stop.at_once():
                before, after = (
                    [self.runs.test(values, steps, one) for one in seeds]
                    for values in (start, best)
                )
        except TrainingError as error:
            return FinalTest(key, seeds, [f"a run of the test broke: {error}"])
        return choosing.final_test(key, seeds, before, after)

    def _result(self, tried: list[TrialResult], choice: choosing.Choice) -> TuningResult:
        job, runs, study = self.job, self.runs, self.study
        trials = choosing.told_trials(tried, choice)
        return TuningResult(
            settings=study.settings,
            model=str(job.train.model),
            dataset=(job.train.dataset or [""])[0],
            storage=study.place.public,
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
            account={state: sum(one.state == state for one in trials) for state in results.STATES},
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
        f"By orpo tune, {account['complete'] + account['pruned']} trials of "
        f"{result.steps} steps of {result.batch} pairs, seed {result.seed}. {found.why}",
        f"Trials that cannot be told apart from the best: {found.band_words}.",
    ]
    if result.steps < result.full_steps:
        words.append(
            f"This recipe takes {result.full_steps} steps, the trials took {result.steps}, each "
            "with its whole schedule. The best learning rate tends to fall as runs grow longer: "
            "if the loss is restless, halve it."
        )
    lines = [line for text in words for line in (*textwrap.wrap(text, 96), "")]
    comments = "\n".join(f"# {line}".rstrip() for line in lines[:-1])
    settings = {**job.kept(), **plain(found.values), "output_dir": str(job.folder / "run")}
    settings["_run"] = {"started_in": str(Path.cwd())}  # from where files are named
    write_text(path, f"{comments}\n{yaml_text(settings)}")
