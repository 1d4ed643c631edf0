import copy
import math

import pytest
import torch
import torch.nn.functional as F

from zoo.sparse_over_parameterization import (
    SparseOverParam,
    class_balance,
    consistency_kl,
    row_gradients,
    sop_loss,
    sop_terms,
)
from zoo.sparse_over_parameterization.overparameterization import one_hot


def batch(size=16, num_classes=5, seed=0, scale=0.7, dtype=torch.float64):
    """Logits, labels, u and v of all sizes, beyond one as well, so that every clip is met."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, num_classes, generator=generator, dtype=dtype)
    y = torch.randint(num_classes, (size,), generator=generator)
    u = scale * torch.randn(size, 1, generator=generator, dtype=dtype)
    v = scale * torch.randn(size, num_classes, generator=generator, dtype=dtype)
    return logits, y, u, v


def loss_by_hand(logits, y, u, v, eps=1e-4):
    """Sample by sample, class by class, in plain Python."""
    total = 0.0
    for row, label, u_i, v_i in zip(logits.tolist(), y.tolist(), u.flatten().tolist(), v.tolist()):
        weights = [math.exp(value - max(row)) for value in row]
        p = [weight / sum(weights) for weight in weights]
        added = [min(u_i**2, 1.0) if k == label else 0.0 for k in range(len(p))]
        removed = [0.0 if k == label else min(v_i[k] ** 2, 1.0) for k in range(len(p))]
        q = [max(p[k] + added[k] - removed[k], eps) for k in range(len(p))]
        q = [min(max(value / sum(q), eps), 1.0) for value in q]
        guess = row.index(max(row))
        error = [(k == guess) + added[k] - removed[k] - (k == label) for k in range(len(p))]
        total += -math.log(q[label]) + sum(value**2 for value in error)
    return total / len(y)


def test_the_loss_is_the_one_worked_out_by_hand():
    logits, y, u, v = batch()
    assert sop_loss(logits, y, u, v).item() == pytest.approx(loss_by_hand(logits, y, u, v), rel=1e-12)


def test_without_noise_the_first_term_is_cross_entropy():
    logits, y, u, v = batch()
    y = logits.argmax(dim=1)  # then the second term is zero
    zeros = torch.zeros_like(u), torch.zeros_like(v)
    torch.testing.assert_close(sop_loss(logits, y, *zeros, eps=1e-12), F.cross_entropy(logits, y))


def test_the_network_learns_from_the_first_term_only_and_v_from_the_second_only():
    logits, y, u, v = (part.requires_grad_(part.is_floating_point()) for part in batch())
    by_logits, by_v = torch.autograd.grad(sop_loss(logits, y, u, v), [logits, v])
    q = sop_terms(logits, one_hot(y, logits), u, v).q
    torch.testing.assert_close(by_logits, torch.autograd.grad(F.nll_loss(q.log(), y), logits)[0])
    other_prediction = (logits.argmax(dim=1, keepdim=True) == torch.arange(5)).double()
    error = other_prediction - (v**2).clamp(max=1)
    expected = -4 * error * v * (v.abs() < 1) / 16
    expected[torch.arange(16), y] = 0  # the entry of the label is never used
    torch.testing.assert_close(by_v, expected)


@pytest.mark.parametrize("u_loss", ["ce+mse", "ce"])
@pytest.mark.parametrize("balance", [0.0, 0.4])
def test_gradients_in_closed_form_are_those_of_autograd(u_loss, balance):
    logits, y, u, v = batch(size=64)
    logits[:8] *= 20  # very sure: probabilities below eps, on both sides of every clip
    y[40:44] = -100
    u.requires_grad_()
    v.requires_grad_()
    hot = one_hot(y, logits)
    terms = sop_terms(logits, hot, u, v)
    loss = sop_loss(logits, y, u, v, u_loss=u_loss) + balance * class_balance(terms.q)
    found = row_gradients(terms, hot, u, v, u_loss=u_loss, balance=balance)
    for ours, autograd in zip(found, torch.autograd.grad(loss, [u, v])):
        torch.testing.assert_close(ours, autograd, rtol=1e-10, atol=1e-14)
    assert (found[0][:40] != 0).sum() > 20
    assert not found[0][40:44].any()


@pytest.mark.parametrize("u_loss", ["ce+mse", "ce"])
@pytest.mark.parametrize("balance", [0.0, 0.3])
def test_steps_are_those_of_sgd_on_dense_parameters(u_loss, balance):
    generator = torch.Generator().manual_seed(3)
    sop = SparseOverParam(
        20, 5, init_std=0.3, alpha_u=4.0, alpha_v=7.0, u_loss=u_loss, balance=balance, generator=generator
    )
    u, v = (torch.nn.Parameter(part.clone()) for part in (sop.u, sop.v))
    optimizer = torch.optim.SGD([{"params": [u], "lr": 4.0}, {"params": [v], "lr": 7.0}], lr=1.0)
    labels = torch.randint(5, (20,), generator=generator)
    for step in range(8):
        logits, _, _, _ = batch(size=12, seed=step, dtype=torch.float32)
        index = torch.randint(20, (12,), generator=generator)  # some samples come twice in a batch
        loss, parts = sop(logits, labels[index], index)
        sop.step()

        optimizer.zero_grad()
        y = one_hot(labels[index], logits)
        expected = sop_loss(logits, labels[index], u[index], v[index], u_loss=u_loss)
        expected = expected + balance * class_balance(sop_terms(logits, y, u[index], v[index]).q)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(parts["ce"] + parts["mse"] + balance * parts.get("balance", 0), expected.detach())
        torch.testing.assert_close(sop.u, u.detach())
        torch.testing.assert_close(sop.v, v.detach())
    assert (sop.u.abs() > 1).any()  # an overshoot was among them


def test_the_network_gets_the_gradient_of_the_loss():
    logits, y, _, _ = batch(dtype=torch.float32)
    logits.requires_grad_()
    sop = SparseOverParam(16, 5, init_std=0.5)
    loss, _ = sop(logits, y, torch.arange(16))
    expected = sop_loss(logits, y, sop.u.clone(), sop.v.clone())
    for ours, other in zip(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)):
        torch.testing.assert_close(ours, other)


def test_only_the_rows_of_the_batch_move_and_only_in_a_step():
    sop = SparseOverParam(10, 5, init_std=0.3)
    before = sop.u.clone(), sop.v.clone()
    logits, y, _, _ = batch(size=3, dtype=torch.float32)
    sop(logits, y, torch.tensor([7, 2, 4]))
    assert torch.equal(sop.u, before[0])
    sop.step()
    moved = (sop.u != before[0]).flatten() | (sop.v != before[1]).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [2, 4, 7]
    after = sop.u.clone()
    sop.step()  # nothing is left to do
    assert torch.equal(sop.u, after)


def test_evaluation_moves_nothing():
    sop = SparseOverParam(4, 5, init_std=0.3).eval()
    before = sop.u.clone()
    logits, y, _, _ = batch(size=4, dtype=torch.float32)
    sop(logits, y, torch.arange(4))
    sop.step()
    assert torch.equal(sop.u, before)


def test_accumulated_batches_are_one_large_batch():
    whole = SparseOverParam(12, 5, init_std=0.3)
    parts = copy.deepcopy(whole)
    logits, y, _, _ = batch(size=12, dtype=torch.float32)
    index = torch.randperm(12)
    whole(logits, y, index)
    whole.step()
    for chunk in range(0, 12, 4):
        rows = slice(chunk, chunk + 4)
        parts(logits[rows], y[rows], index[rows])
    parts.step()
    torch.testing.assert_close(parts.u, whole.u)
    torch.testing.assert_close(parts.v, whole.v)


def test_growth_from_a_tiny_start_is_the_arithmetic_of_the_small():
    # u grows by 1 + 2 alpha / B (1 / q_y - 1 + 2 (1 - h_y)) a step, v by 1 + 4 alpha / B at the predicted class.
    sop = SparseOverParam(1, 3, alpha_u=0.5, alpha_v=0.25)
    u, v = sop.u.item(), sop.v.clone()
    logits, y = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([1])
    sop(logits, y, torch.tensor([0]))
    sop.step()
    q_y = logits.softmax(dim=1)[0, 1].item()
    assert sop.u.item() / u == pytest.approx(1 + 2 * 0.5 * (1 / q_y - 1 + 2), rel=1e-5)
    assert (sop.v / v).flatten().tolist() == pytest.approx([1 + 4 * 0.25, 1.0, 1.0], rel=1e-5)


def test_a_wrong_label_is_found_and_corrected():
    sop = SparseOverParam(4, 3, init_std=1e-2, alpha_u=2.0, alpha_v=2.0, project=True)
    logits = torch.tensor([[6.0, 0.0, 0.0]] * 4)
    given = torch.tensor([0, 0, 2, 0])
    for _ in range(60):
        sop(logits, given, torch.arange(4))
        sop.step()
    assert (sop.noise_score() > 0.5).tolist() == [False, False, True, False]
    torch.testing.assert_close(sop.noise()[2], torch.tensor([-1.0, 0.0, 1.0]), atol=0.05, rtol=0)
    assert sop.corrected_targets().argmax(dim=1).tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(sop.corrected_targets().sum(dim=1), torch.ones(4))
    assert torch.equal(sop.noise(torch.tensor([2])), sop.noise()[2:3])


def test_projection_keeps_u_and_v_within_one():
    free, kept = (SparseOverParam(16, 5, init_std=0.9, alpha_u=90.0, alpha_v=90.0, project=p) for p in (False, True))
    logits, y, _, _ = batch(dtype=torch.float32)
    for sop in (free, kept):
        sop(logits, y, torch.arange(16))
        sop.step()
    assert free.u.abs().max() > 1
    assert kept.u.abs().max() <= 1
    assert kept.v.abs().max() <= 1


def test_one_hot_rows_are_taken_as_labels():
    logits, y, _, _ = batch(dtype=torch.float32)
    sop = SparseOverParam(16, 5, init_std=0.3)
    twin = copy.deepcopy(sop)
    assert torch.equal(sop(logits, y, torch.arange(16))[0], twin(logits, F.one_hot(y, 5), torch.arange(16))[0])
    sop.step()
    twin.step()
    assert torch.equal(sop.u, twin.u)
    assert torch.equal(sop.labels, twin.labels)


def test_a_sample_without_a_label_has_neither_loss_nor_step():
    logits, y, _, _ = batch(size=4, dtype=torch.float32)
    y[1] = -100
    sop = SparseOverParam(4, 5, init_std=0.3)
    before = sop.u.clone(), sop.v.clone()
    loss, _ = sop(logits, y, torch.arange(4))
    sop.step()
    assert torch.equal(sop.u[1], before[0][1])
    assert torch.equal(sop.v[1], before[1][1])
    assert sop.labels.tolist() == [y[0], -1, y[2], y[3]]
    rest = [0, 2, 3]
    torch.testing.assert_close(loss, sop_loss(logits[rest], y[rest], before[0][rest], before[1][rest]) * 3 / 4)
    assert not sop.noise()[1].any()


def test_two_classes_and_a_batch_of_one_will_do():
    sop = SparseOverParam(1, 2, init_std=0.1)
    loss, _ = sop(torch.tensor([[2.0, -1.0]]), torch.tensor([1]), torch.tensor([0]))
    sop.step()
    assert loss.isfinite()
    assert sop.u.isfinite().all()


def test_logits_that_overflow_spoil_no_row():
    logits, y, _, _ = batch(size=4, dtype=torch.float32)
    logits[2, 0] = float("inf")
    sop = SparseOverParam(4, 5, init_std=0.3)
    before = sop.u.clone()
    sop(logits, y, torch.arange(4))
    sop.step()
    assert torch.equal(sop.u[2], before[2])
    assert (sop.u != before).flatten().tolist() == [True, True, False, True]


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_noise_stays_in_float32(cast):
    sop = SparseOverParam(100, 5)
    u = sop.u.clone()
    getattr(torch.nn.Sequential(torch.nn.Linear(2, 2), sop), cast)()
    assert sop.u.dtype == sop.v.dtype == torch.float32
    assert torch.equal(sop.u, u)
    assert sop.u.abs().min() > 0
    loss, _ = sop(torch.zeros(2, 5, dtype=torch.half), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32


def test_a_generator_decides_the_start():
    starts = [SparseOverParam(50, 3, init_std=2.0, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(starts[0].v, starts[1].v)
    assert starts[0].v.std().item() == pytest.approx(2.0, rel=0.2)


def test_a_checkpoint_gives_the_noise_back():
    sop, fresh = (SparseOverParam(16, 5, init_std=0.3) for _ in range(2))
    logits, y, _, _ = batch(dtype=torch.float32)
    sop(logits, y, torch.arange(16))
    sop.step()
    fresh.load_state_dict(sop.state_dict())
    assert torch.equal(fresh.noise(), sop.noise())
    assert torch.equal(fresh.labels, y)


def test_a_checkpoint_of_other_labels_is_refused():
    sop, other, shorter = SparseOverParam(4, 3), SparseOverParam(4, 3), SparseOverParam(3, 3)
    sop.set_labels(torch.tensor([0, 1, 2, 0]))
    other.set_labels(torch.tensor([0, 2, 1, 0]))
    with pytest.raises(ValueError, match="in the same order, got 2 of 4 that differ, the first at sample 1"):
        other.load_state_dict(sop.state_dict())
    with pytest.raises(ValueError, match="num_samples must be the one that the noise was learned with, 4, got 3"):
        shorter.load_state_dict(sop.state_dict())
    with pytest.raises(ValueError, match="labels must be those that the noise was learned with"):
        sop.set_labels(torch.tensor([0, 2, 1, 0]))


def test_a_sample_that_changes_its_label_is_noticed():
    sop = SparseOverParam(3, 2)
    for y in ([0, 1, 1], [0, 1, 1]):
        sop(torch.zeros(3, 2), torch.tensor(y), torch.arange(3))
        sop.step()
    sop.check_labels()
    sop(torch.zeros(3, 2), torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2]))  # another order
    sop.step()
    with pytest.raises(ValueError, match="index must name the same training sample in every epoch"):
        sop.check_labels()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"init_std": 0.0}, "init_std must be > 0, or u and v would never move, got 0.0"),
        ({"init_std": float("nan")}, "init_std must be > 0"),
        ({"alpha_u": 0.0}, "alpha_u must be > 0, got 0.0"),
        ({"alpha_v": -1.0}, "alpha_v must be > 0, got -1.0"),
        ({"eps": 0.0}, "eps must be between 0 and 1 / num_classes, got 0.0"),
        ({"eps": 0.5}, "eps must be between 0 and 1 / num_classes, got 0.5"),
        ({"u_loss": "mse"}, r"u_loss must be one of ce\+mse, ce, got 'mse'"),
        ({"balance": -0.1}, "balance must be >= 0, got -0.1"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseOverParam(**({"num_samples": 4, "num_classes": 3} | arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": None}, "index must be an int64 tensor, got NoneType"),
        ({"index": torch.tensor([0, 1], dtype=torch.int32)}, r"index must be an int64 tensor, got torch.int32"),
        ({"index": torch.tensor([0, 4])}, r"index must be in \[0, 4\), got 0 to 4"),
        ({"index": torch.tensor([-1, 2])}, r"index must be in \[0, 4\), got -1 to 2"),
        ({"index": torch.tensor([0])}, "index must have one value for each of 2 samples"),
        ({"targets": torch.tensor([0, 3])}, r"targets must be labels in \[0, 3\) or -100, got 3"),
        ({"targets": torch.tensor([0, -1])}, r"targets must be labels in \[0, 3\) or -100, got -1"),
        ({"targets": torch.tensor([0.0, 1.0])}, "targets must be int64 labels"),
        ({"targets": torch.tensor([0, 1, 2])}, "targets must be int64 labels"),
        ({"targets": torch.full((2, 3), 0.5)}, "rows that are not one-hot"),
        ({"targets": torch.tensor([[1, 0, 0], [1, 1, 0]])}, "rows that are not one-hot"),
        ({"logits": torch.zeros(2, 4)}, "logits must have num_classes = 3 columns, got 4"),
    ],
)
def test_wrong_batches_are_told(change, message):
    good = {"logits": torch.zeros(2, 3), "targets": torch.tensor([0, 1]), "index": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=message):
        SparseOverParam(4, 3)(**(good | change))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2]), "num_samples must be the number of training samples, 3, got 4"),
        (torch.tensor([0, 1, 2, 3]), r"targets must be labels in \[0, 3\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        SparseOverParam(4, 3).set_labels(labels)


def test_consistency_moves_the_strong_view_towards_the_weak_one():
    weak, strong = torch.randn(2, 4, 3, dtype=torch.float64).requires_grad_()
    loss = consistency_kl(weak, strong)
    p = weak.softmax(dim=1)
    torch.testing.assert_close(loss, (p * (p.log() - strong.log_softmax(dim=1))).sum(dim=1).mean())
    by_weak, by_strong = torch.autograd.grad(loss, [weak, strong], allow_unused=True)
    assert by_weak is None
    torch.testing.assert_close(by_strong, (strong.softmax(dim=1) - p).detach() / 4)


def test_class_balance_is_a_divergence_from_uniform():
    q = torch.rand(6, 4, dtype=torch.float64).softmax(dim=1)
    mean = q.mean(dim=0)
    divergence = (0.25 * (0.25 / mean).log()).sum()
    torch.testing.assert_close(class_balance(q), divergence + math.log(4))
    one_class = F.one_hot(torch.zeros(6, dtype=torch.long), 4).double()
    assert class_balance(one_class).item() == pytest.approx(-0.75 * math.log(1e-4))
