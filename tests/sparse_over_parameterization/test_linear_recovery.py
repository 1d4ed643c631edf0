import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.optimize import linprog, minimize

from zoo.sparse_over_parameterization import LinearRecovery, OverparamLinear, corrupted_system, sparse_recovery
from zoo.sparse_over_parameterization.linear import matvec


def system(num_instances=3, seed=0, **options):
    return corrupted_system(num_instances, generator=torch.Generator().manual_seed(seed), **options)


def test_instances_are_as_described():
    found = system(rank=4, num_corrupted=6)
    singular = torch.linalg.svdvals(found.design)
    torch.testing.assert_close(singular[:, :4], torch.full((3, 4), 0.5 * (50 / 4) ** 0.5, dtype=torch.float64))
    assert singular[:, 4:].max() < 1e-12
    torch.testing.assert_close(found.theta.norm(dim=1), torch.full((3,), 2.0, dtype=torch.float64))
    in_rows = matvec(torch.linalg.pinv(found.design), matvec(found.design, found.theta))
    torch.testing.assert_close(in_rows, found.theta)
    assert ((found.s != 0).sum(dim=1) == 6).all()
    assert ((found.s[found.s != 0].abs() >= 1) & (found.s[found.s != 0].abs() <= 2)).all()
    torch.testing.assert_close(found.y, torch.einsum("mnp,mp->mn", found.design, found.theta) + found.s)


