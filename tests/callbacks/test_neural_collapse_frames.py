"""Frames have the Gram matrices that define them, and the distances are zero on them and known between them."""

import math

import pytest
import torch

from callbacks.neural_collapse_frames import (
    equiangularity,
    equinorm,
    max_equiangularity,
    nonnegative_orthogonal_frame,
    orthogonal_frame,
    orthogonal_frame_distance,
    self_duality,
    simplex_etf,
    simplex_etf_distance,
)


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(3)))[0]


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("extra", [-1, 0, 5])
def test_a_simplex_etf_has_equal_lengths_and_the_widest_equal_angles(num_classes, extra):
    num_features = num_classes + extra
    etf = simplex_etf(num_classes, num_features, scale=2.0)
    expected = 4 / (num_classes - 1) * (num_classes * torch.eye(num_classes) - 1)
    assert (etf @ etf.T - expected).abs().max() < 1e-12
    assert etf.sum(dim=0).abs().max() < 1e-12
    assert simplex_etf_distance(etf) < 1e-12
    assert simplex_etf_distance(etf, center=False) < 1e-12
    assert max_equiangularity(etf) < 1e-12


def test_with_enough_features_a_simplex_etf_lies_on_the_first_coordinates():
    etf = simplex_etf(3, 5)
    assert etf[:, 3:].abs().max() == 0
    torch.testing.assert_close(etf[:, :3], math.sqrt(1.5) * (torch.eye(3) - 1 / 3))


def test_an_orthogonal_frame_has_equal_lengths_and_right_angles():
    frame = orthogonal_frame(4, 6, scale=3.0, generator=torch.Generator().manual_seed(0))
    assert (frame @ frame.T - 9 * torch.eye(4)).abs().max() < 1e-12
    assert frame.min() < 0
    assert orthogonal_frame_distance(frame) < 1e-12


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_a_nonnegative_orthogonal_frame_has_disjoint_supports(generator):
    frame = nonnegative_orthogonal_frame(3, 8, scale=2.0, generator=generator)
    assert (frame @ frame.T - 4 * torch.eye(3)).abs().max() < 1e-12
    assert frame.min() == 0
    assert ((frame > 0).sum(dim=0) == 1).all()
    distinct = len(frame[frame > 0].unique())
    assert distinct == (2 if generator is None else 8)  # supports of 3, 3 and 2


@pytest.mark.parametrize("make", [simplex_etf, orthogonal_frame])
def test_a_rotation_keeps_the_angles_and_a_generator_draws_one(make):
    plain, rotated = make(4, 6), make(4, 6, rotation=rotation(6))
    torch.testing.assert_close(rotated, plain @ rotation(6))
    drawn = [make(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    torch.testing.assert_close(drawn[0] @ drawn[0].T, plain @ plain.T)


def test_frames_have_the_default_dtype_or_that_of_the_rotation():
    torch.set_default_dtype(torch.float32)
    assert simplex_etf(3, 3).dtype == torch.float32
    assert nonnegative_orthogonal_frame(3, 3).dtype == torch.float32
    assert orthogonal_frame(3, 3, rotation=torch.eye(3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(("num_classes", "known"), [(3, 0.60581), (4, 0.51764), (10, 0.32036)])
def test_simplex_etf_and_orthogonal_frame_are_as_far_apart_as_they_must_be(num_classes, known):
    between = math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes))
    assert between == pytest.approx(known, abs=1e-5)
    etf, frame = simplex_etf(num_classes, 12, rotation=rotation(12)), orthogonal_frame(num_classes, 12)
    assert orthogonal_frame_distance(etf) == pytest.approx(between, abs=1e-12)
    assert simplex_etf_distance(frame, center=False) == pytest.approx(between, abs=1e-12)
    assert simplex_etf_distance(frame) < 1e-12  # centred, the two cannot be told apart


@pytest.mark.parametrize(("kept", "num_classes"), [(5, 10), (8, 10), (1, 4), (2, 4)])
def test_vectors_in_too_few_dimensions_stay_at_the_known_floor(kept, num_classes):
    flat = simplex_etf(num_classes, num_classes - 1)[:, :kept]
    floor = math.sqrt(2 - 2 * math.sqrt(kept / (num_classes - 1)))
    assert simplex_etf_distance(flat) == pytest.approx(floor, abs=1e-12)


def test_self_duality_ignores_scale_and_sees_direction():
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert self_duality(weight, 7 * weight) < 1e-30
    assert self_duality(weight, -weight) == pytest.approx(4)
    centred = torch.eye(3) - 1 / 3
    assert self_duality(torch.eye(3), centred) == pytest.approx(2 - 2 * math.sqrt(2 / 3), abs=1e-12)


def test_lengths_and_angles_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]])
    assert equinorm(vectors) == pytest.approx(1 / 2)
    assert equinorm(vectors, correction=0) == pytest.approx(math.sqrt(2 / 3) / 2)
    assert equiangularity(vectors, correction=0) == pytest.approx(math.sqrt(2) / 3)  # cosines 0, -1, 0
    assert equiangularity(vectors) == pytest.approx(math.sqrt(1 / 3))
    assert max_equiangularity(vectors) == pytest.approx(1 / 2)


def test_two_classes_have_one_angle_whose_spread_is_not_defined():
    antipodal = simplex_etf(2, 1)
    assert antipodal.flatten().tolist() == pytest.approx([1, -1])
    assert equiangularity(antipodal, correction=0) == 0
    assert math.isnan(equiangularity(antipodal))


@pytest.mark.parametrize("distance", [simplex_etf_distance, orthogonal_frame_distance, equinorm, max_equiangularity])
def test_vectors_that_are_all_zero_are_no_frame(distance):
    assert math.isnan(distance(torch.zeros(3, 4)))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (simplex_etf, {"num_classes": 1, "num_features": 3}, "num_classes must be at least 2, got 1"),
        (simplex_etf, {"num_classes": 4, "num_features": 2}, "num_features must be at least 3 for 4 classes, got 2"),
        (orthogonal_frame, {"num_classes": 4, "num_features": 3}, "num_features must be at least 4 for 4 classes"),
        (nonnegative_orthogonal_frame, {"num_classes": 4, "num_features": 3}, "num_features must be at least 4"),
        (simplex_etf, {"num_classes": 3, "num_features": 3, "scale": math.nan}, "scale must be > 0, got nan"),
        (simplex_etf, {"num_classes": 3, "num_features": 3, "rotation": torch.eye(4)}, "rotation must have shape"),
        (
            orthogonal_frame,
            {"num_classes": 3, "num_features": 3, "rotation": torch.eye(3), "generator": torch.Generator()},
            "rotation must be left out where a generator draws one",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
