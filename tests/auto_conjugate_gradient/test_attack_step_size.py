from itertools import islice

import pytest
import torch

from zoo.auto_conjugate_gradient.step_size import StepSize, checkpoints, windows


def scripted(losses, n_iter, rho):
    """Step sizes of one image, iteration by iteration from its whole list of losses, as the rule is written."""
    size, sizes, best, history = 1.0, [], losses[0], [losses[0]]
    best_before, halved_before = losses[0], True
    looked = checkpoints(n_iter)
    for i in range(1, n_iter + 1):
        history.append(losses[i])
        best = max(best, losses[i])
        if i in looked:
            rises = sum(history[j] > history[j - 1] for j in range(i - looked[i] + 1, i + 1))
            halved = rises <= rho * looked[i] or (not halved_before and best <= best_before)
            size = size / 2 if halved else size
            best_before, halved_before = best, halved
        sizes.append(size)
    return sizes


def run(losses, n_iter, rho):
    steps, sizes = StepSize.begin(losses[0], 1.0), []
    looked = checkpoints(n_iter)
    for i in range(1, n_iter + 1):
        steps.see(losses[i])
        if i in looked:
            steps.halve(looked[i], rho)
        sizes.append(steps.size)
    return torch.stack(sizes)


@pytest.mark.parametrize("rho", [0.5, 0.75])
@pytest.mark.parametrize("drift", [-0.2, 0.0, 0.2, 1.0, 2.0])
def test_step_sizes_are_those_of_the_rule_image_by_image(drift, rho):
    n_iter = 100
    generator = torch.Generator().manual_seed(0)
    losses = (torch.randn(n_iter + 1, 30, generator=generator) + drift).cumsum(0)
    expected = torch.tensor([scripted(column.tolist(), n_iter, rho) for column in losses.t()]).t()
    torch.testing.assert_close(run(losses, n_iter, rho), expected)


def test_a_rising_loss_keeps_its_step_and_a_falling_one_halves_it_at_every_checkpoint():
    n_iter = 100
    rising = torch.arange(n_iter + 1.0)[:, None]
    assert run(rising, n_iter, 0.75)[-1].item() == 1
    assert run(-rising, n_iter, 0.75)[-1].item() == 0.5 ** len(checkpoints(n_iter))


def test_no_gain_halves_only_where_the_checkpoint_before_did_not():
    steps = StepSize.begin(torch.tensor([10.0]), 1.0)
    halved = []
    for _ in range(4):  # always rising, never beyond the first loss
        steps.loss = torch.tensor([-5.0])
        for loss in (1.0, 2.0, 3.0, 4.0):
            steps.see(torch.tensor([loss]))
        halved.append(bool(steps.halve(4, 0.75)))
    assert halved == [False, True, False, True]


def test_windows_of_a_hundred_iterations_are_the_papers():
    assert list(islice(windows(100), 9)) == [22, 19, 16, 13, 10, 7, 6, 6, 6]
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("n_iter", [1, 2, 7, 20, 50, 1000])
def test_windows_are_never_empty_and_end_with_the_run(n_iter):
    looked = checkpoints(n_iter)
    assert all(length >= 1 for length in looked.values())
    assert sum(looked.values()) == max(looked) <= n_iter


def test_shares_are_not_cut_by_rounding():
    assert next(windows(100, (0.29, 0.03, 0.06))) == 29  # 0.29 * 100 is 28.999...


def test_images_leave_together_with_their_counts():
    steps = StepSize.begin(torch.tensor([0.0, 1.0, 2.0]), 1.0)
    steps.see(torch.tensor([1.0, 0.0, 3.0]))
    steps.select(torch.tensor([2]))
    assert steps.best.tolist() == [3.0]
    assert steps.rises.tolist() == [1.0]
