"""Directions that an update must not have: the space that protected inputs or gradients span."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import DataError

NO_ENERGY = 1e-10  # share of the largest eigenvalue below which a direction is rounding noise of the covariance


def basis_by_energy(covariance: Tensor, energy: float) -> Tensor:
    """The fewest directions that hold a share of the energy of the inputs (GPM, https://arxiv.org/abs/2103.09762).

    Args:
        covariance: (d, d) uncentred covariance of the inputs, the sum of x xᵀ.
        energy: share of the trace, above 0 and up to 1; 1 takes every direction that the inputs have at all.

    Returns:
        (d, k) orthonormal columns, k = 0 where there was no input.
    """
    if not 0 < energy <= 1:
        raise DataError(f"energy: got {energy}, wanted a share above 0 and up to 1")
    values, vectors = _eigen(covariance)
    has_energy = values > NO_ENERGY * values[0]
    if energy < 1:
        before = values.cumsum(0) - values  # energy of all larger directions: the one that reaches the share is kept
        has_energy &= before < energy * values.sum()
    return vectors[:, has_energy]


def basis_by_ratio(covariance: Tensor, ratio: float) -> Tensor:
    """All but the weakest directions (Adam-NSCL, https://arxiv.org/abs/2103.07113).

    Free are the directions whose eigenvalue is at most `ratio` times the smallest one; where the inputs do not span
    the space the smallest is taken to be rounding noise, not zero.

    Returns:
        (d, k) orthonormal columns of the directions that are not free.
    """
    values, vectors = _eigen(covariance)
    smallest = torch.maximum(values[-1], NO_ENERGY * values[0])
    return vectors[:, values > ratio * smallest]


def orthonormal(vectors: Iterable[Tensor], *, tolerance: float = 1e-6) -> Tensor:
    """An orthonormal basis of the span of some vectors by Gram-Schmidt, each projected twice.

    Args:
        vectors: (n,) each; taken one by one, so that all of them need never be in memory beside the basis.
        tolerance: a vector of which less than this share is left adds nothing new.

    Returns:
        (k, n) float32 rows.
    """
    basis: list[Tensor] = []
    length = 0
    for vector in vectors:
        length = vector.numel()
        rest = vector.double()
        size = rest.norm()
        for _ in range(2):  # one pass leaves errors of 1e-6 in float32
            for direction in basis:
                rest = rest - (rest @ direction.double()) * direction.double()
        if size > 0 and rest.norm() > tolerance * size:
            basis.append((rest / rest.norm()).float())
    return torch.stack(basis) if basis else torch.zeros(0, length)


def without(update: Tensor, basis: Tensor) -> Tensor:
    """An update (..., d) without its part along the columns of `basis` (d, k); projected twice against rounding."""
    for _ in range(2):
        update = update - (update @ basis) @ basis.mT
    return update


def _eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d,) from the largest down, none negative, and eigenvectors as columns (d, d)."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return values.flip(0).clamp(min=0), vectors.flip(1)
