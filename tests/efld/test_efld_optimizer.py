import copy
import math

import pytest
import torch

from zoo.efld.noise import GaussianNoise, QuantizedNoise, SignNoise
from zoo.efld.optimizer import EFLD, SGLD, NoisyQuantizedSGD, NoisySignSGD, SignSGD


def param(*values, grad=None):
    p = torch.nn.Parameter(torch.tensor(values))
    p.grad = torch.tensor(grad) if grad is not None else None
    return p


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


MAKERS = {
    "sgld": lambda params, **options: SGLD(params, lr=0.1, noise_std=0.5, **options),
    "temperature": lambda params, **options: SGLD(params, lr=0.1, inverse_temperature=3.0, **options),
    "gaussian": lambda params, **options: EFLD(params, 0.1, 2.0, GaussianNoise(), **options),
    "sign": lambda params, **options: NoisySignSGD(params, 0.1, 2.0, **options),
    "quantized": lambda params, **options: NoisyQuantizedSGD(params, 0.1, 2.0, **options),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.mark.parametrize("maximize", [False, True])
def test_a_gaussian_step_is_that_of_sgd_and_noise(maximize):
    p, q = param(1.0, -2.0, grad=[3.0, 0.5]), param(7.0, grad=[-1.0])
    EFLD([p, q], lr=0.1, alpha=2.0, noise=GaussianNoise(), generator=seeded(), maximize=maximize).step()
    eps, sign = torch.randn(3, generator=seeded()), 1 if maximize else -1
    torch.testing.assert_close(p.data, torch.tensor([1 + sign * 0.3, -2 + sign * 0.05]) - 0.2 * eps[:2])
    torch.testing.assert_close(q.data, torch.tensor([7 - sign * 0.1]) - 0.2 * eps[2:])


def test_a_gaussian_step_is_a_draw_of_the_family_times_the_scale():
    """The fast way and the family's own definition make the same step."""
    p = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
    p.grad = torch.randn_like(p)
    expected = p.data - 0.1 * 2.0 * GaussianNoise().sample(p.grad / 2.0, seeded(5))
    EFLD([p], lr=0.1, alpha=2.0, noise=GaussianNoise(), generator=seeded(5)).step()
    torch.testing.assert_close(p.data, expected)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("noise", [SignNoise(), QuantizedNoise([-1.0, 0.0, 2.0])], ids=["sign", "quantized"])
def test_a_bounded_step_is_the_learning_rate_times_a_draw(noise, maximize):
    grads = torch.randn(2, 3), torch.randn(4)
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for p, grad in zip(params, grads):
        p.grad = grad
    EFLD(params, lr=0.1, alpha=0.5, noise=noise, generator=seeded(), maximize=maximize).step()
    whole = torch.cat([grad.flatten() for grad in grads]) * (-2 if maximize else 2)
    drawn = noise.sample(whole, seeded())
    torch.testing.assert_close(torch.cat([p.data.flatten() for p in params]), -0.1 * drawn)


def test_sgld_has_the_noise_that_is_asked_for():
    p = torch.nn.Parameter(torch.zeros(200_000))
    p.grad = torch.ones_like(p)
    SGLD([p], lr=0.1, noise_std=0.5, generator=seeded()).step()
    assert p.mean().item() == pytest.approx(-0.1, abs=0.005)
    assert p.std().item() == pytest.approx(0.5, rel=0.01)


def test_temperature_and_noise_tell_alpha_at_the_present_learning_rate():
    hot = SGLD([param(0.0)], lr=0.02, inverse_temperature=400.0)
    fixed = SGLD([param(0.0)], lr=0.02, noise_std=0.01)
    for optimizer, alpha, scale in ((hot, 0.5, 0.01), (fixed, 0.5, 0.01)):
        (group,) = optimizer.param_groups
        assert optimizer.alpha_of(group) == pytest.approx(alpha)
        assert optimizer.scale_of(group) == pytest.approx(scale)
        group["lr"] = 0.005
    assert hot.alpha_of(hot.param_groups[0]) == pytest.approx(math.sqrt(2 / (0.005 * 400)))
    assert fixed.alpha_of(fixed.param_groups[0]) == pytest.approx(2.0)
    hot.param_groups[0]["lr"] = 0.0
    assert hot.alpha_of(hot.param_groups[0]) == math.inf


@pytest.mark.parametrize("make", [MAKERS["sgld"], MAKERS["temperature"], MAKERS["gaussian"], MAKERS["sign"]])
def test_a_learning_rate_of_zero_moves_nothing_but_by_the_noise_of_sgld(make):
    p = param(1.0, 2.0, grad=[1.0, 1.0])
    optimizer = make([p])
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert p.isfinite().all()
    assert (p.tolist() == [1.0, 2.0]) == (optimizer.param_groups[0].get("noise_std") is None)


@every_optimizer
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(make, tmp_path):
    def descend(net, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.ones(3, 4)).square().mean().backward()
            optimizer.step()

    whole = torch.nn.Linear(4, 2)
    parts = copy.deepcopy(whole)
    optimizer = make(whole.parameters(), generator=seeded())
    descend(whole, optimizer, 6)

    first = make(parts.parameters(), generator=seeded())
    descend(parts, first, 3)
    torch.save({"net": parts.state_dict(), "optimizer": first.state_dict()}, tmp_path / "checkpoint.pt")
    resumed = torch.nn.Linear(4, 2)
    second = make(resumed.parameters())  # with another seed
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(content["net"])
    second.load_state_dict(content["optimizer"])
    descend(resumed, second, 3)
    assert torch.equal(resumed.weight, whole.weight)
    assert second.num_steps == optimizer.num_steps == 6


@every_optimizer
def test_a_copy_draws_what_the_original_draws(make):
    p = torch.nn.Parameter(torch.zeros(20))
    p.grad = torch.ones(20)
    optimizer = make([p])
    optimizer.step()
    other = copy.deepcopy(optimizer)
    (copied,) = other.param_groups[0]["params"]
    copied.grad = torch.ones(20)
    for one in (optimizer, other):
        one.step()
    assert torch.equal(p, copied)
    assert other.num_steps == 2


@every_optimizer
def test_large_and_small_parameters_are_moved_alike(make, monkeypatch):
    """Cut into portions or in one piece, every element gets its own mean and noise of the same law."""
    shapes = [(3, 5, 2), (), (0, 4), (7,), (1, 30)]
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.full_like(p, 1e6)
    monkeypatch.setattr("zoo.efld.optimizer.PORTION_ON_CPU", 8)
    optimizer = make(params)
    optimizer.step()
    moved = torch.cat([p.detach().flatten() for p in params])
    assert moved.max() < 0
    if "noise_std" in optimizer.defaults or isinstance(optimizer.noise, GaussianNoise):
        assert len(moved.unique()) > 1
    else:
        assert moved.tolist() == pytest.approx([-0.1] * 68)


def test_a_state_of_another_optimizer_is_refused():
    plain = torch.optim.SGD([param(1.0)], lr=0.1)
    with pytest.raises(ValueError, match="state_dict must be of an SGLD, got the keys state, param_groups"):
        SGLD([param(1.0)], lr=0.1, noise_std=1.0).load_state_dict(plain.state_dict())


def test_a_generator_of_another_device_is_told():
    optimizer = SGLD([param(1.0)], lr=0.1, noise_std=1.0)
    state = optimizer.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}  # as CUDA's
    with pytest.warns(UserWarning, match="the saved generator is not one of cpu"):
        optimizer.load_state_dict(state)


