"""The streaming metric: any split of the data, any number of processes and little memory give the same values."""

import copy
import pickle

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torchmetrics import MetricCollection

from callbacks import NearestClassCenterAgreement, NeuralCollapse, WithinClassVariability
from callbacks.neural_collapse import clamped, neural_collapse
from callbacks.neural_collapse_statistics import ClassStatistics, class_statistics, whitening

K, D = 4, 9


def batches(count=6, size=25, seed=0, num_classes=K, num_features=D):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, num_features, generator=generator)
    for _ in range(count):
        target = torch.randint(num_classes, (size,), generator=generator)
        yield means[target] + 0.3 * torch.randn(size, num_features, generator=generator), target


def whole(parts):
    return tuple(torch.cat(part) for part in zip(*parts))


def values(results):
    return {name: float(value) for name, value in results.items()}


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(D, K)


def metric(**options):
    return NeuralCollapse(K, D, classifier=classifier(), **options)


def fed(parts, **options):
    result = metric(**options)
    for part in parts:
        result.update(*part)
    return result


def expected():
    layer = classifier()
    results = values(neural_collapse(*whole(batches()), layer.weight, layer.bias))
    del results["ncc_agreement"]
    return results


@pytest.mark.parametrize("size", [1, 7, 150])
def test_order_and_split_of_the_samples_do_not_matter(size):
    features, target = whole(batches())
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(2))
    parts = zip(features[order].split(size), target[order].split(size))
    assert values(fed(parts).compute()) == pytest.approx(expected(), rel=1e-10)


def test_two_merged_halves_are_the_whole():
    parts = list(batches())
    first, second = fed(parts[:2]), fed(parts[2:])
    first.merge_state(second)
    assert values(first.compute()) == pytest.approx(expected(), rel=1e-10)


def test_forward_gives_the_batch_and_adds_it():
    both, parts = metric(), list(batches())
    layer = classifier()
    for features, target in parts:
        alone = values(neural_collapse(features, target, layer.weight, layer.bias))
        del alone["ncc_agreement"]
        assert values(both(features, target)) == pytest.approx(alone, rel=1e-10)
    assert values(both.compute()) == pytest.approx(expected(), rel=1e-10)


def test_reset_forgets():
    used = fed(batches(seed=9))
    used.reset()
    for part in batches():
        used.update(*part)
    assert values(used.compute()) == pytest.approx(expected(), rel=1e-10)


def test_without_the_second_moment_only_nc1_is_lost():
    full, light = fed(batches()), fed(batches(), second_moment=False)
    assert "second_moment" not in light.metric_state
    results = expected()
    del results["nc1"]
    assert values(light.compute()) == pytest.approx(results, rel=1e-10)
    assert sum(state.nbytes for state in light.metric_state.values()) == 8 * (K * D + 2 * K)
    assert sum(state.nbytes for state in full.metric_state.values()) == 8 * (D * D + K * D + 2 * K)


def test_without_a_classifier_the_features_are_measured():
    plain = NeuralCollapse(K, D)
    for part in batches():
        plain.update(*part)
    results = values(plain.compute())
    assert len(results) == 8
    assert results == pytest.approx({name: expected()[name] for name in results}, rel=1e-10)


def test_the_classifier_is_read_at_compute_and_is_no_part_of_the_metric():
    layer = classifier()
    first = NeuralCollapse(K, D, classifier=layer)
    second = first.clone()
    assert list(first.parameters()) == []
    assert list(first.state_dict()) == []
    with torch.no_grad():
        layer.weight.mul_(-1)
    for each in (first, second, copy.deepcopy(first)):
        for part in batches():
            each.update(*part)
        flipped = neural_collapse(*whole(batches()), layer.weight, layer.bias)
        assert float(each.compute()["self_duality"]) == pytest.approx(float(flipped["self_duality"]), rel=1e-10)


def test_the_metric_can_be_pickled_and_collected():
    assert values(pickle.loads(pickle.dumps(fed(batches()))).compute()) == pytest.approx(expected(), rel=1e-10)
    collection = MetricCollection({"a": metric(), "b": NeuralCollapse(K, D)}, prefix="nc/")
    for part in batches():
        collection.update(*part)
    assert float(collection.compute()["nc/a_nc1"]) == pytest.approx(expected()["nc1"], rel=1e-10)


