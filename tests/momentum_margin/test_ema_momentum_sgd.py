import copy
import math

import pytest
import torch

from zoo.momentum_margin import EMAMomentumSGD, heavy_ball_lr


def descend(make, steps=50, start=(1.0, -2.0, 3.0), dtype=torch.float64):
    """Where an optimizer comes to on a crooked bowl, step by step."""
    w = torch.nn.Parameter(torch.tensor(start, dtype=dtype))
    optimizer = make([w])
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        (torch.tensor([1.0, 0.3, 0.05], dtype=dtype) * w**2 + 0.1 * w**4).sum().backward()
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def test_a_step_by_hand():
    w = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = EMAMomentumSGD([w], lr=0.5, momentum=0.75)
    for grad, expected in ((4.0, 1 - 0.5 * 1.0), (0.0, 0.5 - 0.5 * 0.75)):
        w.grad = torch.tensor([grad])
        optimizer.step()
        assert w.item() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [0.1, 0.03, 1 / 3])
def test_momentum_zero_is_gradient_descent_bit_for_bit(lr, dtype):
    ours = descend(lambda params: EMAMomentumSGD(params, lr=lr, momentum=0.0), dtype=dtype)
    theirs = descend(lambda params: torch.optim.SGD(params, lr=lr), dtype=dtype)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_the_heavy_ball_at_a_smaller_rate(nesterov, weight_decay):
    options = {"nesterov": nesterov, "weight_decay": weight_decay}
    ours = descend(lambda params: EMAMomentumSGD(params, lr=0.2, momentum=0.9, **options))
    theirs = descend(lambda params: torch.optim.SGD(params, lr=heavy_ball_lr(0.2, 0.9), momentum=0.9, **options))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_it_is_not_the_dampened_form_which_takes_the_first_gradient_whole():
    ours = descend(lambda params: EMAMomentumSGD(params, lr=0.01, momentum=0.9), steps=1)
    theirs = descend(lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, dampening=0.9), steps=1)
    start = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(theirs - start, 10 * (ours - start))


def test_to_heavy_ball_goes_on_from_the_same_state():
    def half_way(convert):
        def make(params):
            optimizer = EMAMomentumSGD(params, lr=0.1, momentum=0.9, nesterov=True)
            steps = iter(range(100))

            class Switching:
                now = optimizer

                def zero_grad(self):
                    if convert and next(steps) == 20:
                        self.now = optimizer.to_heavy_ball()
                    self.now.zero_grad()

                def step(self):
                    self.now.step()

            return Switching()

        return descend(make)

    torch.testing.assert_close(half_way(True), half_way(False), rtol=1e-10, atol=1e-12)


def test_models_with_rates_of_their_own_move_as_each_alone():
    lr, momentum = torch.tensor([[0.1, 0.2], [0.3, 0.05]]), torch.tensor([[0.0, 0.5], [0.9, 0.99]])
    grads = torch.randn(5, 2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    for nesterov in (False, True):
        together = torch.nn.Parameter(torch.zeros(2, 2, 3, 4))
        optimizer = EMAMomentumSGD([together], lr, momentum, nesterov)
        for grad in grads:
            together.grad = grad
            optimizer.step()
        for i in range(2):
            for j in range(2):
                alone = torch.nn.Parameter(torch.zeros(3, 4))
                single = EMAMomentumSGD([alone], lr[i, j].item(), momentum[i, j].item(), nesterov)
                for grad in grads:
                    alone.grad = grad[i, j]
                    single.step()
                torch.testing.assert_close(together[i, j], alone)


def test_a_state_that_was_saved_goes_on_bit_for_bit():
    w = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = EMAMomentumSGD([w], lr=torch.tensor([0.1, 0.2]), momentum=0.9)
    grads = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    for grad in grads[:3]:
        w.grad = grad
        optimizer.step()
    other = torch.nn.Parameter(w.detach().clone())
    resumed = EMAMomentumSGD([other])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for grad in grads[3:]:
        for param, one in ((w, optimizer), (other, resumed)):
            param.grad = grad
            one.step()
    assert torch.equal(w, other)


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    w = torch.nn.Parameter(torch.tensor(2.0))
    optimizer = EMAMomentumSGD([w], lr=0.5, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = w**2 / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert w.item() == 1.0


def test_parameters_without_gradients_stay():
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    used.grad = torch.ones(2)
    EMAMomentumSGD([used, unused], lr=0.5, momentum=0.5).step()
    assert used.tolist() == [0.75, 0.75]
    assert unused.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0 and finite, got 0.0"),
        ({"lr": math.nan}, "lr must be > 0 and finite, got nan"),
        ({"lr": math.inf}, "lr must be > 0 and finite, got inf"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\), got -0.1"),
        ({"momentum": torch.tensor([0.5, math.nan])}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EMAMomentumSGD([torch.nn.Parameter(torch.ones(1))], **options)


def test_options_of_a_group_are_checked_too():
    with pytest.raises(ValueError, match="lr must be > 0"):
        EMAMomentumSGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": -1.0}])


def test_many_rates_have_no_heavy_ball():
    optimizer = EMAMomentumSGD([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match="lr and momentum must be numbers for a heavy ball"):
        optimizer.to_heavy_ball()