@every_optimizer
def test_the_own_generator_follows_the_global_seed_and_draws_from_its_own_stream(make):
    def run(seed):
        torch.manual_seed(seed)
        p = torch.nn.Parameter(torch.zeros(20))
        p.grad = torch.linspace(-1, 1, 20)
        optimizer = make([p])
        before = torch.get_rng_state()
        optimizer.step()
        assert torch.equal(before, torch.get_rng_state())
        return p.tolist()

    assert run(1) == run(1) != run(2)


@every_optimizer
def test_parameters_without_a_gradient_get_no_noise(make):
    frozen, free = param(1.0, 2.0), param(1.0, 2.0, grad=[1.0, 1.0])
    optimizer = make([frozen, free], generator=seeded())
    optimizer.step()
    assert frozen.tolist() == [1.0, 2.0]
    alone = param(1.0, 2.0, grad=[1.0, 1.0])
    make([alone], generator=seeded()).step()
    assert torch.equal(alone, free)  # nor is any drawn for them


@every_optimizer
def test_a_step_without_any_gradient_does_nothing(make):
    p = param(1.0)
    make([p]).step()
    assert p.item() == 1.0


def test_a_zero_gradient_is_a_fair_coin():
    p = torch.nn.Parameter(torch.zeros(100_000))
    p.grad = torch.zeros_like(p)
    NoisySignSGD([p], lr=1.0, alpha=1e-8, generator=seeded()).step()
    assert set(p.unique().tolist()) == {-1.0, 1.0}
    assert abs(p.mean().item()) < 0.02


