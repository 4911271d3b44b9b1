"""The convolutions of VGG-16 and VGG-19, by the names of the literature: features of pictures.

Layers are `conv1_1`, `relu1_1`, … and `pool1`, …; the number before the line counts the blocks,
which poolings part, the number after it the convolutions in one.
"""

from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normwise.errors import NormError, one_line
from normwise.recipes.images.weights import read_onnx, read_torch

CHANNELS = (64, 128, 256, 512, 512)  # of the blocks
CONVOLUTIONS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}  # in each block
FILES = {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth"}  # as torchvision calls them
HOST = "https://download.pytorch.org/models"
# Of red, green and blue over ImageNet, 0 to 1: what torchvision's weights were trained with, and
# what those of Caffe and Keras were, which take 0 to 255, in the order blue, green, red.
_TORCH = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)


class VGG(nn.Module):
    """Features of pictures at named layers, and the weights never change.

    kind     "vgg19" or "vgg16"
    pooling  "max", as trained, or "average"

    Shapes
        x    (N, 3, H, W) float32, red, green, blue from 0 to 1
        out  for each name (N, C, H / 2ᵇ, W / 2ᵇ), b poolings later

    Source: Simonyan and Zisserman 2014, arXiv:1409.1556.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: str = "vgg19", pooling: str = "max") -> None:
        super().__init__()
        if kind not in CONVOLUTIONS:
            raise NormError(f"there is no network {kind!r}; write one of {', '.join(CONVOLUTIONS)}")
        if pooling not in ("max", "average"):
            raise NormError(f'pooling is "max" or "average", received {pooling!r}')
        self.kind, self.pooling = kind, pooling
        self.convolutions = nn.ModuleDict()
        inputs = 3
        for block, outputs in enumerate(CHANNELS, 1):
            for place in range(1, CONVOLUTIONS[kind][block - 1] + 1):
                self.convolutions[f"conv{block}_{place}"] = _convolution(inputs, outputs)
                inputs = outputs
        for name, values in zip(("mean", "deviation"), _TORCH, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.requires_grad_(False)

    def layers(self) -> list[str]:
        """The names of all layers, in their order."""
        names = []
        for block, count in enumerate(CONVOLUTIONS[self.kind], 1):
            for place in range(1, count + 1):
                names += [f"conv{block}_{place}", f"relu{block}_{place}"]
            names.append(f"pool{block}")
        return names

    def check(self, names: Iterable[str]) -> None:
        """Raises NormError if a name is of no layer."""
        for name in names:
            if name not in self.layers():
                counts = ", ".join(map(str, CONVOLUTIONS[self.kind]))
                raise NormError(
                    f"{self.kind} has no layer {name!r}; write relu1_1 or conv4_2, for "
                    f"instance: its blocks 1 to 5 have {counts} convolutions"
                )

    def forward(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What the named layers make of x; those behind the last of them do not run."""
        self.check(names)
        wanted, found = set(names), {}
        x = (x - self.mean) / self.deviation
        for name in self.layers():
            if name.startswith("conv"):
                x = self.convolutions[name](x)
            elif name.startswith("relu"):
                x = F.relu(x)
            else:
                x = F.max_pool2d(x, 2) if self.pooling == "max" else F.avg_pool2d(x, 2)
            if name in wanted:
                found[name] = x
                if len(found) == len(wanted):
                    break
        return {name: found[name] for name in names}


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Without initial weights, which would take a second to draw."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, device="meta").to_empty(device="cpu")


def load_vgg(weights: Path | None = None, pooling: str = "max") -> VGG:
    """VGG with the weights of a file, of torch's hub cache, or downloaded.

    weights  torchvision's state dict (.pth) of VGG-16 or VGG-19, or an ONNX file with the
             convolutions of Keras' VGG-16. None: VGG-19, else VGG-16, of torch's hub cache;
             where neither is, VGG-19 is downloaded, 548 MB

    Raises
        NormError  if the file is not there or another, or nothing can be downloaded, with
                   what to fetch and where to put it.
    """
    if weights is None:
        weights = _cached()
    if not weights.is_file():
        raise NormError(f"there is no file {weights}")
    if weights.suffix.lower() == ".onnx":
        return _with(_of_onnx(weights), weights, pooling, _CAFFE, backwards=True)
    return _with(_of_state_dict(weights), weights, pooling, _TORCH)


def _cached() -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in FILES.values():
        if (folder / name).is_file():
            return folder / name
    name = FILES["vgg19"]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            f"{HOST}/{name}", str(folder / name), hash_prefix=name.split("-")[1].split(".")[0]
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise NormError(
            f"VGG-19's weights are not here and could not be downloaded ({one_line(error)}); fetch "
            f"{HOST}/{name} and put it into {folder}, or say where it is by --weights"
        ) from error
    return folder / name


def _of_state_dict(path: Path) -> dict[str, Tensor]:
    loaded = read_torch(path, _WANTED)
    if not isinstance(loaded, Mapping) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise NormError(f"{path} holds no state dict, a tensor for each name; {_WANTED}")
    return {str(name): tensor for name, tensor in loaded.items()}


def _of_onnx(path: Path) -> dict[str, Tensor]:
    """Weights and biases under torchvision's names, by the names that Keras gave them."""
    arrays = read_onnx(path, _WANTED)
    found = {}
    for convolution, place in _names("vgg16").items():
        keras = convolution.replace("conv", "block").replace("_", "_conv")
        for name, array in arrays.items():
            if keras in name:
                part = "weight" if array.ndim == 4 else "bias"
                found[f"{place}.{part}"] = array
    return found


def _names(kind: str) -> dict[str, str]:
    """torchvision's name of each convolution: conv1_1 is features.0."""
    layers = VGG(kind).layers()
    return {name: f"features.{i}" for i, name in enumerate(layers) if name.startswith("conv")}


def _with(
    weights: Mapping[str, Tensor],
    path: Path,
    pooling: str,
    colours: tuple[Sequence[float], Sequence[float]],
    backwards: bool = False,
) -> VGG:
    """The network of these weights, which are under torchvision's names.

    backwards  whether the first convolution takes blue, green and red
    """
    deep = sum(name.startswith("features.") and t.dim() == 4 for name, t in weights.items())
    kind = next((kind for kind, counts in CONVOLUTIONS.items() if sum(counts) == deep), "")
    if not kind:
        raise NormError(f"{path} has {deep} convolutions features.0.weight and so on; {_WANTED}")
    network = VGG(kind, pooling)
    state: dict[str, Tensor] = {}
    for convolution, place in _names(kind).items():
        for part in ("weight", "bias"):
            name = f"convolutions.{convolution}.{part}"
            found = weights.get(f"{place}.{part}")
            shape = tuple(network.get_parameter(name).shape)
            if found is None or tuple(found.shape) != shape:
                arrived = "is missing" if found is None else f"is {tuple(found.shape)}"
                raise NormError(
                    f"{path}: {place}.{part} {arrived}, and {kind} has {shape} there; {_WANTED}"
                )
            state[name] = found.float()
    first = "convolutions.conv1_1.weight"
    if backwards:
        state[first] = state[first].flip(1)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in colours)
    network.load_state_dict({**state, "mean": mean, "deviation": deviation})
    return network


_WANTED = (
    f"VGG-19 is wanted, as {HOST}/{FILES['vgg19']} has it, or VGG-16 ({FILES['vgg16']}), both "
    "without batch norm"
)
