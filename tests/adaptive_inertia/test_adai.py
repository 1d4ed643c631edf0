import copy
import pickle

import pytest
import torch
from torch import nn

from zoo.adaptive_inertia import Adai, AdaiW

CURVATURES = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)

# Iterates of the authors' class in float64 on 5 w1² + w2²/2 + w3²/20 + (b - 1)², from (1, -2, 3) and 0.5.
TRAJECTORY = """
0.0000000000 -1.8000000000 2.9700000000 0.6000000000
-0.3966873500 -1.6128555129 2.9401500750 0.6877053318
-0.4104326958 -1.4369596243 2.9104497744 0.7654346231
-0.2421833253 -1.2714037895 2.8808986481 0.8346357732
-0.0444673207 -1.1160143892 2.8515113469 0.8959904807
0.0950826659 -0.9706838303 2.8223046465 0.9500222825
0.1482826760 -0.8350663008 2.7932867997 0.9973325036
0.1287141248 -0.7086839126 2.7644604915 1.0385218649
0.0702090870 -0.5910931549 2.7358270508 1.0740847268
0.0075658054 -0.4819148617 2.7073878201 1.1044037664
"""
AFTER_TEN = {
    "coupled": ({"weight_decay": 0.05}, [0.0075430234, -0.4265391193, 2.5683700307, 1.0833290875]),
    "decoupled": (
        {"weight_decay": 0.05, "decoupled_weight_decay": True},
        [0.0048716372, -0.4394803278, 2.5707638832, 1.0745945525],
    ),
    "AdaiV2": (
        {"dampening": 0.5, "decoupled_weight_decay": True},
        [0.1443888285, -0.0218832355, 2.0444936486, 1.2043580784],
    ),
}
foreach_or_loop = pytest.mark.parametrize("foreach", [None, False])


class Quadratic:
    """The problem of the trajectory, by default with an Adai of its learning rate."""

    def __init__(self, dtype=torch.float64, scale=1.0, with_b=True, optimizer=Adai, **options):
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=dtype))
        self.b = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.with_b, self.scale = with_b, scale
        self.optimizer = optimizer([self.w, self.b] if with_b else [self.w], **{"lr": 0.1 / scale} | options)

    def loss(self):
        loss = 0.5 * (CURVATURES.to(self.w.dtype) * self.w**2).sum()
        return self.scale * (loss + (self.b - 1) ** 2 if self.with_b else loss)

    def closure(self):
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def steps(self, n):
        for _ in range(n):
            self.optimizer.step(self.closure)
        return self

    @property
    def theta(self):
        return torch.cat([self.w.detach(), self.b.detach()[None]])


def by_the_equations(params, grads, states, t, lr, beta0=0.1, beta2=0.99, eps=1e-3):
    """One step of the paper's algorithm, as its equations stand, on lists of tensors; changes params and states."""
    for (_, v, _), g in zip(states, grads):
        v.copy_(beta2 * v + (1 - beta2) * g**2)
    corrected = [v / (1 - beta2**t) for _, v, _ in states]
    mean = sum(v.sum() for v in corrected) / sum(v.numel() for v in corrected)
    for p, g, (m, _, product), v in zip(params, grads, states, corrected):
        mu = (1 - beta0 * v / mean).clamp(0, 1 - eps)
        product.mul_(mu)
        m.copy_(mu * m + (1 - mu) * g)
        p.sub_(lr * m / (1 - product))


