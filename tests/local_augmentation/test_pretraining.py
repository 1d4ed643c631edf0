import pytest
import pytorch_lightning as pl
import torch

from zoo.local_augmentation import (
    GeneratorPretraining,
    GeneratorSelection,
    NeighborCVAE,
    NeighborCVAEModule,
    NeighborPairDataModule,
)

TINY = {"hidden_channels": 16, "latent_dim": 4, "max_epochs": 3, "batch_size": 32}
QUIET = {"enable_progress_bar": False}


@pytest.fixture
def tiny(tmp_path):
    return lambda **options: GeneratorPretraining(**(TINY | {"cache_dir": str(tmp_path / "cache")} | options))


def test_pairs_cover_every_edge_once_an_epoch(data):
    module = NeighborPairDataModule(data.edge_index, torch.eye(data.num_nodes), batch_size=32)
    batches = list(module.train_dataloader())
    neighbour, centre = (torch.cat(part).argmax(1) for part in zip(*batches))
    seen = set(zip(centre.tolist(), neighbour.tolist()))
    assert seen == set(zip(*data.edge_index.tolist()))
    assert len(centre) == data.edge_index.shape[1]
    assert [len(batch[0]) for batch in batches[:-1]] == [32] * (len(batches) - 1)


def test_training_lowers_the_loss(data, tiny):
    trained = tiny(criterion="last", max_epochs=20).fit(data, **QUIET)
    neighbour, centre = data.raw_x[data.edge_index[1]], data.raw_x[data.edge_index[0]]
    torch.manual_seed(0)
    before, after = (sum(cvae.elbo(neighbour, centre).values()) for cvae in (NeighborCVAE(20, 16, 4), trained))
    assert after < before - 2  # nats per pair


def test_further_callbacks_see_the_training(data, tiny):
    watcher = pl.callbacks.LambdaCallback(on_train_end=lambda trainer, module: seen.append(trainer.global_step))
    seen = []
    tiny(criterion="last").fit(data, callbacks=[watcher], **QUIET)
    assert seen == [3 * -(-data.num_edges // 32)]


def test_the_seed_fixes_the_generator_and_the_global_randomness_is_untouched(data, tiny):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = tiny(seed=1).fit(data, **QUIET).state_dict()
    assert torch.rand(1) == expected
    again, other = tiny(seed=1).fit(data, **QUIET).state_dict(), tiny(seed=2).fit(data, **QUIET).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["output.weight"], other["output.weight"])


def selected(data, **options):
    """Fit with a selection, and return it with the weights seen at each look."""
    seen = {}

    class Watched(GeneratorSelection):
        def _look(self, cvae, step):
            seen[step] = {name: value.clone() for name, value in cvae.state_dict().items()}
            return super()._look(cvae, step)

    selection = Watched(data, **({"every_n_steps": 5, "mc_samples": 3, "warmup_steps": 10} | options))
    torch.manual_seed(0)
    module = NeighborCVAEModule(NeighborCVAE(20, 16, 4))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=4, callbacks=[selection], **QUIET, **quiet)
    trainer.fit(module, datamodule=NeighborPairDataModule(data.edge_index, data.raw_x, 32))
    return selection, seen, module.cvae.state_dict(), trainer.global_step


@pytest.mark.parametrize("criterion", ["bald", "ce_gap"])
def test_the_generator_of_the_best_score_after_the_warmup_is_kept(data, criterion):
    selection, seen, final, _ = selected(data, criterion=criterion)
    best_so_far, expected = float("-inf"), None
    for step, score in selection.scores:  # the rule, told again: a record counts during the warm-up too
        if score > best_so_far:
            best_so_far = score
            expected = step if step > 10 else expected
    assert selection.selected_step == expected
    kept = seen[expected] if expected else None
    if kept:
        assert all(torch.equal(final[name], kept[name]) for name in final)
    assert [step for step, _ in selection.scores] == list(range(5, selection.scores[-1][0] + 1, 5))


def test_without_a_qualifying_step_the_last_generator_stays(data):
    late, _, final, steps = selected(data, criterion="bald", warmup_steps=10**6)
    last, _, expected, _ = selected(data, criterion="last")
    assert late.selected_step is None
    assert len(late.scores) == steps // 5
    assert last.scores == []
    assert all(torch.equal(final[name], expected[name]) for name in final)  # looking did not change the training


def test_a_finished_generator_is_reused_and_its_training_kept(data, tiny, monkeypatch):
    config = tiny()
    first = config.obtain(data, **QUIET)
    folder = config.folder(data)
    assert sorted(path.name for path in folder.iterdir()) >= ["config.json", "generator.pt", "metrics.csv"]
    assert "selection_score" not in (folder / "metrics.csv").read_text() or config.every_n_steps <= 25
    assert "loss" in (folder / "metrics.csv").read_text().splitlines()[0]
    monkeypatch.setattr(GeneratorPretraining, "fit", lambda *_, **__: pytest.fail("trained again"))
    second = tiny().obtain(data, **QUIET)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_configuration_or_graph_is_another_generator(data, tiny):
    other = data.clone()
    other.raw_x = 1 - data.raw_x
    folders = {tiny().folder(data), tiny(seed=1).folder(data), tiny(lr=0.02).folder(data), tiny().folder(other)}
    assert len(folders) == 4
    assert tiny().folder(data) == tiny().folder(data.clone())


def test_a_broken_cache_is_replaced_with_a_warning(data, tiny):
    config = tiny(max_epochs=1)
    config.obtain(data, **QUIET)
    path = config.folder(data) / "generator.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read"):
        config.obtain(data, **QUIET)
    assert "output.weight" in torch.load(path, weights_only=True)


def test_an_interrupted_training_leaves_nothing_in_the_cache(data, tiny, monkeypatch):
    config = tiny()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(NeighborCVAE, "elbo", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        config.obtain(data, **QUIET)
    assert not config.folder(data).exists()


def test_features_outside_the_unit_interval_need_a_gaussian(data, tiny):
    data.raw_x = data.raw_x * 3
    with pytest.raises(ValueError, match=r"'bernoulli' needs raw features in \[0, 1\], got values in \[0, 3\]"):
        tiny().fit(data, **QUIET)
    tiny(likelihood="gaussian", max_epochs=1).fit(data, **QUIET)


def test_an_isolated_node_is_generated_for_though_it_has_no_pair(data, tiny):
    keep = (data.edge_index != 5).all(dim=0)
    data.edge_index = data.edge_index[:, keep]
    generated = tiny(max_epochs=1).fit(data, **QUIET).generate(data.raw_x)
    assert torch.isfinite(generated[0, 5]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "best"}, "criterion must be 'bald', 'ce_gap' or 'last', got 'best'"),
        ({"every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"mc_samples": 0}, "mc_samples must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"update_steps": -1}, "update_steps must be at least 0"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"likelihood": "poisson"}, "likelihood must be"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GeneratorPretraining(**options)
