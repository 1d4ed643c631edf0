import pytest
import torch

from zoo.deep_equilibrium import deq_init_, haar
from zoo.deep_equilibrium.initialisation import FAMILIES

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(family, sigma_w=0.8, *, num=20, width=100, normalization="spectral", seed=0):
    empty = torch.empty(num, width, width, dtype=F64)
    return deq_init_(empty, family, sigma_w, normalization, seeded(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalization", ["spectral", "variance"])
def test_entries_have_the_variance_that_the_scale_says(family, normalization):
    weight = drawn(family, normalization=normalization)
    ratio = 0.25 if family == "goe" and normalization == "spectral" else 1.0
    off_diagonal = weight[:, ~torch.eye(100, dtype=torch.bool)]
    assert off_diagonal.square().mean().item() == pytest.approx(ratio * 0.64 / 100, rel=0.03)
    assert weight.mean().abs() < 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spectrum_ends_at_the_scale(family):
    radii = torch.linalg.eigvals(drawn(family)).abs().amax(1)
    assert radii.mean().item() == pytest.approx(0.8, rel=0.08)  # a finite one of iid entries ends a little beyond


def test_orthogonal_matrices_are_orthogonal_and_symmetric_ones_symmetric():
    eye = 0.64 * torch.eye(100, dtype=F64)
    for family in ("orthogonal", "symmetric_orthogonal"):
        weight = drawn(family)
        torch.testing.assert_close(weight @ weight.mT, eye.expand_as(weight))
    for family in ("goe", "symmetric_orthogonal"):
        weight = drawn(family)
        torch.testing.assert_close(weight, weight.mT)


def test_eigenvalues_of_the_goe_follow_the_semicircle():
    eigenvalues = torch.linalg.eigvalsh(drawn("goe", 1.0))
    assert eigenvalues.square().mean().item() == pytest.approx(1 / 4, rel=0.03)  # Catalan numbers over 4^k
    assert eigenvalues.pow(4).mean().item() == pytest.approx(2 / 16, rel=0.05)
    diagonal = drawn("goe", 1.0, num=200).diagonal(dim1=1, dim2=2)
    assert diagonal.var().item() == pytest.approx(2 / 400, rel=0.05)  # twice the variance off the diagonal


@pytest.mark.parametrize("width", [100, 5])
def test_half_of_a_symmetric_orthogonal_matrix_points_up(width):
    traces = drawn("symmetric_orthogonal", 1.0, num=50, width=width).diagonal(dim1=1, dim2=2).sum(1)
    if width % 2 == 0:
        assert traces.abs().max() < 1e-9
    else:  # the odd one is up or down
        torch.testing.assert_close(traces.abs(), torch.ones_like(traces))
        assert 10 < (traces > 0).sum() < 40


def test_haar_matrices_favour_no_sign():  # LAPACK's own Q does, and its trace is not around 0
    traces = haar((2000, 6, 6), F64, generator=seeded()).diagonal(dim1=1, dim2=2).sum(1)
    assert abs(traces.mean().item()) < 0.07  # of the Haar measure: mean 0, variance 1
    assert traces.var().item() == pytest.approx(1, abs=0.1)
    plain = torch.linalg.qr(torch.randn(2000, 6, 6, dtype=F64, generator=seeded())).Q
    assert abs(plain.diagonal(dim1=1, dim2=2).sum(1).mean().item()) > 0.3


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (3, 7, 4)])
def test_rectangular_orthogonal_matrices_have_orthonormal_vectors_along_the_longer_side(shape):
    weight = deq_init_(torch.empty(shape, dtype=F64), "orthogonal", 1.0, generator=seeded())
    long = weight if shape[-2] > shape[-1] else weight.mT
    torch.testing.assert_close(long.mT @ long, torch.eye(4, dtype=F64).expand(*shape[:-2], 4, 4))


def test_each_matrix_of_a_stack_may_have_its_own_scale():
    both = deq_init_(torch.empty(2, 8, 8, dtype=F64), "orthogonal", torch.tensor([0.5, 2.0]), generator=seeded())
    torch.testing.assert_close(both[0] @ both[0].mT, 0.25 * torch.eye(8, dtype=F64))
    torch.testing.assert_close(both[1] @ both[1].mT, 4.0 * torch.eye(8, dtype=F64))


def test_the_generator_decides():
    assert torch.equal(drawn("orthogonal", seed=1), drawn("orthogonal", seed=1))
    assert not torch.equal(drawn("orthogonal", seed=1), drawn("orthogonal", seed=2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_any_precision_are_filled_without_a_graph(family, dtype):
    weight = torch.nn.Parameter(torch.empty(6, 6, dtype=dtype))
    assert deq_init_(weight, family, 0.5, generator=seeded()) is weight
    assert weight.isfinite().all()
    assert weight.is_leaf


@pytest.mark.parametrize(
    ("tensor", "family", "sigma_w", "message"),
    [
        (torch.empty(3, 3), "gaussian", 1.0, "family must be one of iid, orthogonal, goe, symmetric_orthogonal"),
        (torch.empty(3, 4), "goe", 1.0, r"tensor must hold square matrices for goe, got shape \(3, 4\)"),
        (torch.empty(3, 4), "symmetric_orthogonal", 1.0, "square"),
        (torch.empty(3), "iid", 1.0, "tensor must have at least two axes"),
        (torch.empty(3, 3, dtype=torch.long), "iid", 1.0, "tensor must be floating point, got torch.int64"),
        (torch.empty(3, 3), "iid", -1.0, "sigma_w must be >= 0 and finite, got -1.0"),
        (torch.empty(3, 3), "iid", float("nan"), "sigma_w must be >= 0 and finite, got nan"),
        (torch.empty(3, 3), "iid", float("inf"), "sigma_w must be >= 0 and finite, got inf"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tensor, family, sigma_w, message):
    with pytest.raises(ValueError, match=message):
        deq_init_(tensor, family, sigma_w)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalization must be one of spectral, variance, got 'fro'"):
        deq_init_(torch.empty(3, 3), "goe", 1.0, "fro")
