"""In evaluation the weight is computed once, and never shown when it is out of date."""

import copy

import pytest
import torch

from zoo.paraunitary_conv import OrthogonalConv2d, OrthogonalLinear, SeparableParaunitary


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return OrthogonalConv2d(4, 4, 3).eval()


@pytest.fixture
def computed(monkeypatch):
    """How often a weight was computed."""
    calls = []
    forward = SeparableParaunitary.forward
    monkeypatch.setattr(SeparableParaunitary, "forward", lambda *args: calls.append(1) or forward(*args))
    return calls


X = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))


def expected(layer, x=X):
    """What a layer without any memory computes."""
    return copy.deepcopy(layer).train()(x)


def change_in_place(layer):
    with torch.no_grad():
        layer.parametrizations.weight.original1.add_(0.5)


def step(layer):
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(X).square().sum().backward()
    layer.parametrizations.weight.original0.grad = torch.ones_like(layer.parametrizations.weight.original0).tril()
    optimizer.step()


def load(layer, **options):
    torch.manual_seed(1)
    layer.load_state_dict(OrthogonalConv2d(4, 4, 3).state_dict(), **options)


def train_and_back(layer):
    layer.train()
    for parameter in layer.parameters():
        parameter.data.add_(0.5)
    layer.eval()


def halve_and_back(layer):
    layer.half().float()


CHANGES = [change_in_place, step, load, lambda layer: load(layer, assign=True), train_and_back, halve_and_back]


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_no_change_goes_unseen(layer, change):
    before = layer(X)
    with torch.enable_grad():
        change(layer)
    after = layer(X)
    assert after.equal(expected(layer))
    assert not after.equal(before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_computed_once_without_gradients(layer, computed, mode):
    with mode():
        first, second = layer(X), layer(X)
    assert len(computed) == 1
    assert first.equal(second)


def test_it_is_computed_once_when_only_the_input_wants_a_gradient(layer, computed):
    layer.requires_grad_(False)
    with torch.inference_mode():
        layer(X)
    x = X.clone().requires_grad_()
    layer(x).sum().backward()  # with the weight that was computed in inference mode
    assert x.grad is not None
    assert len(computed) == 1


def test_parameters_that_want_a_gradient_get_it_in_evaluation(layer):
    with torch.no_grad():
        layer(X)
    layer(X).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_training_keeps_nothing(layer, computed):
    layer.train()
    with torch.no_grad():
        layer(X), layer(X)
    assert len(computed) == 2


@torch.no_grad()
def test_functional_calls_use_the_tensors_they_are_given(layer):
    layer(X)
    name = "parametrizations.weight.original1"
    for scale in (2.0, 3.0):
        value = layer.state_dict()[name] * scale
        found = torch.func.functional_call(layer, {name: value}, X)
        changed = copy.deepcopy(layer)
        changed.parametrizations.weight.original1.copy_(value)
        assert found.equal(expected(changed))
    assert layer(X).equal(expected(layer))


@torch.no_grad()
def test_a_copy_keeps_its_own(layer):
    layer(X)
    other = copy.deepcopy(layer)
    change_in_place(other)
    assert other(X).equal(expected(other))
    assert layer(X).equal(expected(layer))


@torch.no_grad()
def test_a_linear_layer_remembers_too(computed):
    layer = OrthogonalLinear(4, 3).eval()
    computed.clear()  # torch tries a parametrization when it is registered
    x = torch.randn(2, 4)
    assert layer(x).equal(layer(x))
    assert len(computed) == 1
