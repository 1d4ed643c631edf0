import argparse
import math

import pytest
import torch
import torch.nn.functional as F

from zoo.sgilo import MappingProxy, StyleGAN2, load_stylegan2
from zoo.sgilo.stylegan2 import Blur, ModulatedConv2d, Upsample

SMALL = {"size": 32, "style_dim": 16, "n_mlp": 3, "channels": {4: 8, 8: 8, 16: 6, 32: 4}}

# The layout of the public checkpoints, by hand, for the small network: names and shapes.
LAYOUT = {
    "style.1.weight": (16, 16),
    "style.1.bias": (16,),
    "style.2.weight": (16, 16),
    "style.2.bias": (16,),
    "style.3.weight": (16, 16),
    "style.3.bias": (16,),
    "input.input": (1, 8, 4, 4),
    "conv1.conv.weight": (1, 8, 8, 3, 3),
    "conv1.conv.modulation.weight": (8, 16),
    "conv1.conv.modulation.bias": (8,),
    "conv1.noise.weight": (1,),
    "conv1.activate.bias": (8,),
    "to_rgb1.bias": (1, 3, 1, 1),
    "to_rgb1.conv.weight": (1, 3, 8, 1, 1),
    "to_rgb1.conv.modulation.weight": (8, 16),
    "to_rgb1.conv.modulation.bias": (8,),
    "convs.0.conv.weight": (1, 8, 8, 3, 3),
    "convs.0.conv.blur.kernel": (4, 4),
    "convs.0.conv.modulation.weight": (8, 16),
    "convs.0.conv.modulation.bias": (8,),
    "convs.0.noise.weight": (1,),
    "convs.0.activate.bias": (8,),
    "convs.1.conv.weight": (1, 8, 8, 3, 3),
    "convs.1.conv.modulation.weight": (8, 16),
    "convs.1.conv.modulation.bias": (8,),
    "convs.1.noise.weight": (1,),
    "convs.1.activate.bias": (8,),
    "convs.2.conv.weight": (1, 6, 8, 3, 3),
    "convs.2.conv.blur.kernel": (4, 4),
    "convs.2.conv.modulation.weight": (8, 16),
    "convs.2.conv.modulation.bias": (8,),
    "convs.2.noise.weight": (1,),
    "convs.2.activate.bias": (6,),
    "convs.3.conv.weight": (1, 6, 6, 3, 3),
    "convs.3.conv.modulation.weight": (6, 16),
    "convs.3.conv.modulation.bias": (6,),
    "convs.3.noise.weight": (1,),
    "convs.3.activate.bias": (6,),
    "convs.4.conv.weight": (1, 4, 6, 3, 3),
    "convs.4.conv.blur.kernel": (4, 4),
    "convs.4.conv.modulation.weight": (6, 16),
    "convs.4.conv.modulation.bias": (6,),
    "convs.4.noise.weight": (1,),
    "convs.4.activate.bias": (4,),
    "convs.5.conv.weight": (1, 4, 4, 3, 3),
    "convs.5.conv.modulation.weight": (4, 16),
    "convs.5.conv.modulation.bias": (4,),
    "convs.5.noise.weight": (1,),
    "convs.5.activate.bias": (4,),
    "to_rgbs.0.bias": (1, 3, 1, 1),
    "to_rgbs.0.upsample.kernel": (4, 4),
    "to_rgbs.0.conv.weight": (1, 3, 8, 1, 1),
    "to_rgbs.0.conv.modulation.weight": (8, 16),
    "to_rgbs.0.conv.modulation.bias": (8,),
    "to_rgbs.1.bias": (1, 3, 1, 1),
    "to_rgbs.1.upsample.kernel": (4, 4),
    "to_rgbs.1.conv.weight": (1, 3, 6, 1, 1),
    "to_rgbs.1.conv.modulation.weight": (6, 16),
    "to_rgbs.1.conv.modulation.bias": (6,),
    "to_rgbs.2.bias": (1, 3, 1, 1),
    "to_rgbs.2.upsample.kernel": (4, 4),
    "to_rgbs.2.conv.weight": (1, 3, 4, 1, 1),
    "to_rgbs.2.conv.modulation.weight": (4, 16),
    "to_rgbs.2.conv.modulation.bias": (4,),
    "noises.noise_0": (1, 1, 4, 4),
    "noises.noise_1": (1, 1, 8, 8),
    "noises.noise_2": (1, 1, 8, 8),
    "noises.noise_3": (1, 1, 16, 16),
    "noises.noise_4": (1, 1, 16, 16),
    "noises.noise_5": (1, 1, 32, 32),
    "noises.noise_6": (1, 1, 32, 32),
}