@pytest.mark.parametrize("alpha", [1e-8, 1e-40, 1e-300, 5e-324])
def test_a_tiny_alpha_gives_the_signs(alpha):
    grad = torch.randn(1000)
    grad[::10] = 0.0
    noisy, plain = (torch.nn.Parameter(torch.zeros(1000)) for _ in range(2))
    noisy.grad, plain.grad = grad.clone(), grad.clone()
    NoisySignSGD([noisy], lr=0.1, alpha=alpha).step()
    SignSGD([plain], lr=0.1).step()
    assert noisy.isfinite().all()
    assert torch.equal(noisy[grad != 0], plain[grad != 0])
    assert not plain[grad == 0].any()


def test_noisy_signs_of_small_alpha_train_as_signs_do():
    """Claim K6 in the limit: one trajectory, float zeros of the gradient apart."""

    def weights(make):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        x, y = torch.randn(40, 5), torch.randn(40, 1)
        optimizer = make(net.parameters())
        for _ in range(30):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    noisy = weights(lambda params: NoisySignSGD(params, lr=0.01, alpha=1e-8))
    assert torch.equal(noisy, weights(lambda params: SignSGD(params, lr=0.01)))


@pytest.mark.parametrize("maximize", [False, True])
def test_sign_sgd_goes_by_signs(maximize):
    p = param(1.0, 1.0, 1.0, grad=[0.3, 0.0, -5.0])
    SignSGD([p], lr=0.25, maximize=maximize).step()
    assert p.tolist() == ([1.25, 1.0, 0.75] if maximize else [0.75, 1.0, 1.25])


def test_groups_have_their_own_options():
    slow, fast = param(0.0, grad=[1.0]), param(0.0, grad=[1.0])
    NoisySignSGD([{"params": [slow]}, {"params": [fast], "lr": 0.5, "maximize": True}], lr=0.1, alpha=1e-9).step()
    assert (slow.item(), fast.item()) == (pytest.approx(-0.1), 0.5)


def test_a_group_of_sgld_may_have_the_other_kind_of_noise():
    groups = [{"params": [param(0.0)]}, {"params": [param(0.0)], "inverse_temperature": 2.0}]
    optimizer = SGLD(groups, lr=0.25, noise_std=1.0)
    assert [optimizer.scale_of(group) for group in optimizer.param_groups] == [1.0, 0.5]


def test_alpha_may_follow_a_schedule_also_after_a_resume():
    p = param(0.0, grad=[1.0])
    optimizer = NoisySignSGD([p], lr=0.1, alpha=lambda t: (t + 1) ** -0.25)
    for expected in (1.0, 2**-0.25, 3**-0.25):
        assert optimizer.alpha_of(optimizer.param_groups[0]) == expected
        optimizer.step()
    resumed = NoisySignSGD([param(0.0)], lr=0.1, alpha=lambda t: (t + 1) ** -0.25)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.alpha_of(resumed.param_groups[0]) == 4**-0.25


def test_a_schedule_that_leaves_the_range_is_told_at_its_step():
    optimizer = NoisySignSGD([param(0.0, grad=[1.0])], lr=0.1, alpha=lambda t: 1.0 - t)
    optimizer.step()
    with pytest.raises(ValueError, match=r"alpha must be > 0 and finite, got 0.0"):
        optimizer.step()


@every_optimizer
def test_a_closure_is_called_with_gradients_and_its_loss_returned(make):
    p = param(3.0)

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss

    assert make([p]).step(closure).item() == 9.0
    assert p.item() != 3.0


@every_optimizer
def test_low_precision_parameters_get_noise_of_full_precision(make):
    p = torch.nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16))
    p.grad = torch.zeros_like(p)
    make([p], generator=seeded()).step()
    full = torch.nn.Parameter(torch.zeros(1000))
    full.grad = torch.zeros_like(full)
    make([full], generator=seeded()).step()
    torch.testing.assert_close(p.float(), full, rtol=1e-2, atol=1e-3)


