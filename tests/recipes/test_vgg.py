"""Weights of VGG: from torchvision's file, Keras' ONNX, the cache; and files that are others."""

import pickle
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from normwise.errors import NormError
from normwise.recipes.images.vgg import CHANNELS, CONVOLUTIONS, FILES, VGG, load_vgg


def state_dict(kind, seed=0):
    """Made-up weights of the right names and shapes, as torchvision's file has them."""
    generator = torch.Generator().manual_seed(seed)
    state, inputs, place = {}, 3, 0
    for outputs, count in zip(CHANNELS, CONVOLUTIONS[kind], strict=True):
        for _ in range(count):
            weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
            state[f"features.{place}.weight"] = weight * (2 / (9 * inputs)) ** 0.5
            state[f"features.{place}.bias"] = torch.randn(outputs, generator=generator) * 0.1
            inputs, place = outputs, place + 2
        place += 1
    state["classifier.0.weight"] = torch.zeros(4, 4)
    return state


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state_dict("vgg19"), path)
    return path


def plain(kind, state):
    """The network as torchvision stacks it, without names."""
    layers, inputs = [], 3
    for outputs, count in zip(CHANNELS, CONVOLUTIONS[kind], strict=True):
        for _ in range(count):
            layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU()]
            inputs = outputs
        layers.append(torch.nn.MaxPool2d(2))
    network = torch.nn.ModuleDict({"features": torch.nn.Sequential(*layers)})
    network.load_state_dict({k: v for k, v in state.items() if k.startswith("features")})
    return network["features"]


# Where torchvision's stack has each layer, as the literature counts them.
PLACES = {
    "vgg19": {"relu1_1": 1, "conv2_1": 5, "conv4_2": 21, "relu4_2": 22, "relu5_4": 35, "pool5": 36},
    "vgg16": {"relu1_2": 3, "pool2": 9, "relu3_3": 15, "relu5_1": 25, "conv5_3": 28},
}


@pytest.mark.parametrize("kind", FILES)
def test_layers_are_those_of_torchvisions_stack(kind, tmp_path):
    torch.save(state_dict(kind), tmp_path / "weights.pth")
    network = load_vgg(tmp_path / "weights.pth")
    assert network.kind == kind
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    features = network(x, list(PLACES[kind]))
    assert list(features) == list(PLACES[kind])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (x - mean[:, None, None]) / deviation[:, None, None]
    stack = plain(kind, state_dict(kind))
    for name, place in PLACES[kind].items():
        assert torch.allclose(features[name], stack[: place + 1](expected), atol=1e-4), name


def keras_file(path, state, wrong=False):
    """An ONNX file of convolutions as Keras names them; blue first, levels up to 255."""
    names = [name for name in VGG("vgg16").layers() if name.startswith("conv")]
    places = [name.removesuffix(".weight") for name, t in state.items() if t.dim() == 4]
    tensors = []
    for name, place in zip(names, places, strict=True):
        keras = f"net/{name.replace('conv', 'block').replace('_', '_conv')}_1"
        weight = state[f"{place}.weight"].numpy()
        if name == "conv1_1":
            weight = np.ascontiguousarray(weight[:, ::-1])
        tensors.append(numpy_helper.from_array(weight, f"{keras}/convolution/ReadVariableOp:0"))
        if not wrong:
            bias = state[f"{place}.bias"].numpy()
            tensors.append(numpy_helper.from_array(bias, f"{keras}/Squeeze:0"))
    onnx.save(helper.make_model(helper.make_graph([], "vgg", [], [], tensors)), path)


