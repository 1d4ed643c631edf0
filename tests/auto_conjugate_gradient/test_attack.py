import importlib.util
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.auto_conjugate_gradient.conftest import images, small_network
from zoo.auto_conjugate_gradient import ACG, APGD, cw_loss
from zoo.auto_conjugate_gradient.losses import is_adversarial
from zoo.auto_conjugate_gradient.step_size import checkpoints

EPS = 0.02
ATTACKS = {"acg": ACG, "textbook": partial(ACG, beta_sign="textbook"), "clamped": partial(ACG, clamp_beta=True)}
ATTACKS |= {"apgd": APGD, "no_momentum": partial(APGD, momentum=1.0)}
FULL = {"eps": EPS, "early_stop": False}


def plain_attack(net, x, y, eps, n_iter, momentum=None, sign=1.0, clamp=False):
    """One run on one image in the words of the algorithm, without any of the attack's code; returns losses and points.

    With ``momentum`` it is APGD, without it ACG, whose beta has the textbook's sign where ``sign`` is -1.
    """

    def look(point):
        point = point.clone().requires_grad_()
        logits = net(point[None])[0]
        loss = torch.cat([logits[:y], logits[y + 1 :]]).max() - logits[y]
        return loss.item(), torch.autograd.grad(loss, point)[0]

    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    clip = lambda v: torch.minimum(torch.maximum(v, low), high)  # noqa: E731
    point = (low + high) / 2
    before = point
    loss, gradient = look(point)
    losses, points = [loss], [point]
    best, best_point, best_gradient = loss, point, gradient
    last_gradient, direction = gradient, gradient
    best_last_gradient, best_direction = gradient, gradient
    step, best_at_check, halved_at_check = 2 * eps, loss, True
    for k in range(n_iter):
        if momentum is None:
            if k > 0:
                change = gradient - last_gradient
                beta = sign * (gradient * change).sum() / (direction * change).sum()
                beta = torch.zeros(()) if not beta.isfinite() else beta
                direction = gradient + (beta.clamp(min=0) if clamp else beta) * direction
            else:
                direction = gradient
            last_gradient = gradient
            new = clip(point + step * direction.sign())
        else:
            z = clip(point + step * gradient.sign())
            alpha = momentum if k > 0 else 1.0
            new = clip(point + alpha * (z - point) + (1 - alpha) * (point - before))
        before, point = point, new
        loss, gradient = look(point)
        losses.append(loss)
        points.append(point)
        if loss > best:
            best, best_point, best_gradient = loss, point, gradient
            best_last_gradient, best_direction = last_gradient, direction
        window = checkpoints(n_iter).get(k + 1)
        if window:
            rises = sum(losses[i] > losses[i - 1] for i in range(k + 2 - window, k + 2))
            halve = rises <= 0.75 * window or (not halved_at_check and best <= best_at_check)
            if halve:
                step /= 2
                point, gradient = best_point, best_gradient
                last_gradient, direction = best_last_gradient, best_direction
            best_at_check, halved_at_check = best, halve
    return torch.tensor(losses, dtype=x.dtype), torch.stack(points)