def random_model(dtype=torch.float32):
    """Parameters of many shapes and scales, one of them in channels-last order, one transposed and one empty."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (5,), (7, 3), (), (0, 3), (2, 1, 1, 1)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    tensors += [
        torch.randn(3, 7, generator=generator, dtype=dtype).t(),
        torch.randn(4, 6, generator=generator, dtype=dtype)[:, ::2],
    ]
    return [nn.Parameter(tensor) for tensor in tensors]


def give_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 10.0 ** -(i % 4)


@foreach_or_loop
def test_ten_steps_are_those_of_the_authors_class(foreach):
    problem = Quadratic(foreach=foreach)
    for line in TRAJECTORY.strip().splitlines():
        expected = torch.tensor([float(word) for word in line.split()], dtype=torch.float64)
        torch.testing.assert_close(problem.steps(1).theta, expected, rtol=0, atol=1e-10)


@foreach_or_loop
@pytest.mark.parametrize("variant", AFTER_TEN)
def test_variants_end_where_those_of_the_authors_class_do(variant, foreach):
    options, expected = AFTER_TEN[variant]
    theta = Quadratic(foreach=foreach, **options).steps(10).theta
    torch.testing.assert_close(theta, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


@foreach_or_loop
def test_the_state_after_ten_steps_is_that_of_the_authors_class(foreach):
    problem = Quadratic(foreach=foreach).steps(10)
    state = problem.optimizer.state[problem.w]
    expected = {
        "step": torch.tensor(10.0),
        "exp_avg": torch.tensor([0.619038832487, -0.323276379073, 0.003857454859], dtype=torch.float64),
        "exp_avg_sq": torch.tensor([1.328115863665, 0.161903221217, 0.007852343735], dtype=torch.float64),
        "beta1_prod": torch.tensor([0.011803314316, 0.703900500956, 0.986436149042], dtype=torch.float64),
    }
    assert set(state) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


def test_float32_follows_float64():
    wide, narrow = Quadratic().steps(10).theta, Quadratic(torch.float32).steps(10).theta
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-6)


@foreach_or_loop
@pytest.mark.parametrize("scale", [1e3, 1e-3, 1e-6])
def test_a_loss_times_s_at_a_rate_over_s_gives_the_same_path(scale, foreach):
    expected = torch.tensor([0.0880760439, -0.4709189228, 2.7068843216], dtype=torch.float64)
    problem = Quadratic(scale=scale, with_b=False, foreach=foreach).steps(10)
    torch.testing.assert_close(problem.w.detach(), expected, rtol=0, atol=1e-10)


@foreach_or_loop
def test_the_first_step_is_plain_sgd(foreach):
    problem = Quadratic(foreach=foreach)
    before = problem.theta
    problem.closure()
    gradient = torch.cat([problem.w.grad, problem.b.grad[None]])
    problem.optimizer.step()
    torch.testing.assert_close(problem.theta, before - 0.1 * gradient)


@foreach_or_loop
def test_a_single_parameter_has_momentum_one_minus_beta0(foreach):
    x = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    optimizer = Adai([x], lr=0.3, betas=(0.2, 0.9), foreach=foreach)
    value, m = 2.0, 0.0
    for t in range(1, 51):
        x.grad = (x.detach() ** 3).clone()
        optimizer.step()
        m = 0.8 * m + 0.2 * value**3
        value -= 0.3 * m / (1 - 0.8**t)
        assert x.item() == pytest.approx(value, abs=1e-13)


@foreach_or_loop
def test_random_tensors_follow_the_equations(foreach, monkeypatch):
    monkeypatch.setattr("zoo.adaptive_inertia.update.PIECE_ON_CPU", 7)  # so that tensors are cut into pieces
    ours, theirs = random_model(torch.float64), random_model(torch.float64)
    optimizer = Adai(ours, lr=0.5, foreach=foreach)
    states = [[torch.zeros_like(p), torch.zeros_like(p), torch.ones_like(p)] for p in theirs]
    for t in range(1, 9):
        give_gradients(ours, seed=t)
        optimizer.step()
        with torch.no_grad():
            by_the_equations(theirs, [p.grad for p in ours], states, t, lr=0.5)
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"dampening": 0.3, "maximize": True},
        {"weight_decay": 0.1, "maximize": True},
        {"inertia_scope": "group"},
        {"inertia_scope": "tensor", "weight_decay": 0.1},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_tensors_at_once_give_the_numbers_of_one_after_the_other(options, dtype, monkeypatch):
    monkeypatch.setattr("zoo.adaptive_inertia.update.PIECE_ON_CPU", 50)
    models = random_model(dtype), random_model(dtype)
    optimizers = []
    for model, foreach in zip(models, (True, False)):
        groups = [{"params": model[:3]}, {"params": model[3:], "lr": 0.02, "betas": (0.2, 0.9), "eps": 0.01}]
        optimizers.append(Adai(groups, lr=0.05, foreach=foreach, **options))
    for seed in range(6):
        for model, optimizer in zip(models, optimizers):
            give_gradients(model, seed)
            if seed == 2:
                model[1].grad = None  # from here on it is a step younger than the others
            optimizer.step()
    for p, q in zip(*models):
        assert p.isfinite().all()
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("maximize", [False, True])
def test_the_way_of_an_accelerator_gives_the_same_numbers(maximize, monkeypatch):
    monkeypatch.setattr("zoo.adaptive_inertia.update.wants_few_passes", lambda tensor: False)
    models = random_model(), random_model()
    options = {"weight_decay": 0.1, "maximize": maximize}
    optimizers = [Adai(model, foreach=foreach, **options) for model, foreach in zip(models, (True, False))]
    for seed in range(4):
        for model, optimizer in zip(models, optimizers):
            give_gradients(model, seed)
            optimizer.step()
    for p, q in zip(*models):
        torch.testing.assert_close(p, q)


def test_parameters_may_come_in_one_group_or_in_several():
    one, several = random_model(), random_model()
    optimizers = [Adai(one), Adai([{"params": several[:2]}, {"params": several[2:]}])]
    for seed in range(5):
        for model, optimizer in zip((one, several), optimizers):
            give_gradients(model, seed)
            optimizer.step()
    for p, q in zip(one, several):
        torch.testing.assert_close(p, q)


def test_the_scope_says_over_what_the_mean_is_taken():
    def inertia(scope):
        params = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
        optimizer = Adai([{"params": params[:2]}, {"params": params[2:]}], inertia_scope=scope)
        for p, gradient in zip(params, (1.0, 2.0, 4.0)):
            p.grad = torch.tensor([gradient])
        optimizer.step()
        return [optimizer.inertia()[p].item() for p in params]

    assert inertia("global") == pytest.approx([1 - 0.1 / 7, 1 - 0.4 / 7, 1 - 1.6 / 7])  # the mean of 1, 4, 16 is 7
    assert inertia("group") == pytest.approx([0.96, 0.84, 0.9])
    assert inertia("tensor") == pytest.approx([0.9, 0.9, 0.9])


@foreach_or_loop
def test_a_tensor_without_gradient_is_left_alone_and_does_not_count(foreach):
    p, q, without = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = Adai([p, q, without], foreach=foreach)
    p.grad, q.grad = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])
    optimizer.step()
    assert without.tolist() == [1, 1]
    assert without not in optimizer.state
    torch.testing.assert_close(optimizer.inertia()[p], torch.full((2,), 0.96))  # the mean square is 2.5
    torch.testing.assert_close(optimizer.state[p]["beta1_prod"], torch.full((2,), 0.96))


def test_without_any_gradient_a_step_does_nothing():
    p = nn.Parameter(torch.ones(2))
    optimizer = Adai([p])
    optimizer.step()
    assert p.tolist() == [1, 1]
    assert not optimizer.state
    assert optimizer.inertia() == {}
    assert optimizer.inertia_statistics() == {}
    assert optimizer.inertia_quantiles([0.5]).isnan().all()


@foreach_or_loop
def test_gradients_that_are_all_zero_change_nothing_and_leave_the_mean_inertia(foreach):
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = Adai([p], foreach=foreach)
    p.grad = torch.zeros(2)
    optimizer.step()
    assert p.tolist() == [1, 2]
    torch.testing.assert_close(optimizer.state[p]["beta1_prod"], torch.full((2,), 0.9))
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.isfinite().all()


@foreach_or_loop
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_element_without_gradient_stays_and_keeps_the_largest_inertia(dtype, foreach):
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = Adai([p], lr=0.1, foreach=foreach)
    for _ in range(5):
        p.grad = torch.tensor([0.0, 1e-4, 2e-4], dtype=dtype)
        optimizer.step()
    assert p[0] == 1
    assert p.isfinite().all()
    assert optimizer.inertia()[p][0].item() == pytest.approx(0.999)


@pytest.mark.parametrize("gradient", [1e-30, 1e-22, 1e18])
def test_gradients_of_extreme_size_leave_the_step_finite(gradient):
    p = nn.Parameter(torch.zeros(2))
    optimizer = Adai([p], lr=1.0)
    p.grad = torch.tensor([gradient, 2 * gradient])
    optimizer.step()
    torch.testing.assert_close(p.detach(), -p.grad)


@foreach_or_loop
@pytest.mark.parametrize("options", [{"weight_decay": 0.5}, {"maximize": True}, {}])
def test_gradients_are_not_written_to(options, foreach):
    p = nn.Parameter(torch.ones(2))
    optimizer = Adai([p], foreach=foreach, **options)
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.grad.tolist() == [1, 1]
    assert p.grad._version == 0


@foreach_or_loop
def test_maximize_goes_the_other_way(foreach):
    down, up = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    optimizers = Adai([down], foreach=foreach), Adai([up], foreach=foreach, maximize=True)
    for p, optimizer in zip((down, up), optimizers):
        for seed in range(3):
            give_gradients([p], seed)
            optimizer.step()
    torch.testing.assert_close(up, -down)


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    problem = Quadratic()
    with torch.no_grad():
        loss = problem.optimizer.step(problem.closure)
    assert loss.item() == pytest.approx(5 + 2 + 0.45 + 0.25)


@foreach_or_loop
def test_a_resumed_run_goes_on_bit_by_bit(foreach, tmp_path):
    whole = Quadratic(torch.float32, foreach=foreach).steps(10)
    first, second = (Quadratic(torch.float32, foreach=foreach) for _ in range(2))
    torch.save(first.steps(5).optimizer.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        second.w.copy_(first.w)
        second.b.copy_(first.b)
    second.optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(second.steps(5).theta, whole.theta)
    for name in ("step", "exp_avg", "exp_avg_sq", "beta1_prod"):
        assert torch.equal(second.optimizer.state[second.w][name], whole.optimizer.state[whole.w][name])


def test_a_resumed_run_in_16_bits_keeps_its_states_in_32():
    whole, first, second = (random_model(torch.bfloat16) for _ in range(3))
    optimizers = [Adai(model) for model in (whole, first, second)]

    def train(i, seeds):
        for seed in seeds:
            give_gradients((whole, first, second)[i], seed)
            optimizers[i].step()

    train(0, range(6))
    train(1, range(3))
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    for p, q in zip(second, first):
        p.data.copy_(q)
    train(2, range(3, 6))
    for p, q in zip(whole, second):
        assert torch.equal(p, q)
    assert optimizers[2].state[second[0]]["beta1_prod"].dtype == torch.float32


def test_a_resumed_run_may_have_another_memory_format():
    def conv(memory_format):
        torch.manual_seed(0)
        model = nn.Conv2d(4, 8, 3).to(memory_format=memory_format)
        return model, Adai(model.parameters())

    def train(model, optimizer, seeds):
        for seed in seeds:
            give_gradients(list(model.parameters()), seed)
            optimizer.step()

    whole, first, second = conv(torch.contiguous_format), conv(torch.contiguous_format), conv(torch.channels_last)
    train(*whole, range(6))
    train(*first, range(3))
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    train(*second, range(3, 6))
    torch.testing.assert_close(second[0].weight, whole[0].weight)


def test_a_checkpoint_of_the_authors_class_loads():
    whole, resumed = Quadratic(weight_decay=0.05).steps(8), Quadratic(weight_decay=0.05).steps(5)
    saved = copy.deepcopy(resumed.optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    saved["param_groups"] = [
        {"params": [0, 1], "lr": 0.1, "betas": (0.1, 0.99), "eps": 1e-3, "weight_decay": 0.05, "decoupled": False}
    ]
    resumed.optimizer = Adai([resumed.w, resumed.b], lr=0.7)
    resumed.optimizer.load_state_dict(saved)
    assert torch.equal(resumed.steps(3).theta, whole.theta)
    assert resumed.optimizer.param_groups[0]["decoupled_weight_decay"] is False


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda problem: pickle.loads(pickle.dumps(problem))])
def test_a_copy_goes_on_as_the_original_does(copied):
    problem = Quadratic(optimizer=AdaiW, weight_decay=0.05).steps(5)
    twin = copied(problem)
    assert torch.equal(twin.steps(5).theta, problem.steps(5).theta)


def test_the_product_is_left_once_it_cannot_be_seen():
    always, sometimes = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = Adai([always], eps=0.5), Adai([sometimes], eps=0.5)
    for seed in range(60):
        for p, optimizer in zip((always, sometimes), optimizers):
            give_gradients([p], seed)
            optimizer.param_groups[0]["smallest_eps"] = 0.5 if p is sometimes else 1e-3
            optimizer.step()
    torch.testing.assert_close(always, sometimes, rtol=1e-6, atol=1e-7)
    products = [optimizer.state[p]["beta1_prod"] for p, optimizer in zip((always, sometimes), optimizers)]
    assert (products[0] < products[1]).all()  # the second was left at 2^-25, where 1 - x is 1


def test_a_larger_eps_does_not_end_the_correction_too_early():
    p = nn.Parameter(torch.ones(2))
    optimizer = Adai([p], eps=1e-3)
    for seed in range(60):
        optimizer.param_groups[0]["eps"] = 1e-3 if seed < 5 else 0.5
        give_gradients([p], seed)
        before = optimizer.state[p].get("beta1_prod", torch.ones(2)).clone()
        optimizer.step()
        assert (optimizer.state[p]["beta1_prod"] < before).all()


def test_the_mean_of_the_complement_is_beta0_where_nothing_is_clipped():
    p = nn.Parameter(torch.zeros(1000))
    optimizer = Adai([p], betas=(0.1, 0.0))
    p.grad = 1 + torch.rand(1000, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert (1 - optimizer.inertia()[p]).mean().item() == pytest.approx(0.1, rel=1e-5)


def test_the_inertia_is_clipped_where_the_ratio_says():
    p = nn.Parameter(torch.zeros(100))
    optimizer = Adai([p])
    p.grad = torch.cat([torch.tensor([1e-4]), torch.ones(98), torch.tensor([100.0])])  # ratios 1e-10, 0.01 and 99
    optimizer.step()
    mu = optimizer.inertia()[p]
    assert mu[0].item() == pytest.approx(0.999)
    assert mu[-1].item() == 0
    statistics = optimizer.inertia_statistics([0.0, 0.5, 1.0])
    assert statistics["vbar"].item() == pytest.approx((98 + 1e4 + 1e-8) / 100)
    assert statistics["share_at_0"].item() == pytest.approx(0.01)
    assert statistics["share_at_max"].item() == pytest.approx(0.99)  # the ones are 0.0099 of the mean
    assert statistics["quantile_0"].item() == 0
    assert statistics["quantile_1"].item() == pytest.approx(0.999)


def test_quantiles_are_those_of_all_elements():
    model = random_model()
    optimizer = Adai(model)
    for seed in range(4):
        give_gradients(model, seed)
        optimizer.step()
    q = [0.0, 0.01, 0.3, 0.5, 0.99, 1.0]
    together = torch.cat([mu.flatten() for mu in optimizer.inertia().values()])
    torch.testing.assert_close(optimizer.inertia_quantiles(q), together.quantile(torch.tensor(q)))
    torch.testing.assert_close(optimizer.inertia_statistics(q)["quantile_0.3"], together.quantile(0.3))


def test_models_side_by_side_do_not_see_each_other():
    stacked = [
        nn.Parameter(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))) for shape in ((4,), (), (2, 2))
    ]
    apart = [[nn.Parameter(p.detach()[i].clone()) for p in stacked] for i in range(3)]
    together, each = Adai(stacked, batched=True), [Adai(model) for model in apart]
    for seed in range(5):
        give_gradients(stacked, seed)
        for i, (model, optimizer) in enumerate(zip(apart, each)):
            for p, q in zip(model, stacked):
                p.grad = q.grad[i].clone()
            optimizer.step()
        together.step()
    for i, model in enumerate(apart):
        for p, q in zip(model, stacked):
            torch.testing.assert_close(p.detach(), q.detach()[i])
    for p, mu in together.inertia().items():
        assert mu.shape == p.shape


def test_a_step_that_may_be_captured_gives_the_same_numbers():
    plain = Quadratic().steps(10)
    captured = Quadratic(capturable=True, lr=torch.tensor(0.1, dtype=torch.float64)).steps(10)
    torch.testing.assert_close(captured.theta, plain.theta)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_does_not_look_at_a_value(capturable):
    p = nn.Parameter(torch.ones(4, device="meta"))  # has no values: whoever asks for one gets an error
    p.grad = torch.ones(4, device="meta")
    optimizer = Adai([p], weight_decay=0.1, capturable=capturable)
    optimizer.step()
    assert optimizer.state[p]["step"].device.type == ("meta" if capturable else "cpu")


def test_a_schedule_changes_the_rate():
    p = nn.Parameter(torch.zeros(2))
    optimizer = Adai([p], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)
    moves = []
    for _ in range(2):
        before = p.detach().clone()
        p.grad = torch.ones(2)
        optimizer.step()
        schedule.step()
        moves.append((before - p.detach())[0].item())
    assert moves == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr must be >= 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be >= 0, got nan"),
        ({"lr": torch.tensor(0.1)}, "lr must be a number, or a tensor of one element with capturable=True"),
        ({"betas": (0.1,)}, "betas must be two numbers"),
        ({"betas": (0.0, 0.99)}, r"betas\[0\] must be > 0, got 0.0"),
        ({"betas": (0.1, 1.0)}, r"betas\[1\] must lie in \[0, 1\), got 1.0"),
        ({"betas": (0.1, -0.1)}, r"betas\[1\] must lie in \[0, 1\), got -0.1"),
        ({"eps": 0.0}, r"eps must lie in \(0, 1\), got 0.0"),
        ({"eps": 1.0}, r"eps must lie in \(0, 1\), got 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must be >= 0, got -0.0001"),
        ({"dampening": 1.1}, r"dampening must lie in \[0, 1\], got 1.1"),
        ({"dampening": -0.1}, r"dampening must lie in \[0, 1\], got -0.1"),
        ({"inertia_scope": "layer"}, "inertia_scope must be one of 'global', 'group', 'tensor', got 'layer'"),
        ({"foreach": True, "batched": True}, "foreach must be None or False with capturable or batched"),
    ],
)
def test_options_out_of_range_are_refused_in_the_optimizer_and_in_a_group(options, message):
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        Adai([p], **options)
    optimizer = Adai([p])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [q], **options})
    assert len(optimizer.param_groups) == 1


def test_a_beta0_above_one_is_warned_of():
    with pytest.warns(UserWarning, match=r"betas\[0\] = 1.5 > 1"):
        Adai([nn.Parameter(torch.ones(2))], betas=(1.5, 0.99))


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match=r"params must be real floating-point tensors, got one of torch\.complex64"):
        Adai([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


def test_sparse_gradients_are_refused_before_anything_moves():
    dense, sparse = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Adai([dense, sparse])
    dense.grad, sparse.grad = torch.ones(2), torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match=r"gradients must be dense, got one of layout torch\.sparse_coo"):
        optimizer.step()
    assert dense.tolist() == [1, 1]


def test_models_side_by_side_must_be_as_many_in_every_parameter():
    with pytest.raises(ValueError, match="with batched=True the first axis"):
        Adai([nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))], batched=True)


def test_quantiles_outside_0_and_1_are_refused():
    optimizer = Adai([nn.Parameter(torch.ones(2))])
    for ask in (optimizer.inertia_quantiles, optimizer.inertia_statistics):
        with pytest.raises(ValueError, match=r"q must hold probabilities in \[0, 1\], got 5"):
            ask([0.5, 5])
