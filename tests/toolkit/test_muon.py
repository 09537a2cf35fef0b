import pytest
import torch
from tunewell.toolkit.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_an_orthogonalised_matrix_keeps_its_singular_vectors_and_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert values.max() / values.min() > 1.5  # they were not alike before
    made = orthogonalised(matrix)
    core = left.T @ made @ right.T
    assert (core.diagonal() - 1).abs().max() < 0.35
    assert (core - torch.diag(core.diagonal())).abs().max() < 1e-3


def test_it_takes_the_steps_of_torchs_own_but_for_the_rounding():
    torch.manual_seed(0)
    start, gradients = torch.randn(12, 30), [torch.randn(12, 30) for _ in range(5)]
    made = []
    for kind in (Muon, torch.optim.Muon):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.1, weight_decay=0.01)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        made.append(weight.detach())
    moved = (made[1] - start).norm()
    assert (made[0] - made[1]).norm() / moved < 0.02  # torch's iteration is in bfloat16, which has 8 bits of mantissa


def test_a_parameter_without_gradient_stays():
    weight = torch.nn.Parameter(torch.ones(3, 3))
    Muon([weight], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(3, 3))