PLAIN = {
    "acg": {},
    "textbook": {"sign": -1.0},
    "clamped": {"clamp": True},
    "apgd": {"momentum": 0.75},
    "no_momentum": {"momentum": 1.0},
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_search_point_is_that_of_the_plain_algorithm(name, net, x, y):
    result = ATTACKS[name](n_iter=30, record_trace=True, **FULL)(net, x, y)
    for i in range(len(x)):
        losses, points = plain_attack(net, x[i], int(y[i]), EPS, 30, **PLAIN[name])
        torch.testing.assert_close(result.trace.points[0, i], points)
        torch.testing.assert_close(result.trace.loss[0, i], losses)
        torch.testing.assert_close(result.loss[i], losses.max())
        torch.testing.assert_close(result.x_adv[i], points[losses.argmax()])
        broken = (losses > 0).nonzero().flatten().tolist()
        assert result.first_success[i] == (broken[0] if broken else -1)
    assert 0 < result.success.sum() < len(x)  # or there would be nothing to see
    assert (result.num_gradients == 31).all()


@pytest.mark.parametrize("attack", [ACG, APGD])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.004), ("Linf", 0.3), ("L2", 0.05), ("L2", 1.5)])
@pytest.mark.parametrize(("loss", "restarts"), [("cw", 3), ("ce", 1), ("dlr", 2)])
@pytest.mark.parametrize("seed", range(2))
def test_every_result_is_an_image_in_the_ball_and_says_what_it_is(attack, norm, eps, loss, restarts, seed):
    net, x = small_network(torch.float32, seed=seed), images(8, torch.float32, seed)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 5  # one that is wrong from the start
    result = attack(norm=norm, eps=eps, n_iter=12, n_restarts=restarts, loss=loss, seed=seed)(net, x, y)
    change = (result.x_adv - x).flatten(1)
    assert ((change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)) <= eps + 1e-6).all()
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    with torch.no_grad():
        logits = net(result.x_adv)
    assert result.success.equal(is_adversarial(logits, y))
    torch.testing.assert_close(result.margin, cw_loss(logits, y))
    assert result.success[0]
    assert result.first_success.ge(0).equal(result.success)


@pytest.mark.parametrize("attack", [ACG, APGD])
def test_stopping_early_changes_no_success_and_saves_gradients(attack, net, x, y):
    full, early = (attack(eps=EPS, n_iter=40, early_stop=stop)(net, x, y) for stop in (False, True))
    assert early.success.equal(full.success)
    assert early.first_success.equal(full.first_success)
    robust = ~full.success
    torch.testing.assert_close(early.x_adv[robust], full.x_adv[robust])
    assert (early.num_gradients[robust] == 41).all()
    assert early.num_gradients.sum() < full.num_gradients.sum()


@pytest.mark.parametrize("options", [{}, {"norm": "L2", "eps": 0.1}, {"num_targets": 2}, {"start": "random"}])
@pytest.mark.parametrize("early_stop", [True, False])
def test_the_outcome_of_an_image_does_not_depend_on_its_batch(options, early_stop, net, x, y):
    attack = ACG(**({"eps": EPS, "n_iter": 15, "n_restarts": 3, "early_stop": early_stop} | options))
    whole, parts = attack(net, x, y), [attack(net, x[rows], y[rows]) for rows in (slice(0, 5), slice(5, None))]
    torch.testing.assert_close(whole.x_adv, torch.cat([part.x_adv for part in parts]))
    assert whole.success.equal(torch.cat([part.success for part in parts]))


@pytest.mark.parametrize("early_stop", [True, False])
def test_runs_side_by_side_find_what_runs_one_after_another_find(early_stop, net, x, y):
    attacks = [
        APGD(eps=EPS, n_iter=15, n_restarts=4, early_stop=early_stop, stack_restarts=stacked)
        for stacked in (True, False)
    ]
    stacked, single = (attack(net, x, y) for attack in attacks)
    assert stacked.success.equal(single.success)
    robust = ~stacked.success
    torch.testing.assert_close(stacked.x_adv[robust], single.x_adv[robust])
    assert (stacked.num_gradients[robust] == 4 * 16).all()


def test_restarts_break_what_one_run_breaks_and_more(net, x, y):
    runs = [APGD(n_iter=10, n_restarts=n, **FULL)(net, x, y) for n in (1, 2, 6)]
    for fewer, more in pairwise(runs):
        assert (more.success | ~fewer.success).all()
        assert (more.margin >= fewer.margin - 1e-12).all()
    assert (runs[-1].margin > runs[0].margin).any()


def test_another_seed_makes_other_restarts(net, x, y):
    one, same, other = (APGD(n_iter=5, start="random", seed=seed, **FULL)(net, x, y).x_adv for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)


