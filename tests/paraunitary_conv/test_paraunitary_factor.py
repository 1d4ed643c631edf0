import pytest
import torch
import torch.nn.functional as F

from zoo.paraunitary_conv import paraunitary_kernel, paraunitary_kernel_1d, polyphase_to_strided
from zoo.paraunitary_conv.factor import multiply_factor
from zoo.paraunitary_conv.orthogonal import haar, polished


def drawn(groups, size, rank, *lengths):
    torch.manual_seed(0)
    factors = [exact(groups * (k - 1), size)[..., :rank].unflatten(0, (groups, k - 1)) for k in lengths]
    return exact(groups, size), factors


def exact(number, size):
    """Orthogonal matrices in double precision."""
    return polished(haar(number, size).double())


@pytest.mark.parametrize("taps", [2, 3, 4, 5])
@pytest.mark.parametrize(("size", "rank"), [(6, 3), (5, 2), (4, 1)])
def test_a_kernel_is_orthogonal_to_its_shifts(taps, size, rank):
    q, (u,) = drawn(1, size, rank, taps)
    h = paraunitary_kernel_1d(q[0, :3], u[0]).permute(2, 0, 1)  # three rows of the orthogonal matrix
    for shift in range(-taps + 1, taps):
        overlap = sum(h[n] @ h[n + shift].T for n in range(taps) if 0 <= n + shift < taps)
        torch.testing.assert_close(overlap, torch.eye(3, dtype=torch.float64) * (shift == 0))


def test_a_kernel_is_the_product_of_dense_factors():
    q, (u,) = drawn(1, 6, 2, 4)
    h = paraunitary_kernel_1d(q[0], u[0])
    z = torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
    eye = torch.eye(6, dtype=torch.complex128)
    expected = q[0].to(z.dtype)
    for j, columns in enumerate(u[0]):
        p = (columns @ columns.T).to(z.dtype)
        expected = expected @ (p + (eye - p) / z if j % 2 else eye - p + p / z)
    at_z = sum(h[..., n].to(z.dtype) * z**-n for n in range(4))
    torch.testing.assert_close(at_z, expected)


def test_axes_multiply_as_separable_systems():
    q, (u, v) = drawn(2, 4, 2, 3, 2)
    h = paraunitary_kernel(q, [u, v])
    eye = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    along_second, along_first = paraunitary_kernel(q, [v]), paraunitary_kernel(eye, [u])
    torch.testing.assert_close(h, torch.einsum("gjmc,gicd->gijmd", along_second, along_first))


def test_a_factor_and_its_neighbour_of_the_same_subspace_are_a_delay():
    q, (u,) = drawn(1, 5, 2, 2)
    h = multiply_factor(multiply_factor(q[:, None], u[:, 0], axis=0), u[:, 0], axis=0, complement=True)[0]
    torch.testing.assert_close(h, torch.stack([0 * q[0], q[0], 0 * q[0]]))


def test_an_orthogonal_matrix_of_another_axis_would_be_redundant():  # it only turns the subspaces before it
    q, (u,) = drawn(1, 4, 2, 3)
    r = exact(1, 4)
    behind = paraunitary_kernel(q, [u]) @ r
    before = paraunitary_kernel(q @ r, [r.mT @ u])
    torch.testing.assert_close(behind, before)


@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_a_strided_kernel_is_a_plain_one_on_phases(stride):
    torch.manual_seed(0)
    taps = torch.randn(1, 2, 3, 5, 4 * stride[0] * stride[1])
    x = torch.randn(2, 4, 4 * stride[0], 6 * stride[1])
    weight = polyphase_to_strided(taps, stride)
    (rows, columns) = stride
    phases = x.reshape(2, 4, 4, rows, 6, columns).permute(0, 1, 3, 5, 2, 4).reshape(2, -1, 4, 6)
    expected = F.conv2d(phases, taps[0].permute(2, 3, 0, 1))
    torch.testing.assert_close(F.conv2d(x, weight, stride=stride), expected, atol=1e-4, rtol=1e-4)
