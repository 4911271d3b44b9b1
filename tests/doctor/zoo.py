"""Small sick models: what is wrong with each, and what makes it well."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import normwise as nw

DRAW = torch.Generator()


def signal(count=16, channels=4, length=12):
    return torch.randn(count, channels, length, generator=DRAW.manual_seed(0))


def conv(inputs=4, outputs=8, **options):
    return nn.Conv1d(inputs, outputs, 3, **{"padding": 1, "bias": False} | options)


def batch_norm(**options):
    """Ours, which neither fusing nor masks could make any better."""
    return nw.BatchNorm1d(8, **{"activation": "relu"} | options)


def trained(model, x=None, steps=40):
    """A model whose statistics have seen data."""
    with torch.no_grad():
        for _ in range(steps):
            model(signal() if x is None else x)
    return model


@dataclass
class Case:
    """A model with one fault.

    build    returns (model, sample)
    check    the finding that is to be made
    where    the paths it is to name
    cure     of (model, sample): what the finding tells to do, done
    options  what else the doctor is given; a function of the model where one is needed
    severe   the severity
    """

    check: str
    where: tuple[str, ...]
    build: Any
    cure: Any
    options: dict[str, Any] = field(default_factory=dict)
    severity: str = "warning"


def head(norm):
    return nn.Sequential(conv(), batch_norm(), nn.AdaptiveAvgPool1d(1), norm, nn.Conv1d(8, 2, 1))


def nan_statistics():
    model = trained(nn.Sequential(conv(), batch_norm()))
    model(torch.full_like(signal(), float("nan")))
    return model.eval(), signal()


def shifted():
    model = nn.Sequential(conv(), batch_norm(), conv(8), batch_norm())
    return trained(model).eval(), 3 * signal() + 5


def one_of_two_never_ran():
    model = nn.Sequential(conv(), batch_norm(), conv(8), batch_norm())
    model[3].eval()
    trained(model)
    return model.train(), signal()


def one_of_two_is_stale():
    model = nn.Sequential(conv(), batch_norm(), conv(8), batch_norm())
    trained(model, steps=3)
    model[3].eval()
    trained(model)
    return model.train(), signal()


def moving():
    model = trained(nn.Sequential(conv(), batch_norm(), conv(8), batch_norm()))
    model[1].requires_grad_(False)
    return model, signal()


def loose():
    model = trained(nn.Sequential(conv(), batch_norm(), conv(8), batch_norm()))
    model[1].eval()
    return model, signal()


class Causal(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.pad, self.conv = nn.ConstantPad1d((2, 0), 0.0), conv(padding=0)
        self.norm = norm

    def forward(self, x):
        return self.norm(self.conv(self.pad(x)))


def dropped(*, late=False):
    layers = [conv(), batch_norm(), nn.Dropout(0.5), conv(8), batch_norm()]
    return nn.Sequential(*([*layers[:2], *layers[3:], layers[2]] if late else layers))


def dead():
    model = trained(nn.Sequential(conv(), nw.BatchNorm1d(8)))
    with torch.no_grad():
        model[1].weight[:2] = 0
    return model, signal()


def revived(model, sample):
    with torch.no_grad():
        model[1].weight.fill_(1)
    return model


def exploding():
    model = trained(nn.Sequential(conv(), batch_norm())).eval()
    model[1].running_var.fill_(1e-12)
    model[1].eps = 1e-12
    return model, signal()


def wrong_layout():
    """(N, T, C) where torch takes the second dimension for channels."""
    return nn.Sequential(nn.InstanceNorm1d(4), nn.Linear(4, 4)), signal().mT.contiguous()


def transposed(model, sample):
    return nn.Sequential(nw.LayerNorm(4), model[1])


def optimizer_of(model, *, split=False):
    if not split:
        return torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    norms = {p for site in nw.find(model) for p in site.module.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if p not in norms]},
        {"params": list(norms), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.1)


def recalibrated(model, sample):
    return nw.recalibrate(model, [sample])


def plain(*norms):
    return nn.Sequential(conv(), norms[0], conv(8), *norms[1:])


SICK = [
    Case(
        *("one-element", ("3",)),
        lambda: (head(nn.InstanceNorm1d(8)), signal()),
        lambda model, sample: nw.swap(model, "rms", "3"),
        severity="error",
    ),
    Case(
        *("one-element", ("1",)),
        lambda: (nn.Sequential(nn.Linear(4, 1), nn.LayerNorm(1)), torch.randn(16, 4)),
        lambda model, sample: nw.swap(model, "rms", "1"),
        severity="error",
    ),
    Case(
        *("one-element", ("1",)),
        lambda: (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), torch.randn(1, 4)),
        lambda model, sample: nw.swap(model, "rms", "1"),
        severity="error",
    ),
    Case(
        *("erased-groups", ("3",)),
        lambda: (head(nw.GroupNorm1d(8, 8)), signal()),
        lambda model, sample: nw.swap(model, "group:1", "3"),
        severity="error",
    ),
    Case(
        *("erased-groups", ("1",)),
        lambda: (nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(4, 4)), torch.randn(16, 4)),
        lambda model, sample: nw.swap(model, "group:1"),
        severity="error",
    ),
    Case(
        *("wrong-channels", ("0",)),
        wrong_layout,
        transposed,
        severity="error",
    ),
    Case("bad-statistics", ("1",), nan_statistics, recalibrated, severity="error"),
    Case(
        *("padding-leak", ("1",)),
        lambda: (trained(plain(nn.BatchNorm1d(8), nn.BatchNorm1d(8))), signal()),
        lambda model, sample: nw.swap(model, "same", fuse=True),
        {"lengths": [12, 7, 3, 5] * 4},
        "error",
    ),
    Case(
        *("refused", ("",)),
        lambda: (plain(batch_norm(), batch_norm()), signal(channels=3)),
        None,
        severity="error",
    ),
    Case("train-eval-gap", ("1",), shifted, recalibrated, severity="warning"),
    Case(
        *("never-updated", ("1", "3")),
        lambda: (plain(batch_norm(), batch_norm()).eval(), signal()),
        recalibrated,
    ),
    Case("never-updated", ("3",), one_of_two_never_ran, recalibrated),
    Case("stale", ("3",), one_of_two_is_stale, recalibrated),
    Case("moving-statistics", ("1",), moving, lambda m, s: nw.freeze(m, "1", affine=True)),
    Case("loosely-frozen", ("1",), loose, lambda m, s: nw.freeze(m, "1")),
    Case(
        *("small-batch", ("1", "3")),
        lambda: (trained(plain(batch_norm(), batch_norm()), signal(2)), signal(2)),
        lambda model, sample: nw.swap(model, "group:2"),
    ),
    Case(
        *("small-batch", ("1", "3")),
        lambda: (trained(plain(batch_norm(), batch_norm())), signal()),
        lambda model, sample: nw.swap(model, "renorm"),
        {"loader": [(signal(4), torch.zeros(4))]},
    ),
    Case(
        *("not-causal", ("norm",)),
        lambda: (Causal(nw.InstanceNorm1d(8)), signal()),
        lambda model, sample: nw.swap(model, "causal"),
    ),
    Case(
        *("after-dropout", ("4",)),
        lambda: (trained(dropped()), signal()),
        lambda model, sample: trained(dropped(late=True)),
    ),
    Case(
        *("weight-decay", ("1.weight", "1.bias", "3.weight", "3.bias")),
        lambda: (trained(plain(batch_norm(), batch_norm())), signal()),
        None,
        {"optimizer": optimizer_of},
    ),
    Case(
        *("slow-momentum", ("1", "3")),
        lambda: (plain(*(batch_norm(momentum=0.01) for _ in range(2))), signal()),
        lambda model, sample: nw.swap(model, "batch:momentum=0.06"),
        {"steps": 50},
    ),
    Case(
        *("slow-momentum", ("1",)),
        lambda: (trained(plain(batch_norm(momentum=0.0), batch_norm())), signal()),
        lambda model, sample: trained(nw.swap(model, "batch:momentum=0.1")),
    ),
    Case("dead-channels", ("1",), dead, revived),
    Case("exploding", ("1",), exploding, recalibrated),
    Case(
        *("useless-bias", ("0",)),
        lambda: (trained(nn.Sequential(conv(bias=True), batch_norm())), signal()),
        lambda model, sample: trained(nn.Sequential(conv(bias=False), batch_norm())),
        severity="hint",
    ),
    Case(
        *("could-fold", ("1", "3")),
        lambda: (trained(plain(batch_norm(), batch_norm())).eval(), signal()),
        nw.fold,
        severity="hint",
    ),
    Case(
        *("could-fuse", ("1",)),
        lambda: (trained(nn.Sequential(conv(), nw.BatchNorm1d(8), nn.ReLU())), signal()),
        lambda model, sample: nw.swap(model, "same", fuse=True),
        severity="hint",
    ),
    Case(
        *("could-mask", ("1",)),
        lambda: (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), torch.randn(16, 4)),
        lambda model, sample: nw.swap(model, "same", fuse=True),
        severity="hint",
    ),
]


def one_by_one():
    x = signal()
    return [
        (nn.Sequential(conv(), batch_norm()), x, {}),
        (trained(plain(batch_norm(), batch_norm())), x, {"steps": 100}),
        (nw.freeze(trained(plain(batch_norm(), batch_norm()))), x, {}),
        (plain(nw.GroupNorm1d(2, 8), nw.LayerNorm1d(8)), x[:1], {}),
        (plain(nw.LayerNorm1d(8), nw.RMSNorm1d(8)), x, {}),
        (Causal(nw.CausalNorm1d(8)), x, {}),
        (
            trained(plain(batch_norm(), batch_norm())),
            x,
            {"lengths": [12, 7, 3, 5] * 4, "loader": [x], "optimizer": True},
        ),
        (nn.Sequential(nn.Linear(4, 8), nw.LayerNorm(8)), torch.randn(16, 4), {}),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nw.BatchNorm2d(8, activation="silu")),
            torch.randn(16, 3, 8, 8, generator=DRAW.manual_seed(0)),
            {},
        ),
    ]
