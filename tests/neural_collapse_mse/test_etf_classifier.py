from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.neural_collapse import neural_collapse
from zoo.backbones import build_backbone
from zoo.neural_collapse_mse import ETFClassifier, ETFLinear, NarrowResNet, RescaledMSELoss, simplex_etf


def trained_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 1), (2, 2), (4, 3), (4, 9), (100, 99), (100, 512)])
def test_a_simplex_etf_has_unit_rows_and_equal_angles(num_classes, num_features):
    etf = simplex_etf(num_classes, num_features)
    expected = (torch.eye(num_classes) * num_classes - 1) / (num_classes - 1)
    torch.testing.assert_close(etf @ etf.T, expected, atol=1e-5, rtol=0)


def test_it_lies_along_the_first_coordinates_so_that_it_suits_features_after_a_relu():
    etf = simplex_etf(4, 6)
    assert (etf[:, 4:] == 0).all()
    assert (etf[:, :4].diagonal() > 0).all()
    best = etf.relu()  # non-negative features, each along its own row's positive part
    assert (best @ etf.T).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_features_on_the_frame_are_collapsed_by_the_metric_for_networks():
    etf = simplex_etf(10, 16).double()
    found = neural_collapse(etf.repeat(3, 1), torch.arange(10).repeat(3), etf)
    assert max(found[name].item() for name in ("nc1", "nc2_features", "nc2_classifier", "nc3")) < 1e-6


def test_a_frozen_layer_keeps_its_weights_under_weight_decay_and_trains_its_bias():
    torch.manual_seed(0)
    layer = ETFLinear(6, 4)
    before = layer.weight.clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
    layer(torch.randn(5, 6)).square().sum().backward()
    layer(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)
    assert (layer.bias != 0).all()
    assert ETFLinear(6, 4, trainable=True).weight.requires_grad
    assert ETFLinear(6, 4, bias=False).bias is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 4), "num_classes must be at least 2, got 1"),
        ((4, 2), "num_features must be at least 3 for 4 classes, got 2"),
    ],
)
def test_frames_that_there_are_not_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simplex_etf(*arguments)


def test_ten_features_save_a_fifth_of_a_resnet18():
    whole, narrow = build_backbone("resnet18", 10, (3, 32, 32), None), NarrowResNet(10, feature_dim=10)
    assert trained_parameters(whole) == 11_173_962
    assert trained_parameters(narrow) == 11_173_962 - 2_365_450 + 51_350
    assert narrow.features(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_narrow_resnet_works_where_the_last_stage_has_one_block_that_halves_the_image():
    net = NarrowResNet(4, (1, 16, 16), feature_dim=3, depths=[1, 1], widths=[8, 16], head_bias=False)
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, 4)
    assert net.head.bias is None
    with pytest.raises(ValueError, match="feature_dim must be at least 1, got 0"):
        NarrowResNet(4, feature_dim=0)


def classifier(**arguments):
    torch.manual_seed(0)
    options = {"input_shape": (1, 4, 4), "backbone": "mlp", "backbone_args": {"hidden_channels": [8]}}
    return ETFClassifier(3, **options, criterion=RescaledMSELoss(3), **arguments)


def test_a_classifier_has_a_frozen_head_with_or_without_bias():
    model = classifier()
    assert isinstance(model.head, ETFLinear)
    torch.testing.assert_close(model.head.weight, simplex_etf(3, 8))
    options = {"backbone": "mlp", "backbone_args": {"hidden_channels": [8], "head_bias": False}}
    assert ETFClassifier(3, input_shape=(1, 4, 4), **options).head.bias is None
    assert type(classifier(frozen=False).head) is nn.Linear


def test_too_few_features_for_the_frame_are_refused():
    with pytest.raises(ValueError, match="num_features must be at least 9 for 10 classes, got 8"):
        ETFClassifier(10, input_shape=(1, 4, 4), backbone="mlp", backbone_args={"hidden_channels": [8]})
    with pytest.raises(ValueError, match=r"l2 must be >= 0, got -1.0"):
        classifier(l2=-1.0)


def test_the_decay_in_the_loss_is_the_optimizers_on_all_that_is_trained():
    x, y = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
    models = [classifier(l2=0.3), classifier()]
    decays = [0.0, 0.3]
    for model, decay in zip(models, decays):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
        model.loss(model(x), (x, y)).backward()
        optimizer.step()
    for mine, theirs in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(mine, theirs)
    models[0].eval()
    torch.testing.assert_close(models[0].loss(models[0](x), (x, y)), models[0].criterion(models[0](x), y))


@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_a_classifier_is_fitted_and_resumed_with_its_frozen_head(l2, tmp_path):
    x, y = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(2)), torch.arange(12) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)

    def fit(epochs, **options):
        model = classifier(l2=l2, optimizer=optimizer)
        trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, **quiet)
        trainer.fit(model, loader, **options)
        return trainer, model

    trainer, _ = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = fit(3, ckpt_path=tmp_path / "half.ckpt")
    _, whole = fit(3)
    for mine, theirs in zip(resumed.parameters(), whole.parameters()):
        assert torch.equal(mine, theirs)
    assert torch.equal(whole.head.weight, simplex_etf(3, 8))
