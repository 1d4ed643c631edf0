import torch

from zoo.momentum_margin import FeatureAlignment, NoiseMemorization, feature_alignment, noise_memorization


def test_alignment_takes_the_largest_coefficient_not_the_largest_magnitude():
    weight = torch.tensor([[[-9.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [1.0, 0.0]]])  # two networks
    signal = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    largest, cosine = feature_alignment(weight, signal)
    assert largest.tolist() == [3.0, 2.0]
    torch.testing.assert_close(cosine, torch.tensor([0.6, 1.0]))


def test_memorization_agrees_with_loops_and_leaves_the_signal_out():
    torch.manual_seed(0)
    correlations, signal_patch = torch.randn(6, 3, 4), torch.randint(3, (6,))
    slow = [
        max(abs(float(value)) for j in range(3) if j != patch for value in sample[j])
        for sample, patch in zip(correlations, signal_patch)
    ]
    torch.testing.assert_close(noise_memorization(correlations, signal_patch), torch.tensor(slow))


def test_the_metric_of_memorization_is_the_mean_over_all_batches():
    torch.manual_seed(0)
    correlations, signal_patch, small = torch.randn(20, 3, 4), torch.randint(3, (20,)), torch.rand(20) < 0.3
    metric = NoiseMemorization()
    for rows in (slice(0, 7), slice(7, 20)):
        metric.update(correlations[rows], signal_patch[rows], small[rows])
    memorized = noise_memorization(correlations, signal_patch)
    torch.testing.assert_close(metric.compute(), {"large": memorized[~small].mean(), "small": memorized[small].mean()})


def test_a_group_without_samples_is_nan_and_no_crash():
    metric = NoiseMemorization()
    metric.update(torch.ones(2, 2, 1), torch.zeros(2, dtype=torch.long), torch.tensor([False, False]))
    found = metric.compute()
    assert found["small"].isnan()
    assert found["large"] == 1.0


def test_the_metric_of_alignment_tells_of_the_last_network():
    metric = FeatureAlignment()
    assert metric.coefficient.isnan()
    for weight in ([[5.0, 0.0]], [[3.0, 4.0]]):
        metric.update(torch.tensor(weight), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(metric.compute(), {"max": torch.tensor(3.0), "cosine": torch.tensor(0.6)})
