"""The loss along a line: against direct evaluation, closed forms and other formulas."""

import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from callbacks.path import gauss_length, interpolate_path, interpolate_paths
from callbacks.states import lerp_state, snapshot, weight_distance, weight_norm


class Branches(nn.Module):
    """A residual network in small: batch normalisation, a shortcut, in-place code between modules, a branch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.leaky_relu_(self.norm(self.stem(x)), 0.5)  # not idempotent: writing twice would show
        out = self.block(x)
        out += self.shortcut(x)
        return self.head(F.relu(out).mean(dim=(2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 5, bias=False)
        self.decoder = nn.Linear(5, 5, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.tanh(self.encoder(x)))


def trained(net, x, y, steps=8):
    """The states before and after a few steps."""
    start = snapshot(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return start, snapshot(net)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 1, 6, 6, generator=generator), torch.randint(3, (40,), generator=generator)


@pytest.fixture
def net(data):
    torch.manual_seed(0)
    net = Branches()
    net.ends = trained(net, *data)
    return net


def directly(net, state, x, y):
    """The loss of a state, by loading it."""
    net = copy.deepcopy(net)
    net.load_state_dict(state)
    with torch.no_grad():
        return F.cross_entropy(net.eval()(x), y).item()


@pytest.mark.parametrize("groups", [None, ["stem"], ["block"], ["block", "head"], ["head"], ["norm"], ["shortcut"]])
@pytest.mark.parametrize("buffers", ["interpolate", "final"])
def test_every_position_is_what_loading_its_state_gives(net, data, groups, buffers):
    path = interpolate_path(net, *net.ends, [data], groups=groups, buffers=buffers, num_alphas=5)
    states = [lerp_state(*net.ends, alpha, groups=groups, buffers=buffers) for alpha in path.alphas]
    expected = [directly(net, state, *data) for state in states]
    assert path.loss.tolist() == pytest.approx(expected, abs=1e-5)
    assert path.loss[-1] == expected[-1]
    assert path.loss[0] == expected[0]


def test_batches_are_weighted_by_their_size(net, data):
    x, y = data
    whole = interpolate_path(net, *net.ends, [data], num_alphas=4)
    pieces = interpolate_path(net, *net.ends, list(zip(x.split(17), y.split(17))), num_alphas=4)
    assert pieces.loss == pytest.approx(whole.loss, abs=1e-6)
    assert pieces.accuracy.tolist() == whole.accuracy.tolist()
    assert pieces.gauss_length == pytest.approx(whole.gauss_length, abs=1e-5)


def test_a_convex_problem_has_no_bump():
    torch.manual_seed(0)
    x, net = torch.randn(50, 3), nn.Linear(3, 1)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0]]) + 1
    solution = {"weight": torch.tensor([[1.0, -2.0, 3.0]]), "bias": torch.tensor([1.0])}
    path = interpolate_path(net, snapshot(net), solution, [(x, y)], loss_fn=F.mse_loss)
    assert path.min_delta() == 0
    assert path.is_monotonic()
    assert path.barrier() == 0
    assert path.accuracy is None


def test_a_quadratic_loss_gives_its_exact_parabola():
    net = nn.Linear(1, 1, bias=False).double()
    start, end = ({"weight": torch.tensor([[w]], dtype=torch.float64)} for w in (-1.0, 3.0))
    batch = (torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))
    path = interpolate_path(net, start, end, [batch], loss_fn=F.mse_loss, num_alphas=9)
    assert path.loss.tolist() == pytest.approx([(-1 + 4 * alpha) ** 2 for alpha in path.alphas], abs=1e-14)
    assert path.min_delta() == 9  # lowest at alpha = 1/4, which is a position


def test_groups_that_cover_everything_give_the_full_path(net, data):
    groups = {"all": None, "each": ["stem", "norm", "block", "shortcut", "head"]}
    paths = interpolate_paths(net, *net.ends, [data], groups, num_alphas=6)
    assert paths["all"].loss.tolist() == paths["each"].loss.tolist()


def test_reversing_the_ends_reverses_the_curve(net, data):
    forth = interpolate_path(net, *net.ends, [data], num_alphas=7)
    back = interpolate_path(net, *reversed(net.ends), [data], num_alphas=7)
    assert back.loss[::-1] == pytest.approx(forth.loss, abs=1e-5)


def test_final_statistics_matter_with_batch_normalisation_and_not_without(net, data):
    interpolated, final = (
        interpolate_path(net, *net.ends, [data], num_alphas=5, buffers=buffers) for buffers in ("interpolate", "final")
    )
    assert abs(interpolated.loss - final.loss).max() > 1e-3
    assert interpolated.loss[-1] == final.loss[-1]
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    ends = trained(plain, *data)
    expected = interpolate_path(plain, *ends, [data], num_alphas=5)
    with pytest.warns(UserWarning, match="buffers='final' changes nothing"):
        same = interpolate_path(plain, *ends, [data], num_alphas=5, buffers="final")
    assert same.loss.tolist() == expected.loss.tolist()


@pytest.mark.parametrize("groups", [None, ["block"], ["head"]])
def test_recomputed_statistics_are_the_mean_over_batches_of_the_batches_own(net, data, groups):
    x, y = data
    batches = list(x.split(20))
    path = interpolate_path(
        net, *net.ends, [data], groups=groups, buffers="recompute", statistics_loader=[(b,) for b in batches],
        num_alphas=3,
    )  # fmt: skip
    expected = []
    for alpha in path.alphas:
        slow = copy.deepcopy(net)
        slow.load_state_dict(lerp_state(*net.ends, alpha, groups=groups, buffers="recompute"))
        slow.eval()
        for layer in (slow.norm, slow.block[1]):
            layer.train()
            layer.momentum = None  # torch's own cumulative average
        with torch.no_grad():
            for batch in batches:
                slow(batch)
        expected.append(directly(slow, slow.state_dict(), x, y))
    assert path.loss.tolist() == pytest.approx(expected, abs=1e-5)


def test_single_examples_give_no_statistics(net, data):
    x = data[0]
    options = {"buffers": "recompute", "num_alphas": 3}
    without = interpolate_path(net, *net.ends, [data], statistics_loader=[(x,)], **options)
    with_one = interpolate_path(net, *net.ends, [data], statistics_loader=[(x,), (x[:1],)], **options)
    assert with_one.loss.tolist() == without.loss.tolist()
    with pytest.raises(ValueError, match="statistics_loader must give batches of at least 2 examples, got none"):
        interpolate_path(net, *net.ends, [data], statistics_loader=[(x[:1],)], **options)


def test_the_model_is_left_as_it_was(net, data):
    net.train()
    net.norm.eval()
    before = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()]
    momenta = [net.norm.momentum, net.block[1].momentum]
    for loss_fn in (F.cross_entropy, lambda logits, y: 1 / 0):
        with contextlib.suppress(ZeroDivisionError):
            interpolate_path(
                net, *net.ends, [data], buffers="recompute", statistics_loader=[data], loss_fn=loss_fn, num_alphas=3
            )
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert [module.training for module in net.modules()] == flags
        assert [net.norm.momentum, net.block[1].momentum] == momenta
        assert not any("forward" in vars(module) for module in net.modules())
        assert not any(module._forward_pre_hooks for module in net.modules())
        assert all(parameter.requires_grad and parameter.grad is not None for parameter in net.parameters())


def test_the_ends_are_left_as_they_were(net, data):
    before = copy.deepcopy(net.ends)
    interpolate_path(net, *net.ends, [data], buffers="recompute", statistics_loader=[data], num_alphas=3)
    for state, kept in zip(net.ends, before):
        assert all(torch.equal(value, kept[name]) for name, value in state.items())


def test_what_lies_before_the_moved_part_is_computed_once_a_batch(net, data):
    calls = {"stem": 0, "block": 0, "shortcut": 0, "head": 0}

    def count(name, module):
        forward = type(module).forward
        monkey = lambda self, *args: calls.__setitem__(name, calls[name] + 1) or forward(self, *args)  # noqa: E731
        module.__class__ = type(f"Counting{name}", (type(module),), {"forward": monkey})

    for name in calls:
        count(name, net.get_submodule(name))
    interpolate_path(net, *net.ends, [data, data], groups=["head"], num_alphas=10)
    of_the_trial = 2
    assert calls["stem"] == calls["shortcut"] == of_the_trial + 2
    assert calls["block"] == of_the_trial + 20  # the model writes into its output
    assert calls["head"] == of_the_trial + 20  # not one of torch's own layers, so it is called each time


def test_a_linear_layer_with_a_constant_input_is_called_at_the_ends_only(data):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    ends = trained(net, *data)
    calls = []
    product = F.linear
    try:
        F.linear = lambda x, weight, bias=None: calls.append(weight.shape) or product(x, weight, bias)
        path = interpolate_path(net, *ends, [data], num_alphas=10)
    finally:
        F.linear = product
    assert calls.count((8, 36)) == 2 + 2  # of the trial, and at the ends
    assert path.loss[4] == pytest.approx(directly(net, lerp_state(*ends, path.alphas[4]), *data), abs=1e-5)


def test_tied_parameters_move_once():
    torch.manual_seed(0)
    net, x, y = Tied(), torch.randn(20, 5), torch.randint(5, (20,))
    start, end = trained(net, x, y)
    by_decoder = interpolate_path(net, start, end, [(x, y)], groups=["decoder"], num_alphas=5)
    whole = interpolate_path(net, start, end, [(x, y)], num_alphas=5)
    assert by_decoder.loss.tolist() == whole.loss.tolist()
    assert whole.loss[0] == directly(net, start, x, y)
    once = (end["encoder.weight"] - start["encoder.weight"]).norm().item()
    assert weight_distance(start, end) == pytest.approx(once)


def test_parametrised_weights_move_by_what_they_are_made_of(data):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(36, 8)), nn.ReLU(), nn.Linear(8, 3)
    )
    ends = trained(net, *data)
    path = interpolate_path(net, *ends, [data], num_alphas=3)
    assert path.loss[1] == pytest.approx(directly(net, lerp_state(*ends, 0.5), *data), abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_is_evaluated_as_the_plain_one(net, data):
    compiled = torch.compile(net)
    start = {f"_orig_mod.{name}": value for name, value in net.ends[0].items()}
    path = interpolate_path(compiled, start, net.ends[1], [data], groups=["block"], num_alphas=4)
    expected = interpolate_path(net, *net.ends, [data], groups=["block"], num_alphas=4)
    assert path.loss.tolist() == expected.loss.tolist()


def test_integer_buffers_are_the_final_ones(net):
    state = lerp_state(*net.ends, 0.5)
    assert state["norm.num_batches_tracked"] == 8
    assert lerp_state(*net.ends, 0.5, buffers="recompute")["norm.num_batches_tracked"] == 0


def test_what_does_not_move_is_the_final_state(net):
    start, end = net.ends
    state = lerp_state(start, end, 0.0, groups=["block"])
    assert all(
        torch.equal(state[name], start[name]) for name in state if name.startswith("block") and "num" not in name
    )
    assert all(state[name] is end[name] for name in state if not name.startswith("block"))
    outside = lerp_state(start, end, 2.0)["head.weight"]
    torch.testing.assert_close(outside, 2 * end["head.weight"] - start["head.weight"])


def test_further_metrics_are_means_over_examples(net, data):
    path = interpolate_path(
        net, *net.ends, [data], num_alphas=3, metrics={"error": lambda z, y: (z.argmax(1) != y).float().mean()}
    )
    assert path.metrics["error"] == pytest.approx(1 - path.accuracy)


def test_half_precision_outputs_are_reduced_in_float32(net, data):
    with torch.autocast("cpu", torch.bfloat16):
        path = interpolate_path(net, *net.ends, [data], num_alphas=3)
        with torch.no_grad():
            logits = functional_call(net.eval(), lerp_state(*net.ends, 1.0), (data[0],))
    assert logits.dtype == torch.bfloat16
    assert path.loss[-1] == pytest.approx(F.cross_entropy(logits.float(), data[1]).item(), abs=1e-6)


def test_gauss_length_of_a_semicircle_is_half_a_turn():
    angle = torch.linspace(0, math.pi, 400, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]
    line = torch.arange(400, dtype=torch.float64)[:, None, None] * torch.tensor([1.0, 2.0])
    assert gauss_length(circle).item() == pytest.approx(math.pi, rel=0.01)
    assert gauss_length(line).item() == pytest.approx(0, abs=1e-6)
    there_and_back = torch.tensor([[[0.0]], [[1.0]], [[0.0]]])
    assert gauss_length(there_and_back).item() == pytest.approx(math.pi)
    assert gauss_length(torch.zeros(5, 2, 3)).tolist() == [0, 0]


def test_gauss_length_of_a_path_is_that_of_its_logits(net, data):
    path = interpolate_path(net, *net.ends, [data], num_alphas=6)
    net.eval()
    with torch.no_grad():
        logits = [functional_call(net, lerp_state(*net.ends, alpha), (data[0],)) for alpha in path.alphas]
    assert path.gauss_length == pytest.approx(gauss_length(torch.stack(logits)).mean().item(), abs=1e-4)


def test_distance_is_over_parameters_only(net):
    start, end = net.ends
    parameters = [name for name, _ in net.named_parameters()]
    flat = [torch.cat([state[name].flatten() for name in parameters]) for state in (start, end)]
    assert weight_distance(start, end) == pytest.approx((flat[0] - flat[1]).norm().item(), rel=1e-5)
    assert weight_norm(end) == pytest.approx(flat[1].norm().item(), rel=1e-5)
    assert weight_distance(start, end, normalize=True) == pytest.approx(
        ((flat[0] - flat[1]).norm() / flat[0].norm()).item(), rel=1e-5
    )


def test_several_processes_add_up_their_shares(data, tmp_path):
    torch.multiprocessing.start_processes(_share, (data, str(tmp_path)), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one == two
    torch.manual_seed(0)
    net = Branches()
    ends = trained(net, *data)
    x, y = data
    halves = [(x[0::2], y[0::2]), (x[1::2], y[1::2])]
    expected = interpolate_path(net, *ends, [data], num_alphas=3)
    assert one["interpolate"] == pytest.approx(expected.loss.tolist(), abs=1e-5)
    expected = interpolate_path(net, *ends, [data], num_alphas=3, buffers="recompute", statistics_loader=halves)
    assert one["recompute"][-1] != pytest.approx(one["interpolate"][-1], abs=1e-4)
    assert one["recompute"][0] == pytest.approx(expected.loss[0], abs=0.05)  # each normalises by its own batch there


def _share(rank, data, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = Branches()
    ends = trained(net, *data)
    mine = [part[rank::2] for part in data]
    options = {"num_alphas": 3, "distributed": True}
    losses = {
        "interpolate": interpolate_path(net, *ends, [mine], **options).loss.tolist(),
        "recompute": interpolate_path(
            net, *ends, [mine], buffers="recompute", statistics_loader=[mine], **options
        ).loss.tolist(),
    }
    torch.save(losses, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_alphas": 1}, "alphas must be at least 2 positions"),
        ({"alphas": [0.5, 0.2]}, "alphas must be finite and ascending, got"),
        ({"alphas": [0.0, math.nan]}, "alphas must be finite and ascending, got"),
        ({"buffers": "keep"}, "buffers must be one of interpolate, recompute, final, got 'keep'"),
        ({"buffers": "recompute"}, "statistics_loader must be given with buffers='recompute', got None"),
        ({"groups": ["layer9"]}, "groups must name modules of the model, got 'layer9'; it has block, head, norm"),
        ({"groups": "head"}, "groups must be a list of module names, got the single string 'head'"),
        ({"groups": []}, "groups must name at least one module, got none"),
    ],
)
def test_wrong_arguments_are_named(net, data, change, message):
    with pytest.raises(ValueError, match=message):
        interpolate_path(net, *net.ends, [data], **change)


def test_states_that_do_not_fit_are_named(net, data):
    start, end = net.ends
    fewer = {name: value for name, value in start.items() if not name.startswith("head")}
    with pytest.raises(ValueError, match=r"same names; only one of them has head.bias, head.weight"):
        interpolate_path(net, fewer, end, [data])
    wider = {**start, "head.weight": torch.zeros(4, 4)}
    with pytest.raises(ValueError, match=r"same shapes, got \(4, 4\) and \(3, 4\) for head.weight"):
        interpolate_path(net, wider, end, [data])
    with pytest.raises(ValueError, match=r"the states must be the model's, got none of its head.bias, head.weight"):
        interpolate_path(net, fewer, fewer, [data])
    other = {"extra": torch.zeros(1)}
    with pytest.raises(ValueError, match="which has no extra"):
        interpolate_path(net, start | other, end | other, [data])
    with pytest.raises(ValueError, match=r"whose head.weight has shape \(3, 4\), got \(4, 4\)"):
        interpolate_path(net, wider, wider, [data])
    with pytest.raises(ValueError, match="alpha must be finite, got nan"):
        lerp_state(start, end, math.nan)
    with pytest.raises(ValueError, match="dataloader must give at least one batch, got none"):
        interpolate_path(net, start, end, [])


def test_a_loss_that_is_not_a_number_is_an_error_and_an_infinite_one_is_not(net, data):
    start, end = net.ends
    with pytest.raises(ValueError, match="loss must not be NaN, got NaN at alpha = 0"):
        interpolate_path(net, {**start, "head.bias": torch.full((3,), math.nan)}, end, [data], num_alphas=3)
    path = interpolate_path(net, start, end, [data], loss_fn=lambda z, y: F.cross_entropy(z, y) / 0, num_alphas=3)
    assert path.loss.tolist() == [math.inf] * 3
