"""All measures by hand, beside NumPy, and under transformations that must not change them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from callbacks import NearestClassCenterAgreement, NeuralCollapse
from callbacks.neural_collapse import nearest_class_center, neural_collapse
from callbacks.neural_collapse_frames import simplex_etf

EYE, ZEROS = torch.eye(3), torch.zeros(3)
# Two samples a class around 3 e_k: apart along e_k, or along a direction of their own.
F1 = torch.cat([2 * EYE, 4 * EYE]), torch.arange(3).repeat(2)
F2 = (
    torch.cat([torch.cat([3 * EYE, torch.full((3, 1), side)], dim=1) for side in (-1.0, 1.0)]),
    torch.arange(3).repeat(2),
)
F1_VALUES = {
    "nc1": 2 / 27,
    "trace_ratio": 1 / 6,
    "cdnv": 1 / 18,
    "nc2_features": 0,
    "of_features": 0,
    "equinorm_features": 0,
    "max_equiangularity_features": 0,
    "nc2_classifier": 0,
    "max_equiangularity_classifier": 0.5,
    "nc3": 0,
    "self_duality": 0.3670068381,
    "nc4_bias": 1.7320508076,
}
# Three, two and one samples; the classifier is neither centred nor dual to the means.
F3 = (
    torch.tensor([[1.0, 0], [3, 0], [0, 1], [0, 2], [0, 3], [-1, -1]]),
    torch.tensor([0, 0, 1, 1, 1, 2]),
    torch.tensor([[1.0, 0], [0, 2], [-1, -1]]),
    torch.tensor([0.5, 0, -0.5]),
)
F3_SAMPLE = {
    "nc1": 61 / 448,
    "trace_ratio": 0.1967213115,
    "cdnv": 0.0625,
    "nc2_features": 0.4436541590,
    "equinorm_features": 0.3098356211,
    "max_equiangularity_features": 0.2170355861,
    "nc2_classifier": 0.4595058411,
    "nc3": 0.4561736617,
    "self_duality": 0.3009393237,
    "nc4_bias": 2.6718699237,
}
F3_CLASS = {
    "nc1": 0.1458333333,
    "trace_ratio": 0.2142857143,
    "nc2_features": 0.1417780402,
    "max_equiangularity_features": 0.0749283359,
    "nc3": 0.3106548828,
    "self_duality": 0.1029919727,
    "nc4_bias": 1.5811388301,
}


def linear(weight, bias):
    """A layer with these weights."""
    layer = nn.Linear(*weight.T.shape)
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer


def streamed(features, target, weight=None, bias=None, num_classes=None, batch_size=2, **options):
    """What the metric makes of batches."""
    classifier = None if weight is None else linear(weight, torch.zeros(len(weight)) if bias is None else bias)
    num_classes = num_classes or (int(target.max()) + 1 if weight is None else len(weight))
    metric = NeuralCollapse(num_classes, features.shape[1], classifier=classifier, **options)
    for batch in zip(features.split(batch_size), target.split(batch_size)):
        metric.update(*batch)
    return metric.compute()


both_ways = pytest.mark.parametrize("measure", [neural_collapse, streamed])


def check(results, values):
    assert {name: float(results[name]) for name in values} == pytest.approx(values, abs=1e-9)


@both_ways
def test_balanced_classes_by_hand(measure):
    check(measure(*F1, EYE, ZEROS), F1_VALUES)
    check(measure(*F1, EYE, ZEROS, bias_target="1/K"), {"nc4_bias": 1.1547005384})
    check(measure(*F1, EYE, ZEROS, bias_target=1.0), {"nc4_bias": 0})
    check(measure(*F1, EYE, ZEROS, center_classifier=False), {"nc2_classifier": 0.6058108931})
    check(neural_collapse(*F1, EYE, ZEROS), {"ncc_agreement": 1})


@both_ways
def test_nc1_is_blind_to_scatter_outside_the_span_of_the_means(measure):
    weight = torch.cat([EYE, torch.zeros(3, 1)], dim=1)
    check(measure(*F2, weight, ZEROS), F1_VALUES | {"nc1": 0})


@both_ways
def test_imbalanced_classes_by_hand(measure):
    check(measure(*F3), F3_SAMPLE)
    check(measure(*F3, global_mean="class"), F3_CLASS)


@both_ways
def test_imbalanced_classes_with_other_conventions_by_hand(measure):
    population = {"equinorm_features": 0.2529797253, "equiangularity_features": 0.2504930732}
    check(measure(*F3, correction=0), population)
    check(measure(*F3, correction=0, global_mean="class"), {"equinorm_features": 0.0497573484})
    uncentred = {"nc2_classifier": 0.5537733953, "nc3": 0.5007097943}
    check(measure(*F3, center_classifier=False), uncentred)
    check(measure(*F3, center_classifier=False, global_mean="class"), {"nc3": 0.3749136008})


def test_the_nearest_class_centre_is_compared_with_decisions_that_have_a_bias():
    features, target, weight, _ = F3
    bias = torch.tensor([0, 0, 3.5])
    means = torch.tensor([[2.0, 0], [0, 2], [-1, -1]])
    assert (features @ weight.T + bias).argmax(dim=1).tolist() == [2, 0, 2, 1, 1, 2]
    assert nearest_class_center(features, means).tolist() == [0, 0, 1, 1, 1, 2]
    check(neural_collapse(features, target, weight, bias), {"ncc_agreement": 2 / 3})
    check(neural_collapse(features, target, weight), {"ncc_agreement": 1})
    assert float(NearestClassCenterAgreement(means, linear(weight, bias))(features)) == pytest.approx(2 / 3)


def data(num_classes=5, num_features=12, size=300, seed=0, dtype=torch.float64):
    """Imbalanced classes and a classifier."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.cat([torch.arange(num_classes), (num_classes * torch.rand(size, generator=generator) ** 2).long()])
    means = 3 * torch.randn(num_classes, num_features, generator=generator, dtype=dtype)
    features = means[target] + torch.randn(len(target), num_features, generator=generator, dtype=dtype) + 1
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=dtype)
    return features, target, weight, torch.randn(num_classes, generator=generator, dtype=dtype)


