import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from zoo.deep_linear import RankOneFlow

Z = torch.zeros(4, 5, dtype=torch.float64)
Z.diagonal()[:] = torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64)


def units(number, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(number, size, dtype=torch.float64, generator=generator), dim=1)


def random_flow(depth, number=4, s0=0.5, target=Z, seed=0):
    d_y, d_x = target.shape
    return RankOneFlow(target, depth, units(number, d_y, seed), units(number, d_x, seed + 100), s0)


def scalar(depth, z, s0):
    one = torch.ones(1)
    return RankOneFlow(torch.tensor([[z]], dtype=torch.float64), depth, one, one, s0)


def reduced(flow, i, times, **options):
    """The reduced system of start i by a slower method, in its own equations: s, u, v."""
    target, power = flow.target[i].numpy(), 1 / flow.depth
    d_y = target.shape[0]

    def velocity(_, state):
        s, u, v = state[0], state[1 : 1 + d_y], state[1 + d_y :]
        rho, kappa = u @ target @ v, s ** (1 - 2 * power)
        du, dv = kappa * (target @ v - rho * u), kappa * (target.T @ u - rho * v)
        return np.concatenate([[flow.depth * s ** (2 - 2 * power) * (rho - s)], du, dv])

    start = np.concatenate([[flow.s0[i]], flow.u0[i], flow.v0[i]])
    options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14} | options
    return solve_ivp(velocity, (0, times[-1]), start, t_eval=times, **options)


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
def test_the_closed_form_solves_the_reduced_system(depth):
    flow, times = random_flow(depth), np.array([0.0, 0.3, 1.0, 4.0])
    state = flow.solve_time(torch.from_numpy(times))
    for i in range(flow.num_starts):
        expected = reduced(flow, i, times).y
        found = np.concatenate([state.s[i, None], state.u[i].T, state.v[i].T])
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-9)
    torch.testing.assert_close(state.rho, torch.einsum("bti,ij,btj->bt", state.u, Z, state.v))
    torch.testing.assert_close(state.W, torch.einsum("bt,bti,btj->btij", state.s, state.u, state.v))