def test_a_trace_has_all_points_of_all_runs(net, x, y):
    result = ACG(n_iter=9, n_restarts=2, record_trace=True, **FULL)(net, x, y)
    assert result.trace.points.shape == (2, len(x), 10, 2, 6, 6)
    torch.testing.assert_close(result.trace.points[0, :, 0], ((x - EPS).clamp(0) + (x + EPS).clamp(max=1)) / 2)
    torch.testing.assert_close(result.trace.loss.amax(dim=(0, 2)), result.loss)
    logits = net(result.trace.points.flatten(0, 2))
    expected = cw_loss(logits, y.repeat(2).repeat_interleave(10)).view(2, len(x), 10)
    torch.testing.assert_close(result.trace.loss, expected)


@pytest.mark.parametrize("loss", ["cw", "dlr", "ce"])
def test_a_targeted_attack_makes_the_target_the_largest_logit(loss, net, x, y):
    target = (y + 1) % 5
    result = APGD(eps=0.3, n_iter=20, loss=loss)(net, x, y, target)
    assert result.success.equal(net(result.x_adv).argmax(1) == target)
    assert result.success.float().mean() > 0.5
    assert not APGD(eps=1e-4, n_iter=5)(net, x, y, target).success.any()


@pytest.mark.parametrize("loss", ["cw", "dlr", "ce"])
def test_many_targets_break_what_the_best_of_them_breaks(loss, net, x, y):
    many = APGD(n_iter=15, num_targets=3, loss=loss, **FULL)(net, x, y)
    assert (many.num_gradients == 3 * 16).all()
    order = net(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    single = [APGD(n_iter=15, loss=loss, **FULL)(net, x, y, order[:, rank]) for rank in range(3)]
    assert many.success.equal(torch.stack([is_adversarial(net(one.x_adv), y) for one in single]).any(0))


def test_a_loss_of_ones_own_is_used(net, x, y):
    by_name, by_function = (APGD(n_iter=10, loss=loss, **FULL)(net, x, y) for loss in ("cw", cw_loss))
    torch.testing.assert_close(by_name.x_adv, by_function.x_adv)


def test_rows_of_numbers_and_other_memory_formats_are_attacked_alike(net, x, y):
    attack = ACG(eps=EPS, n_iter=10, n_restarts=2)
    expected = attack(net, x, y).x_adv
    flat = attack(lambda rows: net(rows.view(-1, 2, 6, 6)), x.flatten(1), y).x_adv
    torch.testing.assert_close(flat.view_as(expected), expected)
    last = attack(net, x.to(memory_format=torch.channels_last), y)
    single = attack(net, x, y)
    assert last.success.equal(single.success)
    assert last.x_adv.shape == x.shape
    first_run = ACG(n_iter=10, **FULL)
    torch.testing.assert_close(
        first_run(net, x.to(memory_format=torch.channels_last), y).x_adv, first_run(net, x, y).x_adv
    )


def test_the_model_is_left_as_it_was_found(net, x, y):
    net.train()
    net[3].eval()
    net[0].bias.requires_grad_(False)
    net(x)[:, 0].sum().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradient, random_state = net[0].weight.grad.clone(), torch.get_rng_state()
    ACG(eps=EPS, n_iter=3, n_restarts=2)(net, x, y)
    assert [module.training for module in net] == [True, True, True, False, True]
    assert [parameter.requires_grad for parameter in net.parameters()] == [True, False, True, True, True, True]
    assert net[0].weight.grad.equal(gradient)
    assert net[0].bias.grad is None
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert torch.get_rng_state().equal(random_state)


def test_the_model_is_left_as_it_was_found_after_an_error(x):
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double().train()
    with pytest.raises(ValueError, match="labels must lie in"):
        ACG(n_iter=1)(net, x, torch.full((len(x),), 3))
    assert net.training
    assert net[1].weight.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_attack_works_where_gradients_are_off(mode, net, x, y):
    attack = ACG(eps=EPS, n_iter=5)
    expected = attack(net, x, y).x_adv
    with mode():
        found = attack(net, x + 0, y + 0)
    torch.testing.assert_close(found.x_adv, expected)
    assert not found.x_adv.requires_grad


def test_losses_are_exact_under_mixed_precision():
    net, x = small_network(torch.float32), images(6, torch.float32)
    y = net(x).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        result = ACG(eps=EPS, n_iter=5)(net, x, y)
    assert result.loss.dtype == result.margin.dtype == result.x_adv.dtype == torch.float32
    assert (result.x_adv - x).abs().max() <= EPS + 1e-6


def test_half_precision_images_are_attacked_in_single_precision(x):
    net = small_network(torch.float32)
    x = x.half()
    result = APGD(eps=EPS, n_iter=3)(net, x, net(x.float()).argmax(1))
    assert result.x_adv.dtype == torch.float32
    assert (result.x_adv - x.float()).abs().max() <= EPS + 1e-6


def test_a_flat_loss_moves_nothing(x):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    nn.init.zeros_(flat[1].weight)
    with torch.no_grad():
        flat[1].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    for attack in (ACG(n_iter=10, **FULL), APGD(n_iter=10, **FULL)):
        result = attack(flat, x, torch.zeros(len(x), dtype=torch.long))
        torch.testing.assert_close(result.x_adv, ((x - EPS).clamp(0) + (x + EPS).clamp(max=1)) / 2)
        assert not result.success.any()
        assert result.margin.eq(-1).all()


def test_no_images_give_no_results_without_a_look_at_the_model():
    result = ACG()(None, torch.empty(0, 3, 4, 4), torch.empty(0, dtype=torch.long))
    assert result.x_adv.shape == (0, 3, 4, 4)
    assert result.success.shape == (0,)


def test_images_that_are_wrong_already_cost_one_look(net, x, y):
    result = ACG(eps=1e-6, n_iter=50, n_restarts=5)(net, x, (y + 1) % 5)
    assert result.success.all()
    assert (result.num_gradients == 1).all()
    assert (result.first_success == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "L1"}, "norm must be one of Linf, L2, got 'L1'"),
        ({"eps": 0.0}, "eps must be > 0, got 0.0"),
        ({"eps": -1.0}, "eps must be > 0"),
        ({"eps": float("nan")}, "eps must be > 0"),
        ({"eps": 8.0}, "eps must be at most 1 for Linf"),
        ({"n_iter": 0}, "n_iter must be at least 1, got 0"),
        ({"n_restarts": 0}, "n_restarts must be at least 1"),
        ({"num_targets": -1}, "num_targets must be at least 0"),
        ({"loss": "mse"}, "loss must be one of cw, dlr, ce, or a function, got 'mse'"),
        ({"loss": cw_loss, "num_targets": 2}, "num_targets must be 0 with a loss of your own"),
        ({"start": "corner"}, "start must be one of center, random"),
        ({"record_trace": True}, "record_trace needs early_stop=False"),
        ({"rho": 1.5}, r"rho must be in \[0, 1\]"),
        ({"window_fractions": (0.2, 0.0, 0.1)}, "window_fractions must lie in"),
    ],
)
@pytest.mark.parametrize("attack", [ACG, APGD])
def test_options_out_of_range_are_refused(attack, options, message):
    with pytest.raises(ValueError, match=message):
        attack(**options)


