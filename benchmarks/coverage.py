"""How often the 95 % intervals of `medsss eval` hold the truth, beside the percentile bootstrap of version 0.1.

python benchmarks/coverage.py            # half a minute; the table of docs/internals/benchmarks.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medsss_cli.evaluation.intervals import difference_interval, mean_interval

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def right_or_wrong(p: float) -> tuple[Draw, float]:
    """Problems with one answer, right with a chance of p."""
    return (lambda rng, n: (rng.random(n) < p).astype(float)), p


def shares(a: float, b: float) -> tuple[Draw, float]:
    """Problems with 16 answers; a problem's chance is drawn from a beta distribution."""
    return (lambda rng, n: rng.binomial(16, rng.beta(a, b, n)) / 16), a / (a + b)


def pairs(only_a: float, only_b: float) -> tuple[Draw, float]:
    """Differences of two verdicts a problem."""
    chances = [only_a, 1 - only_a - only_b, only_b]
    return (lambda rng, n: rng.choice([-1.0, 0.0, 1.0], n, p=chances)), only_b - only_a


CASES = {
    "0/1, p = .5": right_or_wrong(0.5),
    "0/1, p = .95": right_or_wrong(0.95),
    "0/1, p = .99": right_or_wrong(0.99),
    "shares, beta(.5, .5)": shares(0.5, 0.5),
    "shares, beta(4, .2)": shares(4, 0.2),
    "shares, beta(1, .05)": shares(1, 0.05),
    "shares, beta(20, 1)": shares(20, 1),
    "pairs, .02 and .05": pairs(0.02, 0.05),
    "pairs, .1 and .2": pairs(0.1, 0.2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    print(f"{'values':22} {'n':>4}  {'here':>5} {'width':>6}  {'bootstrap':>9} {'width':>6}")
    for name, (draw, truth) in CASES.items():
        for n in (30, 100, 400):
            rng = np.random.default_rng(0)
            rows = []
            for _ in range(trials):
                values = draw(rng, n)
                _, low, high = difference_interval(values) if "pairs" in name else mean_interval(values)
                means = values[rng.integers(0, n, (500, n))].mean(axis=1)
                rows.append((low, high, *np.quantile(means, [0.025, 0.975])))
            low, high, low_b, high_b = np.asarray(rows).T
            ours, theirs = ((low <= truth) & (truth <= high)).mean(), ((low_b <= truth) & (truth <= high_b)).mean()
            widths = (high - low).mean(), (high_b - low_b).mean()
            print(f"{name:22} {n:4}  {ours:5.3f} {widths[0]:6.3f}  {theirs:9.3f} {widths[1]:6.3f}", flush=True)


if __name__ == "__main__":
    main()
