import subprocess
import sys

import pytest
import torch

from zoo.paraunitary_conv.orthogonal import (
    block_rotations,
    haar,
    orthonormal_columns,
    polished,
    subspace_coordinates,
)

CHARTS = ["cayley", "exp"]


def skew(size, scale=1.0):
    a = scale * torch.randn(2, size, size, dtype=torch.float64)
    return a - a.mT


@pytest.mark.parametrize("chart", CHARTS)
def test_the_columns_are_those_of_the_whole_transform(chart):
    torch.manual_seed(0)
    omega, x = skew(3), torch.randn(2, 4, 3, dtype=torch.float64)
    whole = torch.zeros(2, 7, 7, dtype=torch.float64)
    whole[:, :3, :3], whole[:, 3:, :3], whole[:, :3, 3:] = omega, x, -x.mT
    eye = torch.eye(7, dtype=torch.float64)
    q = torch.linalg.solve(eye - whole / 2, eye + whole / 2) if chart == "cayley" else torch.matrix_exp(whole)
    torch.testing.assert_close(orthonormal_columns(x, omega, chart), q[:, :, :3])


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize(("size", "rank"), [(6, 3), (7, 2), (7, 5), (2, 1)])
def test_every_subspace_has_coordinates(chart, size, rank):
    torch.manual_seed(0)
    u = haar(5, size).double()[..., :rank]
    x = subspace_coordinates(u, chart)
    v = orthonormal_columns(x, chart=chart)
    torch.testing.assert_close(v @ v.mT, u @ u.mT, atol=1e-6, rtol=0)
    assert torch.linalg.matrix_norm(x, 2).max() <= (2 if chart == "cayley" else torch.pi / 2) + 1e-6


def test_charts_agree_up_to_the_second_order():
    torch.manual_seed(0)
    omega, x = skew(3), torch.randn(2, 4, 3, dtype=torch.float64)
    errors = [
        (orthonormal_columns(h * x, h * omega, "cayley") - orthonormal_columns(h * x, h * omega, "exp")).abs().max()
        for h in (2e-3, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_columns_stay_orthonormal_however_far_the_parameters_have_moved(scale):
    torch.manual_seed(0)
    a = scale * torch.randn(1, 64, 32)
    q = polished(orthonormal_columns(a[:, 32:], a[:, :32] - a[:, :32].mT)).double()
    assert (q.mT @ q - torch.eye(32)).abs().max() < 2e-6


def test_polishing_squares_the_error_and_lets_gradients_pass():
    torch.manual_seed(0)
    q = haar(1, 8).double()
    off = (q + 1e-4 * torch.randn_like(q)).requires_grad_()
    error = torch.linalg.matrix_norm(off.mT @ off - torch.eye(8), 2).item()
    better = polished(off)
    assert torch.linalg.matrix_norm(better.mT @ better - torch.eye(8), 2) < error**2
    weights = torch.randn_like(q)
    (gradient,) = torch.autograd.grad((better * weights).sum(), off)
    assert gradient.equal(weights)


def test_rotations_in_blocks_are_orthogonal_and_touch_pairs_only():
    q = block_rotations(3, 5)
    torch.testing.assert_close(q @ q.mT, torch.eye(5).expand(3, 5, 5))
    assert q[:, :2, 2:].abs().max() == 0


@pytest.mark.parametrize("function", [lambda c: orthonormal_columns(torch.zeros(1, 1), chart=c),
                                      lambda c: subspace_coordinates(torch.eye(2)[:, :1], chart=c)])  # fmt: skip
def test_an_unknown_chart_is_named(function):
    with pytest.raises(ValueError, match="chart must be one of cayley, exp, got 'qr'"):
        function("qr")


def test_large_matrices_are_inverted_rightly_on_several_threads():
    code = """
import torch
from zoo.paraunitary_conv.orthogonal import orthonormal_columns
torch.set_num_threads(2)
x = torch.randn(4, 160, 160, requires_grad=True)
u = orthonormal_columns(x)
u.square().sum().backward()
assert (u.mT @ u - torch.eye(160)).abs().max() < 1e-4
assert x.grad.abs().max() < 1e-3  # the norm is always the same
"""
    subprocess.run([sys.executable, "-c", code], check=True)