@pytest.mark.parametrize("momentum", [0.0, 1.1, float("nan")])
def test_momentum_must_be_a_share(momentum):
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\]"):
        APGD(momentum=momentum)


@pytest.mark.parametrize(("name", "value"), [("beta", "hz"), ("beta_sign", "plus")])
def test_unknown_rules_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got '{value}'"):
        ACG(**{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x + 0.5, y), r"x must lie in \[0, 1\], got values from"),
        (lambda x, y: (x - 0.5, y), r"x must lie in \[0, 1\]"),
        (lambda x, y: (x * torch.nan, y), r"x must lie in \[0, 1\]"),
        (lambda x, y: ((255 * x).byte(), y), "x must be floating point"),
        (lambda x, y: (x.flatten(), y), "x must be floating point of shape"),
        (lambda x, y: (x, y.int()), "y must be int64"),
        (lambda x, y: (x, y[:-1]), "y must be int64 of shape"),
        (lambda x, y: (x, y + 5), r"labels must lie in \[0, 5\)"),
        (lambda x, y: (x, y - 9), "y must lie in"),
        (lambda x, y: (x, y, y), "target must differ from y"),
        (lambda x, y: (x, y, y + 9), r"labels must lie in \[0, 5\)"),
        (lambda x, y: (x, y, y[:2]), "target must be int64"),
    ],
)
def test_images_and_labels_out_of_range_are_refused(change, message, net, x, y):
    with pytest.raises(ValueError, match=message):
        ACG(n_iter=2)(net, *change(x, y))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.flatten(1)[:, :5] * torch.nan, "model must give finite logits and gradients"),
        (lambda x: x.flatten(1)[:, :5].sub(x.flatten(1)[:, :5].detach()).sqrt(), "finite logits and gradients"),
        (lambda x: x, "model must give logits of shape"),
        (lambda x: (x, x), "model must give logits of shape .*, got tuple"),
        (lambda x: x.flatten(1)[:, :5].detach(), "model must be differentiable"),
    ],
)
def test_models_that_cannot_be_attacked_are_refused(model, message, x, y):
    with pytest.raises(ValueError, match=message):
        APGD(n_iter=2)(model, x, y)