def test_two_scalar_layers_follow_the_logistic_curve():
    z, s0 = 1.7, 0.01
    t = torch.linspace(0, 6, 25, dtype=torch.float64)
    expected = z / (1 + (z / s0 - 1) * torch.exp(-2 * z * t))
    torch.testing.assert_close(scalar(2, z, s0).solve_time(t).s[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("depth", [3, 5])
def test_scalar_layers_take_the_time_of_their_integral(depth):
    z, s0, level = 1.7, 0.01, 1.5
    expected = quad(lambda s: 1 / (depth * s ** (2 - 2 / depth) * (z - s)), s0, level, epsabs=0, epsrel=1e-12)[0]
    assert scalar(depth, z, s0).stuck_time(level).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_without_a_target_the_decay_is_the_power_that_the_rates_tell(depth):
    flow = RankOneFlow(torch.zeros(2, 3), depth, torch.eye(2)[0], torch.eye(3)[0], 0.5)
    t = torch.tensor([0.0, 1.0, 50.0], dtype=torch.float64)
    power, slope = flow.rates().power.item(), flow.rates().slope.item()
    assert power == pytest.approx(depth / (2 * depth - 2), rel=1e-14)
    assert slope == 2 * depth - 2
    torch.testing.assert_close(flow.solve_time(t).s[0], (0.5 ** (-1 / power) + slope * t) ** -power, rtol=1e-11, atol=0)
    assert flow.limit().kind == ("origin",)


def test_rescaled_and_real_time_agree():
    flow = random_flow(3)
    by_tau = flow.solve(torch.tensor([0.0, 0.5, 7.0], dtype=torch.float64))
    by_time = flow.solve_time(by_tau.t)
    torch.testing.assert_close(by_time.tau, by_tau.tau, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(by_time.s, by_tau.s, rtol=1e-11, atol=0)
    assert torch.equal(
        random_flow(2).solve(torch.tensor([0.0, 7.0], dtype=torch.float64)).tau[0], torch.tensor([0.0, 7.0]).double()
    )
    two = random_flow(2).solve(torch.tensor([0.5, 7.0], dtype=torch.float64))
    torch.testing.assert_close(two.t, two.tau, rtol=1e-13, atol=0)  # two layers: t = tau


def test_times_in_any_order_far_and_near_agree():
    times = torch.tensor([900.0, 3.0, 0.0, 40.0], dtype=torch.float64)
    whole = random_flow(4).solve_time(times)
    for i, t in enumerate(times):
        torch.testing.assert_close(random_flow(4).solve_time(t[None]).s[:, 0], whole.s[:, i], rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.s[:, 0], torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-11, atol=0)


def test_signs_and_zeros_of_the_start_tell_the_limit():
    u = torch.tensor([[0.6, 0.8, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0.6, 0.8, 0, 0]], dtype=torch.float64)
    v = torch.tensor(
        [[0.6, 0, 0.8, 0, 0], [-0.6, 0, 0.8, 0, 0], [0, 0, 0, 0, 1], [-0.6, -0.8, 0, 0, 0]], dtype=torch.float64
    )
    limit = RankOneFlow(Z, 3, u, v, 0.5).limit()
    assert limit.kind == ("global", "saddle", "saddle", "origin")
    assert limit.index.tolist() == [0, 1, 2, -1]
    assert limit.sigma.tolist() == [3, 2, 1, 0]
    expected = torch.zeros(4, 4, 5, dtype=torch.float64)
    for i in range(3):
        expected[i, i, i] = limit.sigma[i]
    torch.testing.assert_close(limit.W, expected)
    torch.testing.assert_close(RankOneFlow(Z, 3, u, v, 0.5).solve_time([8.0]).W[:3, 0], expected[:3], atol=1e-2, rtol=0)


def test_the_limit_may_have_a_negative_product_of_signs():  # u and v both turned: the same matrix
    u, v = units(4, 4), units(4, 5)
    torch.testing.assert_close(RankOneFlow(Z, 3, u, v, 0.5).limit().W, RankOneFlow(Z, 3, -u, -v, 0.5).limit().W)


def test_equal_singular_values_share_the_limit_as_the_start_does():
    target = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    u, v = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64), torch.tensor([0.8, 0.6, 0.0], dtype=torch.float64)
    flow = RankOneFlow(target, 3, u, v, 0.5)
    c = torch.tensor([0.8, 1.2, 0.0], dtype=torch.float64) / math.hypot(0.8, 1.2)
    torch.testing.assert_close(flow.limit().W[0], 2 * torch.outer(c, c))
    assert flow.limit().kind == ("global",)
    torch.testing.assert_close(flow.solve_time([20.0]).W[0, 0], 2 * torch.outer(c, c), rtol=0, atol=1e-8)
    assert flow.rates().runner_up.item() == pytest.approx(1.0)  # not the equal one


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_distances_and_losses_fall_at_the_rates_in_the_end(depth):
    u = torch.tensor([[0.0, 0.6, 0.8, 0.0], [0.6, 0.0, 0.0, 0.8], [0.6, 0.8, 0.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 0.6, 0.0, 0.8, 0.0], [0.6, 0, 0, -0.8, 0], [0, 0, 1, 0, 0]], dtype=torch.float64)
    flow = RankOneFlow(Z, depth, u, v, 0.5)
    limit, rates = flow.limit(), flow.rates()
    assert rates.runner_up.tolist() == [1.0, -0.5, 2.0]
    t = torch.stack([12 / rates.product, 14 / rates.product], dim=1)
    W = flow.solve_time(t).W
    distance = torch.linalg.matrix_norm(W - limit.W[:, None])
    loss = (W - Z).square().sum((2, 3)) - (limit.W - Z).square().sum((1, 2))[:, None]
    for values, rate in ((distance, rates.product), (loss, rates.loss)):
        fitted = (values[:, 0] / values[:, 1]).log() / (t[:, 1] - t[:, 0])
        torch.testing.assert_close(fitted / rate, torch.ones(3, dtype=torch.float64), rtol=0, atol=0.03)


def test_a_start_that_need_not_turn_converges_at_the_rate_of_s():
    flow = RankOneFlow(Z, 3, torch.eye(4)[0], torch.eye(5)[0], 0.5)
    rate = flow.rates().product.item()
    assert rate == pytest.approx(3 * 3 ** (4 / 3))
    s = flow.solve_time([1.5, 1.7]).s[0]
    assert ((3 - s[0]) / (3 - s[1])).log().item() / 0.2 == pytest.approx(rate, rel=1e-3)


def test_two_layers_decay_to_the_origin_exponentially():
    u, v = (
        torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([-0.6, -0.8, 0.0, 0.0, 0.0], dtype=torch.float64),
    )
    flow = RankOneFlow(Z, 2, u, v, 0.5)
    rates = flow.rates()
    assert (rates.runner_up.item(), rates.product.item(), rates.loss.item()) == (-2.0, 4.0, 4.0)
    assert rates.power.isnan()
    s = flow.solve_time([5.0, 6.0]).s[0]
    assert (s[0] / s[1]).log().item() == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("depth", [3, 4])
def test_deep_networks_decay_to_the_origin_polynomially(depth):
    u, v = (
        torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([-0.6, -0.8, 0.0, 0.0, 0.0], dtype=torch.float64),
    )
    flow = RankOneFlow(Z, depth, u, v, 0.5)
    rates = flow.rates()
    assert rates.slope.item() == pytest.approx((depth - 2) * 2.0)
    assert rates.product.item() == 0
    s = flow.solve_time([500.0, 600.0]).s[0] ** (-1 / rates.power.item())
    assert (s[1] - s[0]).item() / 100 == pytest.approx(rates.slope.item(), rel=1e-2)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_stages_end_where_the_reduced_system_says(depth):
    flow = random_flow(depth, number=6, s0=0.1, seed=3)
    stages = flow.stage_times()
    rho = torch.einsum("bi,ij,bj->b", flow.u0, Z, flow.v0)
    assert (rho < 0).any()
    assert (rho > 0.1).any()
    for i in range(6):

        def rho_of(_, state):
            return state[1:5] @ Z.numpy() @ state[5:]

        def rising(t, state):
            return rho_of(t, state) - state[0]

        found = reduced(flow, i, np.array([6.0]), events=[rho_of, rising, lambda _, state: state[0] - 1.5])
        expected = [events[-1] if len(events) else 0.0 for events in found.t_events]
        got = [stages.alignment[i].item(), stages.turn[i].item(), stages.half[i].item()]
        assert got == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_a_trajectory_to_the_origin_never_turns():
    flow = RankOneFlow(Z, 3, torch.full((4,), 0.5), torch.tensor([-0.5] * 4 + [0.0]), 0.5)
    stages = flow.stage_times()
    assert [value.item() for value in (stages.alignment, stages.turn, stages.half)] == [math.inf] * 3


def test_a_start_above_its_limit_may_come_down_without_a_turn():
    flow = RankOneFlow(Z, 2, torch.eye(4)[0], torch.eye(5)[0], 5.0)
    stages = flow.stage_times()
    assert stages.turn.item() == math.inf
    assert stages.half.item() == 0  # never below
    assert flow.stuck_time(4.0).item() == math.inf
    assert flow.solve_time([10.0]).s.item() == pytest.approx(3.0)


def test_stuck_times_follow_their_laws():
    s0 = torch.tensor([1e-8, 1e-7, 1e-6], dtype=torch.float64)
    two, four = (RankOneFlow(Z, depth, torch.eye(4)[0], torch.eye(5)[0], s0).stuck_time(1.5) for depth in (2, 4))
    torch.testing.assert_close(two.diff() / math.log(10), torch.full((2,), -1 / 6, dtype=torch.float64))
    expected = torch.log(1.5 / s0 * (3 - s0) / 1.5) / 6
    torch.testing.assert_close(two, expected)
    torch.testing.assert_close(four.log().diff() / math.log(10), torch.full((2,), -0.5).double(), rtol=0, atol=1e-2)


def test_the_origin_stays_where_it_is():
    with pytest.warns(UserWarning, match="s0 = 0 is the origin"):
        flow = RankOneFlow(Z, 3, units(2, 4), units(2, 5), torch.tensor([0.0, 0.5], dtype=torch.float64))
    state = flow.solve_time([0.0, 9.0])
    assert state.s[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(state.u[0, 1], flow.u0[0])
    assert flow.limit().kind == ("origin", "global")
    assert flow.rates().product.isnan().tolist() == [True, False]
    assert flow.stuck_time(1.0).isinf().tolist() == [True, False]
    assert flow.solve(torch.tensor([1.0], dtype=torch.float64)).t.isinf().tolist() == [[True], [False]]
    torch.testing.assert_close(state.s[1, 1:], torch.tensor([3.0]).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (1, 1)])
def test_one_input_or_one_output_will_do(shape):
    target = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flow = random_flow(3, target=target)
    times = np.array([0.0, 0.5, 2.0])
    expected = [reduced(flow, i, times).y[0] for i in range(4)]
    np.testing.assert_allclose(flow.solve_time(torch.from_numpy(times)).s, expected, atol=1e-9)


def test_a_tolerance_decides_what_counts_as_zero():
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q for size in (4, 5))
    u, v = left @ torch.tensor([0, 0.6, 0.8, 0], dtype=torch.float64), right @ torch.eye(5).double()[1]
    target = left @ Z @ right.mT
    assert RankOneFlow(target, 3, u, v, 0.5).limit().kind == ("global",)  # for rounding
    strict = RankOneFlow(target, 3, u, v, 0.5, atol=1e-12)
    assert strict.limit().kind == ("saddle",)
    assert strict.solve_time([500.0]).s.item() == pytest.approx(2.0)  # for ever


def test_each_start_may_have_a_target_of_its_own():
    u, v = units(2, 4), units(2, 5)
    both = RankOneFlow(torch.stack([Z, 0.5 * Z]), 3, u, v, 0.5).solve_time([2.0])
    for i, factor in enumerate((1.0, 0.5)):
        alone = RankOneFlow(factor * Z, 3, u[i], v[i], 0.5).solve_time([2.0])
        torch.testing.assert_close(both.W[i], alone.W[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 1}, "depth must be at least 2, got 1"),
        ({"s0": -0.5}, "s0 must be >= 0 and finite, got -0.5"),
        ({"s0": float("nan")}, "s0 must be >= 0 and finite, got nan"),
        ({"u0": torch.ones(4)}, "u0 must have length 1"),
        ({"v0": torch.ones(4) / 2}, r"v0 must have the shape \(B, 5\) or \(5,\), got \(4,\)"),
        ({"atol": -1.0}, "atol must be >= 0, got -1.0"),
        ({"Z": torch.full((4, 5), float("inf"))}, "Z must be finite"),
        ({"s0": torch.ones(3), "u0": torch.eye(4)[:2]}, "must agree on the number of starts"),
    ],
)
def test_a_start_that_cannot_be_is_refused_by_the_flow(changes, message):
    arguments = {"Z": Z, "depth": 3, "u0": torch.eye(4)[0], "v0": torch.eye(5)[0], "s0": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        RankOneFlow(**arguments)


def test_times_and_levels_that_cannot_be_are_refused():
    flow = random_flow(3)
    with pytest.raises(ValueError, match="t must be >= 0 and finite"):
        flow.solve_time([-1.0])
    with pytest.raises(ValueError, match=r"tau must have the shape \(4, T\) or \(T,\), got \(3, 1\)"):
        flow.solve(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"level must be >= 0, got -1.0"):
        flow.stuck_time(-1.0)
    with pytest.raises(ValueError, match="level must be one value, or one for each of 4 starts"):
        flow.stuck_time(torch.ones(3))
