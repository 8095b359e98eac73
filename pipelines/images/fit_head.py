"""A head from labels: logistic regression for yes and no, ridge regression for grades.

The strength of the penalty is chosen on a part of the labels that is held out, and how good the
head is on that part is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HELD_OUT = 0.2


@dataclass(frozen=True)
class TrainedHead:
    """Weights, and how good they are on what was held out."""

    weight: NDArray[np.float64]
    bias: float
    # "sigmoid" for yes and no, "identity" for grades.
    output: str
    # "auc" or "r2", labels, those held out, penalty.
    facts: Mapping[str, object]


def fit_head(
    embeddings: NDArray[np.generic], labels: Sequence[float | bool], *, seed: int = 0
) -> TrainedHead:
    """Fit a head on embeddings [n, width] and labels of yes and no (two values) or grades.

    Raises `ConfigurationError` for too few labels, or labels that are all alike.
    """
    y = np.asarray([float(label) for label in labels])
    known = np.isfinite(y)
    x, y = np.asarray(embeddings, np.float64)[known], y[known]
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    values = np.unique(y)
    if len(y) < 20 or len(values) < 2:
        raise ConfigurationError(
            f"{len(y)} labels of {len(values)} kinds; give at least 20 that are not all alike"
        )
    binary = len(values) == 2
    if binary:
        y = (y == values[1]).astype(float)
    # Rows of one picture stay on one side, or the head would be judged on what it has seen.
    picture = np.unique(x.round(6), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(seed).permutation(int(picture.max()) + 1)
    aside = np.isin(picture, order[: int(_HELD_OUT * len(order))])
    held, rest = np.flatnonzero(aside), np.flatnonzero(~aside)
    if binary and min(len(np.unique(y[held])), len(np.unique(y[rest]))) < 2:
        raise ConfigurationError("one of the two labels is too rare to hold some out; give more")
    fit, judge = (_logistic, auc) if binary else (_ridge, r2)
    scored = []
    for penalty in _PENALTIES:
        weight, bias = fit(x[rest], y[rest], penalty)
        scored.append((judge(x[held] @ weight + bias, y[held]), penalty))
    best, penalty = max(scored)
    # The last fit uses all labels; what is said of it was measured without those held out.
    weight, bias = fit(x, y, penalty)
    facts = {
        "auc" if binary else "r2": round(best, 4), "labels": len(y), "held_out": len(held),
        "penalty": penalty,
    }  # fmt: skip
    return TrainedHead(weight, bias, "sigmoid" if binary else "identity", facts)


def _ridge(
    x: NDArray[np.float64], y: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], float]:
    mean, middle = x.mean(axis=0), y.mean()
    centred = x - mean
    gram = centred.T @ centred / len(x) + penalty * np.eye(x.shape[1]) / x.shape[1]
    weight = np.linalg.solve(gram, centred.T @ (y - middle) / len(x))
    return weight, float(middle - mean @ weight)


def _logistic(
    x: NDArray[np.float64], y: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], float]:
    from scipy.optimize import minimize
    from scipy.special import expit

    sign = 2 * y - 1

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (x @ values[:-1] + values[-1])
        slope = -sign * expit(-margin) / len(y)
        strength = penalty / x.shape[1]
        value = np.logaddexp(0, -margin).mean() + strength * values[:-1] @ values[:-1] / 2
        gradient = np.append(x.T @ slope + strength * values[:-1], slope.sum())
        return float(value), gradient

    start = np.zeros(x.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return found[:-1], float(found[-1])


def auc(scores: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Area under the ROC curve: the chance that a yes scores above a no."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    yes = truth == 1
    below = ranks[yes].sum() - yes.sum() * (yes.sum() + 1) / 2
    return float(below / (yes.sum() * (~yes).sum()))


def r2(scores: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Share of the variance that is explained."""
    return float(1 - ((scores - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