def test_a_model_that_breaks_down_on_the_way_is_noticed(net, x, y):
    looked = []

    def model(images):
        looked.append(len(images))
        return net(images) * (torch.nan if len(looked) > 5 else 1)

    with pytest.raises(ValueError, match="NaN or infinity within 7 iterations"):
        APGD(eps=1e-4, n_iter=20)(model, x, y)


def test_targets_and_options_must_fit_together(net, x, y):
    with pytest.raises(ValueError, match="num_targets must be 0 where targets are given"):
        APGD(num_targets=2)(net, x, y, (y + 1) % 5)
    with pytest.raises(ValueError, match="target must be left out with a loss of your own"):
        APGD(loss=cw_loss)(net, x, y, (y + 1) % 5)
    with pytest.raises(ValueError, match="num_targets must be below the 5 classes, got 5"):
        APGD(num_targets=5)(net, x, y)
    with pytest.raises(ValueError, match="loss must give one value for each"):
        APGD(loss=lambda logits, y: logits.sum())(net, x, y)


@pytest.mark.skipif(importlib.util.find_spec("torchattacks") is None, reason="needs torchattacks (extra attacks)")
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_finds_what_torchattacks_finds_from_the_same_start(norm, loss, monkeypatch):
    import torchattacks

    eps = EPS if norm == "Linf" else 0.15
    net, x = small_network(torch.float32), images(60, torch.float32)
    y = net(x).argmax(1)
    torch.manual_seed(0)
    noise = torch.rand(x.shape) if norm == "Linf" else torch.randn(x.shape)
    direction = 2 * noise - 1 if norm == "Linf" else noise
    largest = direction.flatten(1).abs().amax(1) if norm == "Linf" else direction.flatten(1).norm(dim=1)
    begin = (x + eps * direction / largest.view(-1, 1, 1, 1)).clamp(0, 1)
    monkeypatch.setattr(f"zoo.auto_conjugate_gradient.projection.{norm}Ball.random", lambda self, _: begin.flatten(1))
    ours = APGD(norm=norm, eps=eps, n_iter=50, loss=loss, start="random", early_stop=False)(net, x, y)
    theirs = torchattacks.APGD(net, norm=norm, eps=eps, steps=50, n_restarts=1, seed=0, loss=loss)
    best, _ = theirs.perturb(x, y, best_loss=True)
    close = 1e-4 if norm == "Linf" else 1e-2  # L2 steps pass every rounding on
    assert (ours.loss - best).abs().lt(close).float().mean() > 0.9  # theirs compares the first loss with a row of zeros
    torch.manual_seed(0)
    broken = net(theirs(x, y)).argmax(1) != y
    assert (ours.success != broken).float().mean() < 0.05
    assert 0.1 < broken.float().mean() < 0.9
