import re
import sys
from subprocess import run
from xml.etree import ElementTree

import pytest

from orpo.report.curves import run_figures
from orpo.report.page import Figure
from orpo.report.series import read_curves
from tests.report.runs import held_out_lines, training_lines

SVG = "{http://www.w3.org/2000/svg}"


def drawn(lines: list[dict[str, object]]) -> dict[str, Figure]:
    return {figure.name: figure for figure in run_figures(read_curves(lines))}


def parsed(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(figure.inline)


def colours(figure: Figure) -> set[str]:
    return set(re.findall(r"stroke: (var\(--\w+\)|#\w+)", figure.inline))


def dots(figure: Figure) -> int:
    """Held-out points, without those of the legend."""
    marks = [use for use in parsed(figure).iter(f"{SVG}use") if "paper" in use.get("style", "")]
    texts = (text.text or "" for text in parsed(figure).iter(f"{SVG}text"))
    return len(marks) - sum(text.startswith("held out") for text in texts)


def test_all_figures_of_a_full_run() -> None:
    figures = drawn([*training_lines(), *held_out_lines()])
    assert list(figures) == ["loss", "logps", "odds", "accuracy", "rate", "norm"]
    assert {"var(--ink)", "var(--nll)"} <= colours(figures["loss"])
    assert {"var(--chosen)", "var(--rejected)"} <= colours(figures["logps"])
    for name, figure in figures.items():
        texts = [text.text for text in parsed(figure).iter(f"{SVG}text")]
        assert "optimizer step" in texts
        assert "200" in texts
        assert dots(figure) == {"loss": 10, "logps": 10, "odds": 5, "accuracy": 5}.get(name, 0)


def test_colours_come_from_the_page_so_that_light_and_dark_both_work() -> None:
    for figure in drawn([*training_lines(), *held_out_lines()]).values():
        assert re.findall(r"#[0-9a-fA-F]{6}\b", figure.inline) == []


def test_ids_are_the_figures_own_and_every_reference_is_met() -> None:
    seen: set[str] = set()
    for figure in drawn([*training_lines(), *held_out_lines()]).values():
        ids = re.findall(r' id="([^"]+)"', figure.inline)
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        seen |= set(ids)
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', figure.inline)) <= set(ids)


def test_the_legend_names_metrics_and_evaluation_sets() -> None:
    sets = [held_out_lines(name=name) for name in ("$x_1$", "b", "c", "d", "e", "f", "g")]
    figure = drawn([*training_lines(), *(line for lines in sets for line in lines)])["odds"]
    texts = [text.text for text in parsed(figure).iter(f"{SVG}text")]
    for name in ("log odds ratio", "held out: $x_1$", *(f"held out: {one}" for one in "bcde")):
        assert name in texts
    assert "held out: f" not in texts
    assert "2 further evaluation sets not drawn." in figure.seen
    assert dots(figure) == 25


def test_one_point_is_a_dot_and_no_trend() -> None:
    figures = drawn(training_lines(1))
    assert all(len(list(parsed(figure).iter(f"{SVG}use"))) >= 1 for figure in figures.values())
    assert "Only step 1 was logged" in figures["loss"].seen
    assert "no trend to see" in figures["accuracy"].seen


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_draw_nothing(value: float) -> None:
    assert drawn([{"step": step, "loss": value} for step in range(5)]) == {}
    lines = training_lines(20)
    lines[5]["loss"] = value
    assert "nan" not in drawn(lines)["loss"].inline.lower()


@pytest.mark.parametrize("values", [(9e99, -9e99), (0.0, 0.0), (1e-300, 2e-300), (5.0, 5.0)])
def test_extreme_values(values: tuple[float, float]) -> None:
    lines = [
        {"step": step, "loss": value, "grad_norm": abs(value), "rewards/accuracies": value}
        for step, value in enumerate(values)
    ]
    assert set(drawn(lines)) == {"loss", "norm", "accuracy"}


def test_a_gradient_norm_with_spikes_gets_a_logarithmic_axis() -> None:
    lines = [{"step": step, "grad_norm": 1.0 + step % 3} for step in range(1, 40)]
    lines.append({"step": 40, "grad_norm": 5000.0})
    texts = [text.text for text in parsed(drawn(lines)["norm"]).iter(f"{SVG}text")]
    assert {"1", "10", "100", "1000"} & set(texts)
    assert "highest 5000 at step 40" in drawn(lines)["norm"].seen


def logps(
    chosen: tuple[float, float], rejected: tuple[float, float], nll: tuple[float, float]
) -> str:
    lines = []
    for step in range(50):
        part = step / 49
        lines.append(
            {
                "step": step,
                "logps/chosen": chosen[0] + part * (chosen[1] - chosen[0]),
                "logps/rejected": rejected[0] + part * (rejected[1] - rejected[0]),
                "nll_loss": nll[0] + part * (nll[1] - nll[0]),
            }
        )
    return drawn(lines)["logps"].seen


def test_what_is_seen_of_the_two_answers() -> None:
    normal = logps((-1, -1.5), (-1, -3), (1, 0.9))
    assert "their distance grew from 0.06 to 1.44." in normal
    assert "Both fell while their distance grew: this is normal." in normal
    worrying = logps((-1, -1.5), (-1, -3), (1, 2))
    assert "a lower orpo_alpha or learning rate is worth a try" in worrying
    assert "not learned more strongly" in logps((-1, -1), (-3, -2), (1, 1))
    both_up = logps((-2, -1), (-2, -1.8), (1, 0.5))
    assert "Both rose while their distance grew" in both_up


def test_what_is_seen_of_loss_odds_and_accuracy() -> None:
    rising = [
        {"step": s, "loss": 1 + s / 20, "log_odds_chosen": -1 - s / 20, "rewards/accuracies": 0.4}
        for s in range(40)
    ]
    figures = drawn(rising)
    assert "learning rate is too high" in figures["loss"].seen
    assert "The log odds ratio fell from" in figures["odds"].seen
    assert "not clearly above zero" in figures["odds"].seen
    assert "not clearly better than a coin toss" in figures["accuracy"].seen
    healthy = drawn(training_lines())
    assert "clearly" not in healthy["odds"].seen + healthy["accuracy"].seen


def test_held_out_points_are_put_into_words() -> None:
    lines = [
        *training_lines(),
        {"step": 10, "eval_rewards/accuracies": 0.5, "eval_logps/chosen": -2.0},
        {"step": 20, "eval_rewards/accuracies": 0.75, "eval_logps/chosen": -1.0},
    ]
    figures = drawn(lines)
    seen = figures["accuracy"].seen.replace("\u00a0", " ")
    assert "Held out, steps 10 to 20: 50.0 % → 75.0 %." in seen
    assert "Held out, steps 10 to 20: chosen −2.00 → −1.00." in figures["logps"].seen


def test_matplotlib_and_jinja_are_loaded_only_to_write() -> None:
    code = (
        "import sys; from orpo.report.write import write_report; "
        "print([m for m in ('matplotlib', 'jinja2', 'torch') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
