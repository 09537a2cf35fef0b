"""Erase a concept from representations: afterwards no linear classifier finds it better than chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

TOLERANCE = 1e-6  # share of the largest variance below which a direction is taken not to vary


@dataclass(frozen=True)
class Eraser:
    """x -> x - left right (x - mean), applied to states (..., d)."""

    mean: Tensor
    """(d,)."""
    left: Tensor
    """(d, k), k the number of removed directions."""
    right: Tensor
    """(k, d)."""

    @property
    def rank(self) -> int:
        """Directions that are removed."""
        return int(self.left.shape[1])

    def __call__(self, states: Tensor) -> Tensor:
        """Erase; computed in float32, returned in the precision of the states."""
        mean, left, right = (part.to(states.device, torch.float32) for part in (self.mean, self.left, self.right))
        exact = states.float()
        return (exact - ((exact - mean) @ right.mT) @ left.mT).to(states.dtype)

    @classmethod
    def of_directions(cls, directions: Tensor) -> "Eraser":
        """Remove the span of given directions (k, d), whatever the mean."""
        _, sizes, rows = torch.linalg.svd(directions.double(), full_matrices=False)
        kept = rows[sizes > TOLERANCE * sizes.max().clamp(min=1e-300)].float()
        return cls(torch.zeros(directions.shape[1]), kept.mT.contiguous(), kept)


def fit_leace(states: Tensor, labels: Tensor) -> Eraser:
    """LEACE in closed form (Belrose et al. 2023, https://arxiv.org/abs/2306.03819): the least change that suffices.

    r(x) = x - W⁺ U Uᵀ W (x - mean), W = Σxx^(-1/2), U the left singular vectors of W Σxz. Own code of twenty lines: the
    authors' package had its last release in January 2024; a test holds the two against each other.

    Args:
        states: (n, d).
        labels: (n,) classes from 0.

    Raises:
        DataError: fewer than two classes, or states that are not finite.
    """
    x, z = _checked(states, labels)
    mean = x.mean(0)
    centred = x - mean
    one_hot = torch.nn.functional.one_hot(z).double()
    one_hot = one_hot - one_hot.mean(0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(x))
    varies = values > TOLERANCE * values.max()
    vectors, scale = vectors[:, varies], values[varies].sqrt()
    whiten, colour = vectors / scale @ vectors.mT, vectors * scale @ vectors.mT
    directions, sizes, _ = torch.linalg.svd(whiten @ (centred.mT @ one_hot / len(x)), full_matrices=False)
    directions = directions[:, sizes > 0.01 * sizes.max().clamp(min=1e-300)]
    return Eraser(mean.float(), (colour @ directions).float(), (directions.mT @ whiten).float())


@dataclass(frozen=True)
class Inlp:
    """The result of iterative null-space projection."""

    eraser: Eraser
    accuracies: tuple[float, ...]
    """Of the classifier of each round, on rows that it was not fitted on, before its direction was removed."""
    majority: float
    """Accuracy of always naming the commonest class."""


def fit_inlp(states: Tensor, labels: Tensor, *, most: int | None = None, seed: int = 0) -> Inlp:
    """INLP: remove what a linear classifier uses, again and again (https://arxiv.org/abs/2004.07667).

    Stops when the classifier is no better than the commonest class by two standard errors, or after `most` directions.
    It defeats linear classifiers only, and it removes far more than LEACE.

    Args:
        states: (n, d).
        labels: (n,) classes from 0.
        most: directions at most; None: a tenth of d.
        seed: decides the fifth of the rows that each classifier is judged on.
    """
    from sklearn.linear_model import LogisticRegression

    x, z = _checked(states, labels)
    mean = x.mean(0)
    centred, classes = (x - mean).numpy(), z.numpy()
    is_held_out = np.random.default_rng(seed).permutation(len(x)) < len(x) // 5
    counts = np.bincount(classes[is_held_out])
    majority = float(counts.max() / counts.sum())
    bound = majority + 2 * float(np.sqrt(0.25 / is_held_out.sum()))
    removed, accuracies = torch.zeros(0, x.shape[1], dtype=torch.float64), list[float]()
    while len(removed) < (most or max(1, x.shape[1] // 10)):
        kept = centred - centred @ removed.numpy().T @ removed.numpy()
        judge = LogisticRegression(max_iter=200).fit(kept[~is_held_out], classes[~is_held_out])
        accuracies.append(float(judge.score(kept[is_held_out], classes[is_held_out])))
        if accuracies[-1] <= bound:
            break
        # Always anew from the original: the null space of all rounds together is the one of the sum of projectors.
        removed = _rows_of(torch.cat([removed, torch.from_numpy(judge.coef_)]))
    rows = removed.float()
    return Inlp(Eraser(mean.float(), rows.mT.contiguous(), rows), tuple(accuracies), majority)


def probe_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, hidden: Sequence[int] = ()) -> float:
    """Accuracy on test rows of a classifier fitted on train rows: linear, or with hidden layers (an MLP).

    A linear probe at chance says nothing of other classifiers: show both.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    probe = MLPClassifier(tuple(hidden), max_iter=300, random_state=0) if hidden else LogisticRegression(max_iter=1000)
    probe.fit(train[0].double().numpy(), train[1].numpy())
    return float(probe.score(test[0].double().numpy(), test[1].numpy()))


def _rows_of(directions: Tensor) -> Tensor:
    _, sizes, rows = torch.linalg.svd(directions, full_matrices=False)
    kept: Tensor = rows[sizes > TOLERANCE * sizes.max()]
    return kept


def _checked(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x, z = states.detach().double().cpu(), labels.detach().long().cpu()
    if x.ndim != 2 or z.shape != x.shape[:1] or not x.isfinite().all():
        raise DataError(f"got states {tuple(x.shape)} and labels {tuple(z.shape)}, wanted finite (n, d) and (n,)")
    if len(set(z.tolist())) < 2:
        raise DataError("the labels name one class only, wanted at least two to erase what tells them apart")
    return x, z