@every_optimizer
def test_channels_last_parameters_are_moved_as_others_are(make):
    grad = torch.randn(4, 3, 2, 2)
    plain, last = (torch.nn.Parameter(torch.zeros_like(grad)) for _ in range(2))
    last.data = last.data.to(memory_format=torch.channels_last)
    plain.grad, last.grad = grad.clone(), grad.to(memory_format=torch.channels_last)
    for p in (plain, last):
        make([p], generator=seeded()).step()
    assert torch.equal(plain, last)


@every_optimizer
def test_a_grad_scaler_unscales_before_the_step(make):
    scaled, plain = (torch.nn.Linear(3, 2) for _ in range(2))
    plain.load_state_dict(scaled.state_dict())
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), make(scaled.parameters(), generator=seeded())
    scaler.scale(scaled(torch.ones(4, 3)).square().mean()).backward()
    scaler.step(optimizer)
    plain(torch.ones(4, 3)).square().mean().backward()
    make(plain.parameters(), generator=seeded()).step()
    torch.testing.assert_close(scaled.weight, plain.weight)
    scaled.weight.grad[0, 0] = math.inf
    scaler.update()
    scaler.step(optimizer)
    assert optimizer.num_steps == 1  # left out, and no noise with it


def draw_in_a_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other seeds, other noise: unless the optimizer takes care
    p = torch.nn.Parameter(torch.zeros(1000))
    optimizer = NoisySignSGD([p], lr=1.0, alpha=1.0)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.save(p.data, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_all_processes_draw_the_same_noise(tmp_path):
    torch.multiprocessing.start_processes(draw_in_a_process, (str(tmp_path),), nprocs=2, start_method="fork")
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one.any()
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: NoisySignSGD(p, lr=-0.1, alpha=1.0), "lr must be >= 0 and finite, got -0.1"),
        (lambda p: NoisySignSGD(p, lr=math.nan, alpha=1.0), "lr must be >= 0 and finite, got nan"),
        (lambda p: NoisySignSGD(p, lr=0.1, alpha=0), "alpha must be > 0 and finite, got 0; SignSGD is the limit"),
        (lambda p: NoisySignSGD(p, lr=0.1, alpha=-1.0), "alpha must be > 0 and finite, got -1.0$"),
        (lambda p: NoisySignSGD(p, lr=0.1, alpha=math.nan), "alpha must be > 0 and finite, got nan"),
        (lambda p: NoisySignSGD(p, lr=0.1, alpha=lambda t: -1.0), "alpha must be > 0 and finite, got -1.0"),
        (lambda p: NoisyQuantizedSGD(p, lr=0.1, alpha=1.0, levels=[1.0]), "levels must be at least two"),
        (lambda p: SGLD(p, lr=0.1), "exactly one of noise_std and inverse_temperature must be given, got none"),
        (
            lambda p: SGLD(p, lr=0.1, noise_std=1.0, inverse_temperature=2.0),
            "exactly one of .* must be given, got noise_std 1.0 and inverse_temperature 2.0",
        ),
        (lambda p: SGLD(p, lr=0.1, noise_std=0.0), "noise_std must be > 0 and finite, got 0.0"),
        (lambda p: SGLD(p, lr=0.1, inverse_temperature=-1.0), "inverse_temperature must be > 0 and finite, got -1.0"),
        (lambda p: SGLD(p, lr=-1.0, noise_std=1.0), "lr must be >= 0 and finite, got -1.0"),
        (lambda p: SignSGD(p, lr=-1.0), "lr must be >= 0 and finite, got -1.0"),
        (lambda p: NoisySignSGD([{"params": p, "alpha": 0.0}], lr=0.1, alpha=1.0), "alpha must be > 0"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([param(1.0)])


@pytest.mark.parametrize("make", [*MAKERS.values(), lambda params: SignSGD(params, lr=0.1)])
def test_sparse_gradients_are_refused(make):
    p = torch.nn.Parameter(torch.ones(3, 2))
    p.grad = torch.eye(3, 2).to_sparse()
    with pytest.raises(ValueError, match=r"gradients must be dense, got one of layout torch\.sparse_coo"):
        make([p]).step()
