"""The straightforward layer of the benchmark is as orthogonal, and reaches what ours does."""

import importlib.util
from pathlib import Path

import pytest
import torch

from zoo.paraunitary_conv import conv_singular_values, paraunitary_kernel, polyphase_to_strided
from zoo.paraunitary_conv.orthogonal import haar

PLAIN = Path(__file__).parents[2] / "benchmarks/plain_paraunitary.py"


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("plain_paraunitary", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [(6, 6, 3, 1), (3, 4, 4, 2), (5, 8, 4, 1)])
def test_its_singular_values_are_one(plain, shape):
    torch.manual_seed(0)
    layer = plain.PlainOrthogonalConv2d(*shape)
    values = conv_singular_values(layer.weight(), [8, 8], shape[3])
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)
    x = torch.randn(2, shape[0], 8, 8)
    if shape[1] >= shape[0] * shape[3] ** 2:
        torch.testing.assert_close(layer(x).norm(), x.norm())


def test_what_it_reaches_with_factors_on_both_sides_ours_reaches_with_all_on_one(plain):
    torch.manual_seed(0)
    q, u, v = haar(1, 6), haar(2, 6)[:, :, :3], haar(2, 6)[:, :, :3]
    p, left = v[0] @ v[0].T, u[0] @ u[0].T
    expected = plain.axis_kernel(q[0], [torch.cat([v[0], v[0]], 1), torch.cat([u[0], u[0]], 1)])
    eye = torch.eye(6)
    both = torch.stack(
        [(eye - left) @ q[0] @ p, left @ q[0] @ p + (eye - left) @ q[0] @ (eye - p), left @ q[0] @ (eye - p)]
    )
    torch.testing.assert_close(expected, both)
    turned = q.mT @ u[:1]  # the left projector, taken through the orthogonal matrix
    ours = paraunitary_kernel(q, [torch.stack([turned[0], v[0]])[None]])[0]
    torch.testing.assert_close(ours, both, atol=1e-5, rtol=1e-5)


def test_strides_are_taken_apart_alike(plain):
    kernel = torch.randn(3, 8, 2, 2)
    ours = polyphase_to_strided(kernel.permute(2, 3, 0, 1)[None], (2, 2))
    torch.testing.assert_close(plain.strided(kernel, 2), ours)