def by_numpy(features, target, weight, bias, global_mean):
    """Every result from its definition, by sample and by pair, with a pseudo-inverse of the d x d matrix."""
    h, y, w, b = (np.asarray(part) for part in (features, target, weight, bias))
    num_classes = len(w)
    means = np.stack([h[y == k].mean(0) for k in range(num_classes)])
    center = h.mean(0) if global_mean == "sample" else means.mean(0)
    m = means - center
    within = sum(np.outer(x - means[k], x - means[k]) for x, k in zip(h, y)) / len(h)
    between = sum(np.outer(row, row) for row in m) / num_classes
    v = np.array([((h[y == k] - means[k]) ** 2).sum(1).mean() for k in range(num_classes)])
    pairs = [(i, j) for i in range(num_classes) for j in range(i)]

    def unit(matrix):
        return matrix / np.linalg.norm(matrix)

    def cosines(rows):
        return np.array([rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for i, j in pairs])

    def angles(rows, of):
        lengths = np.linalg.norm(rows, axis=1)
        return {
            f"equinorm_{of}": lengths.std(ddof=1) / lengths.mean(),
            f"equiangularity_{of}": cosines(rows).std(ddof=1),
            f"max_equiangularity_{of}": np.abs(cosines(rows) + 1 / (num_classes - 1)).mean(),
        }

    etf = (np.eye(num_classes) - 1 / num_classes) / math.sqrt(num_classes - 1)
    frame = np.eye(num_classes) / math.sqrt(num_classes)
    centred = w - w.mean(0)
    decisions = (h @ w.T + b).argmax(1)
    nearest = np.array([np.linalg.norm(x - means, axis=1).argmin() for x in h])
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / num_classes,
        "trace_ratio": np.trace(within) / np.trace(between),
        "cdnv": np.mean([(v[i] + v[j]) / (2 * ((means[i] - means[j]) ** 2).sum()) for i, j in pairs]),
        "nc2_features": np.linalg.norm(unit(m @ m.T) - etf),
        "of_features": np.linalg.norm(unit(means @ means.T) - frame),
        **angles(m, "features"),
        "nc2_classifier": np.linalg.norm(unit(centred @ centred.T) - etf),
        "of_classifier": np.linalg.norm(unit(w @ w.T) - frame),
        **angles(w, "classifier"),
        "nc3": np.linalg.norm(unit(centred @ m.T) - etf),
        "nc3_of": np.linalg.norm(unit(w @ means.T) - frame),
        "self_duality": np.linalg.norm(unit(w) - unit(m)) ** 2,
        "self_duality_of": np.linalg.norm(unit(w) - unit(means)) ** 2,
        "nc4_bias": np.linalg.norm(w @ center + b),
        "ncc_agreement": (decisions == nearest).mean(),
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's: two classes have one angle, without a spread
@pytest.mark.parametrize("global_mean", ["sample", "class"])
@pytest.mark.parametrize(("num_classes", "num_features"), [(5, 12), (8, 4), (2, 3)])
def test_every_result_is_what_a_direct_computation_gives(global_mean, num_classes, num_features):
    parts = data(num_classes, num_features)
    expected = by_numpy(*parts, global_mean)
    results = neural_collapse(*parts, global_mean=global_mean)
    assert list(results) == list(expected)
    del expected["ncc_agreement"], results["ncc_agreement"]
    batches = streamed(*parts, batch_size=37, global_mean=global_mean)
    for found in (results, batches):
        assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-10, nan_ok=True)


