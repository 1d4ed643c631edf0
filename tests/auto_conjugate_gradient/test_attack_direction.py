import pytest
import torch

from zoo.auto_conjugate_gradient.direction import ConjugateMove, MomentumMove, conjugate_coefficient
from zoo.auto_conjugate_gradient.projection import BALLS

SIZE = 6


def quadratic():
    """A concave function -x'Ax/2 + b'x with its Hessian's negative A, and its gradient."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    a = root @ root.t() + torch.eye(SIZE, dtype=torch.float64)
    b = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return a, b, lambda x: b - x @ a


def conjugate_ascent(num_steps, **rule):
    """Directions and the end of ascent with exact line search, no sign and no box."""
    a, _, gradient_at = quadratic()
    x = torch.zeros(1, SIZE, dtype=torch.float64)
    gradient = direction = gradient_at(x)
    directions, betas = [direction], []
    for _ in range(num_steps):
        length = (gradient * direction).sum() / (direction @ a @ direction.t()).sum()
        x = x + length * direction
        before, gradient = gradient, gradient_at(x)
        if len(directions) < num_steps:
            betas.append(conjugate_coefficient(gradient, before, direction, **rule))
            direction = gradient + betas[-1][:, None] * direction
            directions.append(direction)
    return torch.cat(directions), x, torch.cat(betas)


@pytest.mark.parametrize("beta", ["hs", "dy", "fr", "pr"])
def test_textbook_directions_are_conjugate_and_reach_the_maximum_in_n_steps(beta):
    a, b, _ = quadratic()
    directions, x, _ = conjugate_ascent(SIZE, beta=beta, sign="textbook")
    products = directions @ a @ directions.t()
    scale = products.diagonal().sqrt()
    off = products / scale[:, None] / scale - torch.eye(SIZE, dtype=torch.float64)
    assert off.abs().max() < 1e-6
    torch.testing.assert_close(x[0], torch.linalg.solve(a, b))


def test_the_official_sign_is_not_the_textbooks():
    a, b, _ = quadratic()
    _, x, _ = conjugate_ascent(SIZE, beta="hs", sign="official")
    assert (x[0] - torch.linalg.solve(a, b)).norm() > 1e-2


@pytest.mark.parametrize("beta", ["hs", "dy"])
def test_the_signs_are_opposite_for_the_rules_over_the_direction(beta):
    gradient, before, direction = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    official = conjugate_coefficient(gradient, before, direction, beta)
    torch.testing.assert_close(official, -conjugate_coefficient(gradient, before, direction, beta, "textbook"))


@pytest.mark.parametrize("beta", ["fr", "pr"])
def test_the_other_rules_have_one_sign(beta):
    gradient, before, direction = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    official = conjugate_coefficient(gradient, before, direction, beta)
    torch.testing.assert_close(official, conjugate_coefficient(gradient, before, direction, beta, "textbook"))


def test_with_exact_line_search_all_rules_agree():
    betas = [conjugate_ascent(SIZE, beta=beta, sign="textbook")[2] for beta in ("hs", "dy", "fr", "pr")]
    for other in betas[1:]:
        torch.testing.assert_close(other, betas[0])


def test_clamping_leaves_no_negative_beta():
    gradient, before, direction = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(2))
    free = conjugate_coefficient(gradient, before, direction)
    assert (free < 0).any()
    torch.testing.assert_close(conjugate_coefficient(gradient, before, direction, clamp=True), free.clamp(min=0))


@pytest.mark.parametrize("beta", ["hs", "dy", "fr", "pr"])
def test_a_flat_loss_starts_anew_along_the_gradient(beta):
    flat = torch.zeros(2, 4)
    assert conjugate_coefficient(flat, flat, flat, beta).tolist() == [0, 0]


def test_the_first_conjugate_move_goes_along_the_gradient():
    x, gradient = torch.full((2, 4), 0.5), torch.randn(2, 4)
    ball = BALLS["Linf"].around(x, 0.25)
    move = ConjugateMove.begin(gradient, "hs", "official", clamp=False)
    torch.testing.assert_close(move(x, gradient, torch.full((2,), 0.1), ball), x + 0.1 * gradient.sign())
    torch.testing.assert_close(move.direction, gradient)


def test_a_search_that_goes_back_takes_its_gradient_and_direction_along():
    ball = BALLS["Linf"].around(torch.full((2, 4), 0.5), 0.25)
    x, gradients = torch.full((2, 4), 0.5), torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(3))
    size = torch.full((2,), 0.01)
    move = ConjugateMove.begin(gradients[0], "hs", "official", clamp=False)
    x = move(x, gradients[0], size, ball)
    x = move(x, gradients[1], size, ball)
    kept = move.gradient, move.direction
    move.keep(torch.tensor([True, False]))
    x = move(x, gradients[2], size, ball)
    last = move.gradient, move.direction
    move.restore(torch.tensor([True, True]))
    for i, now in enumerate((move.gradient, move.direction)):
        torch.testing.assert_close(now[0], kept[i][0])
        torch.testing.assert_close(now[1], gradients[0][1])  # nothing was ever better than the start
        assert not torch.equal(now[0], last[i][0])


def test_momentum_by_hand():
    x = torch.full((1, 2), 0.5)
    ball, size = BALLS["Linf"].around(x, 0.4), torch.tensor([0.1])
    move = MomentumMove(momentum=0.75)
    first = move(x, torch.tensor([[1.0, -1.0]]), size, ball)
    torch.testing.assert_close(first, torch.tensor([[0.6, 0.4]]))  # the first step is whole
    second = move(first, torch.tensor([[-1.0, -1.0]]), size, ball)
    torch.testing.assert_close(second, torch.tensor([[0.6 - 0.075 + 0.025, 0.4 - 0.075 - 0.025]]))