def test_weights_for_blue_green_red_up_to_255_take_the_same_picture(tmp_path):
    state = {name: t for name, t in state_dict("vgg16").items() if name.startswith("features")}
    keras_file(tmp_path / "keras.onnx", state)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = load_vgg(tmp_path / "keras.onnx")(x, ["relu2_1"])["relu2_1"]
    shifted = x * 255 - torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    expected = plain("vgg16", state)[:7](shifted)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_average_pooling(vgg19):
    x = torch.rand(1, 3, 32, 32)
    network = load_vgg(vgg19, pooling="average")
    features = network(x, ["relu1_2", "pool1"])
    mean = torch.nn.functional.avg_pool2d(features["relu1_2"], 2)
    assert torch.equal(features["pool1"], mean)


def test_weights_do_not_change_and_the_picture_gets_a_gradient(vgg19):
    network = load_vgg(vgg19)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(x, ["relu4_1"])["relu4_1"].sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", FILES.values())
def test_the_hub_cache_is_looked_into(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state_dict(name[:5]), tmp_path / "hub" / "checkpoints" / name)
    assert load_vgg().kind == name[:5]


def test_a_download_that_fails_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(NormError) as refused:
        load_vgg()
    folder = tmp_path / "hub" / "checkpoints"
    assert str(refused.value).startswith(
        "VGG-19's weights are not here and could not be downloaded"
    )
    assert f"/{FILES['vgg19']} and put it into {folder}, or" in str(refused.value)
    assert list(folder.iterdir()) == []


def missing(state):
    return {name: t for name, t in state.items() if name != "features.2.bias"}


def other_shape(state):
    return {**state, "features.5.weight": torch.zeros(128, 64, 1, 1)}


def with_batch_norms(state):
    return {f"features.{2 * i}.weight": torch.zeros(64) for i in range(5)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (missing, "features.2.bias is missing, and vgg19 has (64,) there; VGG-19 is wanted"),
        (other_shape, "features.5.weight is (128, 64, 1, 1), and vgg19 has (128, 64, 3, 3) there"),
        (with_batch_norms, "has 0 convolutions features.0.weight and so on; VGG-19 is wanted"),
        (lambda state: list(state.values())[-1:], "holds no state dict, a tensor for each name"),
        (lambda state: state["classifier.0.weight"], "holds no state dict, a tensor for each name"),
        (lambda state: {"features": print}, "is no state dict of torch that can be read"),
    ],
)
def test_a_file_of_other_weights_gets_a_sentence(tmp_path, change, sentence):
    path = tmp_path / "weights.pth"
    torch.save(change(state_dict("vgg19")), path)
    check_refused(path, sentence)


class Attack:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return (warnings.warn, ("code of the file ran",))


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights", pickle.dumps(Attack()), pickle.dumps({"a": 1})],
    ids=["empty", "text", "code", "pickle"],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.onnx"])
def test_a_file_that_is_no_weights_gets_a_sentence_and_runs_nothing(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    check_refused(tmp_path / name, "")


def test_half_a_file(tmp_path, vgg19):
    whole = vgg19.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    check_refused(tmp_path / "half.pth", "is no state dict of torch that can be read, or not whole")


def test_an_onnx_file_without_biases(tmp_path):
    state = {name: t for name, t in state_dict("vgg16").items() if name.startswith("features")}
    keras_file(tmp_path / "a.onnx", state, wrong=True)
    check_refused(tmp_path / "a.onnx", "features.0.bias is missing")


def check_refused(path, sentence):
    with pytest.raises(NormError) as refused:
        load_vgg(path)
    assert str(refused.value).startswith(str(path))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert FILES["vgg19"] in str(refused.value)


def test_words_that_are_not_known(tmp_path):
    with pytest.raises(NormError, match="there is no file"):
        load_vgg(tmp_path / "none.pth")
    with pytest.raises(NormError, match="there is no network 'vgg11'; write one of vgg19, vgg16"):
        VGG("vgg11")
    with pytest.raises(NormError, match='pooling is "max" or "average", received \'min\''):
        VGG(pooling="min")
    with pytest.raises(NormError, match=r"vgg19 has no layer 'relu6_1'; write relu1_1 or conv4_2"):
        VGG()(torch.rand(1, 3, 32, 32), ["relu6_1"])