def network(seed=0, **arguments):
    torch.manual_seed(seed)
    net = StyleGAN2(**{**SMALL, **arguments})
    for name, parameter in net.named_parameters():
        if name.endswith("noise.weight"):
            parameter.data.fill_(0.3)
    return net.eval().requires_grad_(False)


def codes(num=2):
    return torch.randn(num, 16, generator=torch.Generator().manual_seed(1))


def saved(folder, content):
    path = folder / "net.pt"
    torch.save(content, path)
    return path


def test_names_and_shapes_are_those_of_public_checkpoints():
    assert {name: tuple(value.shape) for name, value in network().state_dict().items()} == LAYOUT


@pytest.mark.parametrize(("size", "keys", "parameters"), [(1024, 171, 30_370_060), (256, 135, 30_034_338)])
def test_the_published_networks_have_their_number_of_keys_and_parameters(size, keys, parameters):
    with torch.device("meta"):
        net = StyleGAN2(size)
    assert (len(net.state_dict()), sum(p.numel() for p in net.parameters())) == (keys, parameters)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_at_every_split_prefix_and_suffix_make_up_the_whole(split):
    net = network()
    state = net.prefix(codes(), split)
    assert net.latent(state).shape[1:] == net.latent_shape(split)
    torch.testing.assert_close(net.suffix(state, split), net(codes()), rtol=0, atol=1e-5)
    for later in range(split, 4):
        torch.testing.assert_close(net.suffix(net.between(state, split, later), later), net(codes()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_without_the_skip_the_image_begins_anew_and_is_another_one(split):
    net = network(keep_skip=False)
    image = net.suffix(net.prefix(codes(), split), split)
    whole = network()
    skip = whole.prefix(codes(), split).skip
    for _ in range(4 - split):
        skip = Upsample()(skip)
    torch.testing.assert_close(image + skip, whole(codes()), rtol=0, atol=1e-5)
    assert skip.abs().mean() > 0.1


def test_a_moved_latent_changes_the_image_and_nothing_else_of_the_state():
    net = network()
    state = net.prefix(codes(), 2)
    moved = net.with_latent(state, net.latent(state) + 1)
    assert not torch.allclose(net.suffix(moved, 2), net.suffix(state, 2))
    assert all(one is other for one, other in zip(moved[1:], state[1:]))


def by_definition(conv, x, style):
    """A modulated convolution with a set of weights for each image, as the paper writes it down."""
    images = []
    for one, factor in zip(x, conv.modulation(style)):
        weight = conv.scale * conv.weight[0] * factor[None, :, None, None]
        if conv.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if conv.blur is None:
            images.append(F.conv2d(one, weight, padding=weight.shape[-1] // 2))
        else:  # zeros between the pixels, the weights turned around, then the filter
            between = torch.zeros(one.shape[0], 2 * one.shape[1] - 1, 2 * one.shape[2] - 1)
            between[:, ::2, ::2] = one
            large = F.conv2d(F.pad(between, (2, 2, 2, 2)), weight.flip(2, 3))
            padded = F.pad(large, (1, 1, 1, 1))
            line = torch.tensor([1.0, 3.0, 3.0, 1.0])
            smooth = torch.outer(line, line) / 16
            images.append(torch.stack([F.conv2d(channel[None], smooth[None, None])[0] for channel in padded]))
    return torch.stack(images)


@pytest.mark.parametrize(("size", "demodulate", "upsample"), [(3, True, False), (3, True, True), (1, False, False)])
def test_a_modulated_convolution_is_that_of_weights_for_each_image(size, demodulate, upsample):
    torch.manual_seed(0)
    conv = ModulatedConv2d(5, 7, size, 6, demodulate, upsample)
    x, style = torch.randn(3, 5, 4, 6), torch.randn(3, 6)
    torch.testing.assert_close(conv(x, style), by_definition(conv, x, style), rtol=1e-4, atol=1e-5)


def test_upsampling_is_zeros_between_the_pixels_and_the_filter():
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    between = torch.zeros(2, 3, 10, 8)
    between[:, :, ::2, ::2] = x
    padded = F.pad(between, (2, 1, 2, 1))
    upsample = Upsample()
    expected = F.conv2d(padded, upsample.kernel.flip(0, 1).expand(3, 1, 4, 4), groups=3)
    torch.testing.assert_close(upsample(x), expected)
    torch.testing.assert_close(upsample(torch.ones(1, 1, 6, 6))[..., 2:-2, 2:-2], torch.ones(1, 1, 8, 8))


def test_filters_that_are_not_symmetric_act_as_convolutions():
    kernel = torch.arange(16.0).view(4, 4)
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 1
    blur, upsample = Blur(), Upsample()
    blur.kernel.copy_(kernel)
    upsample.kernel.copy_(kernel)
    assert torch.equal(blur(x)[0, 0], F.pad(kernel, (1, 1, 1, 1))[1:-1, 1:-1])
    assert torch.equal(upsample(x)[0, 0, 3:7, 3:7], kernel)


def test_the_mapping_layer_is_that_of_the_weights_a_hundred_times_too_large():
    net = network()
    x = codes()
    expected = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
    for layer in (1, 2, 3):
        weight, bias = net.get_parameter(f"style.{layer}.weight"), net.get_parameter(f"style.{layer}.bias")
        before = expected @ (weight * 0.01 / math.sqrt(16)).mT + 0.01 * bias
        expected = math.sqrt(2) * torch.where(before > 0, before, 0.2 * before)
    torch.testing.assert_close(net.styles(x)[:, 5], expected)


def test_every_layer_takes_the_style_and_the_noise_of_its_place():
    """A change in a row of the styles, or in a noise, shows in the states from its block on, and only there."""
    net = network()
    styles = net.styles(codes())
    plain = {split: net.enter(styles, split) for split in (1, 2, 3)}
    for row in range(net.num_styles):
        changed = styles.clone()
        changed[:, row] += 1
        differs = [not torch.equal(net.enter(changed, split).feature, plain[split].feature) for split in (1, 2, 3)]
        # conv1 takes row 0; the block after split i takes rows 2 i - 1 and 2 i
        assert differs == [row == 0, row <= 2, row <= 4], row
    for layer in range(net.num_styles - 1):
        noises = [noise + 1 if i == layer else noise for i, noise in enumerate(net.noises.buffers())]
        state = [net.enter(styles, split, tuple(noises)) for split in (1, 2, 3)]
        differs = [not torch.equal(one.feature, plain[split].feature) for split, one in enumerate(state, start=1)]
        assert differs == [layer == 0, layer <= 2, layer <= 4], layer


def test_the_image_so_far_shares_its_style_with_the_next_layer():
    net = network()
    styles = net.styles(codes())
    changed = styles.clone()
    changed[:, 3] += 1
    assert not torch.equal(net.enter(changed, 2).skip, net.enter(styles, 2).skip)
    assert torch.equal(net.enter(changed, 1).skip, net.enter(styles, 1).skip)
    changed = styles.clone()
    changed[:, -1] += 1  # only of the last image
    assert torch.equal(net.enter(changed, 3).skip, net.enter(styles, 3).skip)
    assert not torch.equal(net.suffix(net.enter(changed, 3), 3), net.suffix(net.enter(styles, 3), 3))


def test_truncation_goes_towards_the_mean_style():
    net = network()
    with pytest.raises(ValueError, match=r"truncation must be 1 where latent_avg is not known, got 0\.5"):
        net.styles(codes(), truncation=0.5)
    net.latent_avg = torch.full((16,), 2.0)
    torch.testing.assert_close(net.styles(codes(), 0.25), 2 + 0.25 * (net.styles(codes()) - 2))


def test_the_proxy_has_the_moments_of_the_mapping_before_its_last_activation():
    net = network()
    generator = torch.Generator().manual_seed(0)
    proxy = MappingProxy.fit(net.style, latent_dim=16, num_draws=20_000, generator=generator)
    before = F.leaky_relu(net.style(codes(20_000)), 5.0)
    drawn = F.leaky_relu(proxy(torch.randn(20_000, 16, generator=generator)), 5.0)
    for values in (before, drawn):
        torch.testing.assert_close(values.mean(0), proxy.mean, rtol=0, atol=0.05 * proxy.std.max().item())
        torch.testing.assert_close(values.std(0), proxy.std, rtol=0.05, atol=0)


def test_a_checkpoint_is_read_with_its_layout_and_mean_style(tmp_path):
    net = network()
    args = argparse.Namespace(size=32, latent=16)  # as training leaves it
    path = saved(tmp_path, {"g_ema": net.state_dict(), "latent_avg": torch.ones(16), "args": args})
    read = load_stylegan2(path)
    assert (read.size, read.latent_dim, read.channels) == (32, 16, SMALL["channels"])
    assert torch.equal(read(codes()), net(codes()))
    assert torch.equal(read.latent_avg, torch.ones(16))
    assert not read.training


def test_a_checkpoint_of_the_written_layout_is_read_whoever_made_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in LAYOUT.items()}
    read = load_stylegan2(saved(tmp_path, {"g_ema": state}))
    assert all(torch.equal(value, state[name]) for name, value in read.state_dict().items())
    assert read.latent_avg is None


def test_noises_and_filters_may_be_lacking_and_are_made_anew(tmp_path):
    net = network()
    state = {name: value for name, value in net.state_dict().items() if "noises" not in name and "kernel" not in name}
    read = load_stylegan2(saved(tmp_path, {"g_ema": state}))
    torch.testing.assert_close(read.convs[0].conv.blur.kernel, net.convs[0].conv.blur.kernel)
    assert read(codes()).isfinite().all()


def changed(**changes):
    """The layout with some keys of another shape, or without them."""
    shapes = {**LAYOUT, **{name.replace("__", "."): shape for name, shape in changes.items()}}
    return {"g_ema": {name: torch.zeros(shape) for name, shape in shapes.items() if shape is not None}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"generator": {}, "d": {}}, r"must hold a generator under g_ema, got the keys generator, d \(2 in all\)"),
        ([1, 2], "must hold a generator under g_ema, got a list"),
        (
            {"synthesis.b4.conv1.weight": torch.zeros(1), "mapping.fc0.weight": torch.zeros(1)},
            "must hold a generator under g_ema, got .* layout of NVIDIA's own code",
        ),
        (
            {"g_ema": {"synthesis.b4.const": torch.zeros(1), "mapping.fc0.weight": torch.zeros(1)}},
            "g_ema must have input.input, style.1.weight, got .* layout of NVIDIA's own code",
        ),
        ({"g_ema": {}}, "g_ema must have input.input, style.1.weight, got no keys"),
        ({"g_ema": [torch.zeros(1)]}, "g_ema must be a state dict, got list"),
        (
            changed(convs__1__conv__weight=None, convs__3__activate__bias=None),
            r"does not fit StyleGAN2; missing: convs.1.conv.weight, convs.3.activate.bias \(2 in all\)",
        ),
        (changed(extra__weight=(3,)), r"unknown: extra.weight \(1 in all\)"),
        (
            changed(convs__1__conv__modulation__weight=(8, 17)),
            r"of another shape: convs.1.conv.modulation.weight is \(8, 17\) in place of \(8, 16\)",
        ),
        (changed(noises__noise_6=(1, 1, 33, 33)), "noises.noise_6 is .* in place of"),
        (changed(convs__2__conv__weight=None), "g_ema must have convs.2.conv.weight"),
        (changed() | {"latent_avg": torch.zeros(3)}, r"latent_avg must be of shape \(16,\), got \(3,\)"),
    ],
)
def test_checkpoints_of_another_layout_are_refused_with_the_first_keys_that_differ(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_stylegan2(saved(tmp_path, content))


class Planted:
    """What a file may hold to run code when it is read."""

    def __reduce__(self):
        return (open, ("planted", "w"))


def test_a_file_that_would_run_code_is_not_read(tmp_path, workplace):
    path = saved(tmp_path, {"g_ema": {}, "more": Planted()})
    (workplace / "planted").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="must be a file of tensors; it is not read, as other contents could run"):
        load_stylegan2(path)
    assert not (workplace / "planted").exists()


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("empty.pt", "text.pt"):
        with pytest.raises(ValueError, match="must be a file of tensors"):
            load_stylegan2(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_stylegan2(tmp_path / "missing.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 24}, "size must be a power of two, at least 8, got 24"),
        ({"size": 4}, "size must be a power of two, at least 8, got 4"),
        ({"style_dim": 0}, "style_dim must be at least 1, got 0"),
        ({"n_mlp": 0}, "n_mlp must be at least 1, got 0"),
        ({"channels": {4: 8, 8: 8, 32: 4}}, r"channels must be at least 1 at every resolution, got none at \[16\]"),
    ],
)
def test_networks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StyleGAN2(**{**SMALL, **arguments})


def test_styles_and_noises_must_be_as_many_as_there_are_layers():
    net = network()
    with pytest.raises(ValueError, match=r"styles must be \(B, 8, 16\), got \(2, 7, 16\)"):
        net.enter(torch.zeros(2, 7, 16), 1)
    with pytest.raises(ValueError, match="noises must be 7, one for each layer, got 1"):
        net.enter(torch.zeros(2, 8, 16), 1, (torch.zeros(1, 1, 4, 4),))