def test_descent_is_that_of_autograd():
    drawn = system(num_samples=8, num_features=6, rank=3, num_corrupted=2)
    model = OverparamLinear(drawn.design, drawn.y, alpha=0.7, gamma=0.1, lr=0.02)
    theta, u, v = (part.clone().requires_grad_() for part in (model.theta, model.u, model.v))
    optimizer = torch.optim.SGD([{"params": [theta], "lr": 0.02}, {"params": [u, v], "lr": 0.7 * 0.02}], lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        error = torch.einsum("mnp,mp->mn", drawn.design, theta) + u * u - v * v - drawn.y
        (0.5 * error.square().sum()).backward()
        optimizer.step()
    model.fit(50)
    for ours, other in ((model.theta, theta), (model.u, u), (model.v, v)):
        torch.testing.assert_close(ours, other.detach())


def test_instances_side_by_side_are_those_alone():
    drawn = system()
    alphas, gammas = torch.tensor([0.5, 1.0, 4.0]), torch.tensor([1e-4, 1e-6, 1e-3])
    together = OverparamLinear(drawn.design, drawn.y, alphas, gammas).fit(200)
    for i in range(3):
        alone = OverparamLinear(
            drawn.design[i : i + 1], drawn.y[i : i + 1], float(alphas[i]), float(gammas[i].double())
        ).fit(200)
        torch.testing.assert_close(alone.theta[0], together.theta[i], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(alone.lam[0], together.lam[i], rtol=1e-6, atol=0)


def test_a_large_lambda_recovers():
    drawn = system()
    model = OverparamLinear(drawn.design, drawn.y, alpha=0.5, gamma=1e-4).fit(4000)
    assert drawn.relative_error(model.theta).max() < 1e-4
    torch.testing.assert_close(model.s, drawn.s, atol=1e-3, rtol=0)


def test_a_small_lambda_does_not_and_descent_goes_where_the_convex_program_does():
    drawn = system()
    model = OverparamLinear(drawn.design, drawn.y, alpha=40.0, gamma=1e-4).fit(4000)
    theta, s = sparse_recovery(drawn.design, drawn.y, model.lam)
    assert (theta - drawn.theta).norm(dim=1).min() > 0.8
    assert (model.theta - theta).norm(dim=1).max() < 0.08
    assert (model.s - s).abs().max() < 0.05


@pytest.mark.parametrize("lam", [0.05, 0.3, 2.0])
def test_the_convex_program_agrees_with_scipy(lam):
    drawn = system(1, num_samples=12, num_features=5, rank=5, num_corrupted=3)
    design, y = drawn.design[0].numpy(), drawn.y[0].numpy()

    def dual(w):
        return 0.5 * np.sum((design.T @ w) ** 2) - y @ w, design @ (design.T @ w) - y

    found = minimize(dual, np.zeros(12), jac=True, bounds=[(-lam, lam)] * 12, method="L-BFGS-B", tol=1e-14)
    theta, s = sparse_recovery(drawn.design, drawn.y, lam)
    primal = 0.5 * theta.square().sum() + lam * s.abs().sum()
    assert primal.item() == pytest.approx(-found.fun, rel=1e-6)
    torch.testing.assert_close(s, drawn.y - matvec(drawn.design, theta))


def test_a_large_lambda_is_least_absolute_deviations():
    drawn = system(1, num_samples=12, num_features=3, rank=3, num_corrupted=5)
    design, y = drawn.design[0].numpy(), drawn.y[0].numpy()
    eye = np.eye(12)
    costs = np.concatenate([np.zeros(3), np.ones(24)])
    bounds = [(None, None)] * 3 + [(0, None)] * 24
    found = linprog(costs, A_eq=np.hstack([design, eye, -eye]), b_eq=y, bounds=bounds)
    _, s = sparse_recovery(drawn.design, drawn.y, 50.0)
    assert s.abs().sum().item() == pytest.approx(found.fun, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, y: OverparamLinear(d[0], y), r"design must have the shape \(M, N, P\), got \(50, 70\)"),
        (lambda d, y: OverparamLinear(d, y[:, :3]), r"y must have the shape \(3, 50\), got \(3, 3\)"),
        (lambda d, y: OverparamLinear(d, y, alpha=0.0), "alpha must be > 0, got 0.0"),
        (lambda d, y: OverparamLinear(d, y, alpha=torch.ones(2)), "alpha must be one value, or one for each of 3"),
        (lambda d, y: OverparamLinear(d, y, gamma=1.0), r"gamma must be in \(0, 1\), got 1.0"),
        (lambda d, y: OverparamLinear(d, y, gamma=0.0), "gamma must be > 0, got 0.0"),
        (lambda d, y: OverparamLinear(d, y, lr=float("nan")), "lr must be > 0, got nan"),
        (lambda d, y: sparse_recovery(d, y, 0.0), "lam must be > 0, got 0.0"),
        (lambda d, y: corrupted_system(0), "num_instances must be at least 1, got 0"),
        (lambda d, y: corrupted_system(1, rank=51), "rank must be at most 50, got 51"),
        (lambda d, y: corrupted_system(1, num_corrupted=51), r"num_corrupted must be in \[0, 50\], got 51"),
        (lambda d, y: LinearRecovery(ranks=()), "ranks must hold at least one value, got none"),
        (lambda d, y: LinearRecovery(num_steps=0), "num_steps must be at least 1, got 0"),
        (lambda d, y: LinearRecovery(tol=0.0), "tol must be > 0, got 0.0"),
    ],
)
def test_wrong_arguments_are_told(call, message):
    drawn = system()
    with pytest.raises(ValueError, match=message):
        call(drawn.design, drawn.y)


def test_the_simulation_logs_every_rank_and_number():
    torch.manual_seed(0)
    model = LinearRecovery(ranks=(2, 4), num_corrupted=(2, 30), num_instances=4, num_steps=1500)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=2, logger=False, accelerator="cpu", **quiet)
    trainer.fit(model)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert len(found) == 4 * 4
    rows = slice(4, 8)  # rank 2, 30 corrupted
    alone = OverparamLinear(model.model.design[rows], model.model.y[rows], 0.5, 1e-4).fit(3000)
    error = model.systems[1].relative_error(alone.theta)
    assert found["error/rank_2_30"] == pytest.approx(error.max().item(), rel=1e-3)
    assert found["recovered/rank_2_30"] == pytest.approx((error < 1e-3).double().mean().item())
    assert found["recovered/rank_4_2"] == 1.0
    assert found["distance/rank_4_2"] < 1e-4
