import pytest
import torch

from zoo.deep_linear import RankOneFlow, Start, draw_starts

Z = torch.zeros(4, 5, dtype=torch.float64)
Z.diagonal()[:] = torch.tensor([3.0, 2.0, 1.0, 0.5])
DEFICIENT = Z.clone()
DEFICIENT[3, 3] = 0.0


def ends(start, target, atol=0.0):
    flow = RankOneFlow(target, 3, *draw_starts([start], target[None], torch.Generator().manual_seed(0)), atol=atol)
    limit = flow.limit()
    return limit.kind[0], limit.sigma[0].item()


@pytest.mark.parametrize(
    ("start", "target", "expected"),
    [
        (Start("random"), Z, ("global", 3.0)),
        (Start("saddle"), Z, ("saddle", 2.0)),
        (Start("saddle", index=4), Z, ("saddle", 0.5)),
        (Start("anti"), Z, ("saddle", 2.0)),
        (Start("opposite"), Z, ("origin", 0.0)),
        (Start("null"), DEFICIENT, ("origin", 0.0)),
        (Start("null"), Z, ("saddle", 0.5)),  # the last singular vector takes part
        (Start("near_saddle", epsilon=1e-8), Z, ("global", 3.0)),
        (Start("aligned"), Z, ("global", 3.0)),
    ],
)
def test_every_family_ends_where_it_says(start, target, expected):
    kind, sigma = ends(start, target)
    assert kind == expected[0]
    assert sigma == pytest.approx(expected[1])


@pytest.mark.parametrize("family", ["saddle", "anti", "opposite"])
def test_families_keep_their_meaning_in_a_rotated_basis(family):
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q for size in (4, 5))
    assert ends(Start(family), left @ Z @ right.mT, atol=1e-12)[0] == ends(Start(family), Z)[0]


def test_starts_are_ordered_by_target_and_then_by_family():
    u, v, s = draw_starts([Start("aligned", s=0.1), Start("random", s=0.2, number=2)], torch.stack([Z, 2 * Z]))
    assert s.tolist() == [0.1, 0.2, 0.2] * 2
    assert u.shape == (6, 4)
    torch.testing.assert_close(u[0] @ Z @ v[0], torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(u[1] @ Z @ v[1], u[4] @ Z @ v[4])  # the same coordinates for both


def test_random_directions_are_uniform():
    a, _ = Start("random", number=4000).coordinates(4, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(a.square().mean(0), torch.full((4,), 0.25, dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "saddel"}, "family must be one of random, .*got 'saddel'"),
        ({"family": "random", "s": 0.0}, "s must be > 0, got 0.0"),
        ({"family": "random", "number": 0}, "number must be at least 1"),
        ({"family": "saddle", "index": 1}, "index must be at least 2, got 1"),
        ({"family": "near_saddle", "epsilon": 0.0}, r"epsilon must be in \(0, 1\], got 0.0"),
    ],
)
def test_a_family_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Start(**arguments)


@pytest.mark.parametrize(
    ("start", "dims"),
    [
        (Start("anti"), (4, 2)),
        (Start("null"), (4, 4)),
        (Start("opposite"), (5, 4)),
        (Start("saddle", index=3), (2, 5)),
        (Start("near_saddle"), (1, 5)),
    ],
)
def test_dimensions_too_small_for_a_family_are_refused(start, dims):
    with pytest.raises(ValueError, match=f"family '{start.family}' needs d_y"):
        start.coordinates(*dims)