def test_state_survives_a_checkpoint():
    first, second = fed(batches(3)), metric()
    first.persistent(True)
    second.persistent(True)
    second.load_state_dict(first.state_dict())
    second._update_count = 1
    for part in list(batches())[3:]:
        second.update(*part)
    assert values(second.compute()) == pytest.approx(expected(), rel=1e-10)


@pytest.mark.parametrize("cast", ["half", "float", "double", "bfloat16"])
def test_casting_the_module_leaves_the_precision_of_the_state(cast):
    holder = nn.ModuleDict({"metric": metric()})
    getattr(holder, cast)()
    assert holder["metric"].sums.dtype == holder["metric"].second_moment.dtype == torch.float64


def test_features_of_less_precision_are_summed_in_float64_also_under_autocast():
    parts = [(features.bfloat16(), target) for features, target in batches()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values(fed(parts).compute())
    layer = classifier()
    direct = values(neural_collapse(*whole(parts), layer.weight, layer.bias))
    assert found == pytest.approx({name: direct[name] for name in found}, rel=1e-10)


@pytest.mark.parametrize("offset", [100.0, 10.0])
def test_scatter_that_is_small_beside_an_offset_is_measured(offset):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(10).repeat(200)
    means = torch.randn(10, 64, generator=generator, dtype=torch.float64)
    noise = 1e-3 * torch.randn(2000, 64, generator=generator, dtype=torch.float64)
    features = (offset + means[target] + noise).float()
    exact = float(neural_collapse(features, target)["nc1"])

    def streamed(**options):
        result = NeuralCollapse(10, 64, **options)
        for part in zip(features.split(256), target.split(256)):
            result.update(*part)
        return float(result.compute()["nc1"])

    assert streamed() == pytest.approx(exact, rel=1e-4)
    shifted = streamed(dtype=torch.float32, shift=features[:256].mean(dim=0))
    assert shifted == pytest.approx(exact, rel=0.1)
    assert streamed(dtype=torch.float32) != pytest.approx(exact, rel=0.5)


def test_a_value_below_zero_is_set_to_zero_and_told_if_it_is_more_than_round_off(recwarn):
    assert clamped("nc1", torch.tensor(-1e-9)) == 0
    assert not recwarn
    with pytest.warns(UserWarning, match="nc1 came out as -0.5 and is set to 0: the statistics lack precision"):
        assert clamped("nc1", torch.tensor(-0.5)) == 0
    assert clamped("nc1", torch.tensor(float("nan"))).isnan()


def test_a_shift_changes_no_result():
    shift = torch.linspace(-3, 3, D, dtype=torch.float64)
    shifted = fed(batches(), shift=shift)
    assert values(shifted.compute()) == pytest.approx(expected(), rel=1e-9)
    torch.testing.assert_close(shifted.class_means, fed(batches()).class_means)


def test_singular_values_that_are_round_off_are_left_out():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(10).repeat(200)
    flat = torch.randn(10, 3, generator=generator) @ torch.randn(3, 64, generator=generator)  # rank 3 of 9
    features = flat[target] + 0.1 * torch.randn(2000, 64, generator=generator)
    results = {rtol: neural_collapse(features, target, rtol=rtol)["nc1"] for rtol in (1e-6, 1e-2, 0.1)}
    exactly_flat = flat.double()[target]
    statistics = class_statistics(exactly_flat, target, 10)
    assert int((whitening(statistics).norm(dim=0) > 0).sum()) == 3
    assert int((whitening(statistics, rtol=0.0).norm(dim=0) > 0).sum()) <= 9
    assert results[1e-6] > results[0.1] >= 0


@pytest.mark.parametrize("rank", [299, 100])
def test_many_classes_are_whitened_as_few_are(rank):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(300, rank, generator=generator, dtype=torch.float64)
    means = means @ torch.randn(rank, 320, generator=generator, dtype=torch.float64)
    statistics = ClassStatistics(torch.ones(300, dtype=torch.float64), means, torch.zeros(300, dtype=torch.float64))
    whitened = whitening(statistics)
    centred = means - means.mean(dim=0)
    inverse = torch.linalg.pinv(centred.T @ centred / 300, rtol=1e-10, hermitian=True)
    error = (300 * whitened @ whitened.T - inverse).norm() / inverse.norm()
    assert error < (1e-5 if rank == 299 else 1e-9)  # the inverse squares the condition number, the whitening does not


def test_the_state_of_imagenet_is_small():
    large = NeuralCollapse(1000, 2048)
    assert sum(state.nbytes for state in large.metric_state.values()) < 60e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
        ({"dtype": torch.float16}, "dtype must be torch.float64 or torch.float32, got torch.float16"),
        ({"shift": torch.zeros(2)}, r"shift must have shape \(9,\), got \(2,\)"),
        ({"classifier": nn.Linear(2, 2)}, r"classifier weight must have shape \(4, 9\), got \(2, 2\)"),
        ({"classifier": nn.ReLU()}, "classifier must be a layer with a weight, got ReLU"),
        ({"nan_policy": "raise"}, "nan_policy must be one of nan, skip, got 'raise'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(**{"num_classes": K, "num_features": D, **options})


def test_wrong_batches_are_refused_and_leave_no_trace():
    result = metric()
    for wrong in ((torch.full((2, D), torch.nan), torch.tensor([0, 1])), (torch.ones(2, D), torch.tensor([0, K]))):
        with pytest.raises(ValueError, match=r"features must be finite|target must lie in"):
            result.update(*wrong)
    with pytest.raises(ValueError, match="features must have num_features=9 columns, got 3"):
        result.update(torch.ones(2, 3), torch.tensor([0, 1]))
    for part in batches():
        result.update(*part)
    assert values(result.compute()) == pytest.approx(expected(), rel=1e-10)


def test_a_second_pass_gives_nc1_and_the_agreement():
    first, layer = fed(batches(), second_moment=False), classifier()
    within = WithinClassVariability(first.class_means, first.whitening())
    agreement = NearestClassCenterAgreement(first.class_means, layer)
    for features, target in batches():
        within.update(features, target)
        agreement.update(features)
    direct = neural_collapse(*whole(batches()), layer.weight, layer.bias)
    assert float(within.compute()) == pytest.approx(float(direct["nc1"]), rel=1e-10)
    assert float(agreement.compute()) == pytest.approx(float(direct["ncc_agreement"]))


def test_a_class_without_samples_is_nobodys_nearest_and_leaves_nc1_undefined():
    first = NeuralCollapse(K + 1, D)
    for part in batches():
        first.update(*part)
    assert first.class_means[K].isnan().all()
    assert first.whitening() is None
    agreement = NearestClassCenterAgreement(first.class_means)
    features, target = whole(batches())
    assert float(agreement(features, target)) > 0.9


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: NearestClassCenterAgreement(torch.zeros(3)), r"class_means must have shape \(K, d\)"),
        (lambda: NearestClassCenterAgreement(torch.zeros(2, 3), nn.Linear(2, 2)), "classifier weight must have shape"),
        (lambda: NearestClassCenterAgreement(torch.zeros(2, 3)).update(torch.zeros(1, 2)), r"\(N, 3\), got \(1, 2\)"),
        (lambda: NearestClassCenterAgreement(torch.zeros(2, 3)).update(torch.zeros(1, 3)), "decisions must be given"),
        (
            lambda: NearestClassCenterAgreement(torch.zeros(2, 3)).update(torch.zeros(1, 3), torch.zeros(2)),
            r"decisions must have shape \(1,\), got \(2,\)",
        ),
        (lambda: WithinClassVariability(torch.zeros(2, 3), torch.zeros(2, 2)), r"whitened must have shape \(3, r\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_the_second_pass_are_named(action, message):
    with pytest.raises(ValueError, match=message):
        action()


def _in_a_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    parts = list(batches())[:5]
    mine = fed(parts[rank::2])  # three batches and two
    results = values(mine.compute())
    again = values(mine.compute())
    within = WithinClassVariability(mine.class_means, mine.whitening())
    agreement = NearestClassCenterAgreement(mine.class_means, classifier())
    for features, target in parts[rank::2]:
        within.update(features, target)
        agreement.update(features)
    second = float(within.compute()), float(agreement.compute())
    torch.save((results, again, mine.class_means, second), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    mp.start_processes(_in_a_process, (str(tmp_path),), nprocs=2, start_method="fork")
    parts, layer = list(batches())[:5], classifier()
    alone = fed(parts)
    direct = neural_collapse(*whole(parts), layer.weight, layer.bias)
    for rank in range(2):
        results, again, means, (nc1, agreement) = torch.load(tmp_path / f"{rank}.pt")
        assert results == again == pytest.approx(values(alone.compute()), rel=1e-12)
        torch.testing.assert_close(means, alone.class_means)
        assert nc1 == pytest.approx(float(direct["nc1"]), rel=1e-10)
        assert agreement == pytest.approx(float(direct["ncc_agreement"]))