def test_agreement_is_what_a_direct_computation_gives():
    parts = data()
    share = by_numpy(*parts, "sample")["ncc_agreement"]
    assert 0 < share < 1
    assert float(neural_collapse(*parts)["ncc_agreement"]) == pytest.approx(share, abs=1e-12)


INVARIANT = ("nc1", "trace_ratio", "cdnv", "nc2_features", "nc2_classifier", "nc3", "self_duality")


@both_ways
@pytest.mark.parametrize("transformation", ["rotation", "shift", "scale"])
def test_rotation_shift_and_scale_of_the_features_change_nothing(measure, transformation):
    features, target, weight, bias = data()
    before = measure(features, target, weight, bias)
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    changed = {
        "rotation": (features @ rotation, weight @ rotation),
        "shift": (features + 10 * rotation[0], weight),
        "scale": (7 * features, weight),
    }[transformation]
    after = measure(changed[0], target, changed[1], bias)
    check(after, {name: float(before[name]) for name in INVARIANT})


def test_the_distance_from_an_orthogonal_frame_is_not_blind_to_a_shift():
    features, target = F1
    assert float(neural_collapse(features, target)["of_features"]) < 1e-12
    assert float(neural_collapse(features + 1, target)["of_features"]) > 0.1


@both_ways
@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_features_on_a_simplex_etf_have_collapsed(measure, num_classes):
    etf = simplex_etf(num_classes, num_classes, rotation=torch.eye(num_classes, dtype=torch.float64))
    target = torch.arange(num_classes).repeat(2)
    results = measure(etf[target] + 5, target, etf, etf[:, 0] * 0)
    zero = ["nc1", "trace_ratio", "cdnv", "nc2_features", "nc2_classifier", "nc3", "self_duality"]
    zero += ["max_equiangularity_features", "max_equiangularity_classifier"]
    check(results, dict.fromkeys(zero, 0))


def test_a_third_class_without_samples_makes_all_results_nan_with_one_warning(recwarn):
    results = neural_collapse(*F1, torch.eye(4, 3), num_classes=4)
    assert len(results) == 19
    assert all(value.isnan() for value in results.values())
    assert [str(warning.message)[:32] for warning in recwarn] == ["Classes 3 have no sample: the re"]


