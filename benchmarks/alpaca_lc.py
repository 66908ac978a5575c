"""Length-controlled win rates from raw annotations beside the published ones.

    python benchmarks/alpaca_lc.py --data FOLDER

FOLDER holds annotations.csv.gz (columns model, index, preference, len_output_1, len_output_2),
leaderboard.csv, instruction_difficulty.csv and df_gamed.csv.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from orpo.evaluate import length_controlled_win_rate


@dataclass(frozen=True)
class Line:
    """A model's figures in percent; `published` is NaN where the leaderboard has none."""

    model: str
    win_rate_error: float
    published: float
    ours: float

    @property
    def error(self) -> float:
        """Ours minus published, in points."""
        return self.ours - self.published


def measure(folder: Path) -> list[Line]:
    """One line for each model of the annotations."""
    annotations = pd.read_csv(folder / "annotations.csv.gz")
    leaderboard = pd.read_csv(folder / "leaderboard.csv", index_col=0)
    difficulty = pd.read_csv(folder / "instruction_difficulty.csv")
    gamed = pd.read_csv(folder / "df_gamed.csv")
    lines = []
    for model, rows in annotations.groupby("model"):
        found = length_controlled_win_rate(rows, difficulty=difficulty, gamed=gamed)
        assert found.lc_win_rate is not None
        published = leaderboard.reindex([model]).iloc[0]
        lines.append(
            Line(
                str(model),
                found.win_rate - float(published["win_rate"]),
                float(published["length_controlled_winrate"]),
                found.lc_win_rate,
            )
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    lines = measure(parser.parse_args().data)
    print(f"{'model':32s} {'published':>9s} {'ours':>9s} {'error':>8s} {'win rate error':>15s}")
    for line in lines:
        print(
            f"{line.model:32s} {line.published:9.4f} {line.ours:9.4f} {line.error:+8.4f} "
            f"{line.win_rate_error:+15.1e}"
        )
    errors = pd.Series({line.model: abs(line.error) for line in lines}).dropna()
    others = errors.drop("NullModel", errors="ignore")
    print(
        f"{len(errors)} of {len(lines)} models are published; mean absolute error "
        f"{errors.mean():.4f}, largest {errors.max():.4f} ({errors.idxmax()}), largest without "
        f"NullModel {others.max():.4f} ({others.idxmax()})"
    )


if __name__ == "__main__":
    main()