@both_ways
def test_classes_without_samples_can_be_skipped(measure, recwarn):
    features, target, weight, bias = data()
    sparse_weight, sparse_bias = torch.randn(8, 12, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    place = torch.tensor([1, 2, 4, 5, 7])
    sparse_weight[place], sparse_bias[place] = weight, bias
    results = measure(features, place[target], sparse_weight, sparse_bias, nan_policy="skip", bias_target="1/K")
    expected = neural_collapse(features, target, weight, bias, bias_target="1/K")
    check(results, {name: float(expected[name]) for name in results})
    assert not recwarn


@both_ways
def test_one_class_alone_is_nothing_to_measure(measure):
    with pytest.warns(UserWarning, match="needs samples of at least 2 classes, got 1"):
        results = measure(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), num_classes=3, nan_policy="skip")
    assert all(value.isnan() for value in results.values())


@both_ways
def test_equal_class_means_are_infinitely_far_from_collapse(measure):
    features, target = torch.tensor([[-1.0, 0.1], [1, 0.1], [-2, 0.1], [2, 0.1]]), torch.tensor([0, 0, 1, 1])
    with pytest.warns(UserWarning, match="All class means are equal"):
        results = measure(features, target)
    assert results["nc1"] == results["trace_ratio"] == results["cdnv"] == math.inf
    assert results["nc2_features"].isnan()


@both_ways
def test_features_that_are_all_zero_give_nan_and_not_zero(measure):
    with pytest.warns(UserWarning, match="All class means are equal"):
        results = measure(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]))
    assert all(value.isnan() for value in results.values())


@both_ways
def test_single_samples_have_no_scatter_and_that_is_told(measure):
    with pytest.warns(UserWarning, match="NC1 is 0 whatever the network"):
        results = measure(torch.eye(3), torch.arange(3))
    check(results, {"nc1": 0, "trace_ratio": 0})


def test_the_scale_of_the_features_may_be_tiny():
    check(neural_collapse(1e-40 * F1[0].double(), F1[1]), {"nc1": 2 / 27, "cdnv": 1 / 18})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(6, 3, 1)}, r"features must have shape \(N, d\), got \(6, 3, 1\); flatten\(1\)"),
        ({"features": torch.ones(6, 3, dtype=torch.long)}, "features must be floating point, got torch.int64"),
        (
            {"features": F1[0] * torch.tensor([1, math.nan, math.inf])},
            "features must be finite, got 12 NaN or infinite",
        ),
        ({"target": torch.arange(6)}, r"target must lie in \[0, 2\], got 0 to 5"),
        ({"target": torch.full((6,), -1)}, r"target must lie in \[0, 2\], got -1 to -1"),
        ({"target": torch.arange(5)}, r"target must have shape \(6,\), got \(5,\)"),
        ({"target": torch.ones(6)}, "target must be integers, got torch.float32"),
        ({"weight": torch.eye(4), "num_classes": 3}, r"classifier weight must have shape \(3, 3\), got \(4, 4\)"),
        ({"bias": torch.ones(2)}, r"classifier bias must have shape \(3,\), got \(2,\)"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"global_mean": "median"}, "global_mean must be one of sample, class, got 'median'"),
        ({"nan_policy": "omit"}, "nan_policy must be one of nan, skip, got 'omit'"),
        ({"bias_target": "K"}, "bias_target must be a number or '1/K', got 'K'"),
        ({"bias_target": math.nan}, "bias_target must be a number or '1/K', got nan"),
        ({"correction": 2}, "correction must be 0 or 1, got 2"),
        ({"rtol": 1.0}, r"rtol must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"features": F1[0], "target": F1[1], "weight": EYE, "bias": ZEROS} | change
    with pytest.raises(ValueError, match=message):
        neural_collapse(**arguments)
