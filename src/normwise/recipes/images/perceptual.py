"""How far a picture is from another's content, or style, by the features of a network.

Every distance is squared and a share of what it is a distance from, so that 1 means "as far as
nothing at all", whichever layer or network it is of, and weights for them mean the same everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.layers import AdaptiveInstanceNorm2d


def content_distance(features: Tensor, aim: Tensor) -> Tensor:
    """mean((features - aim)²) / mean(aim²)

    Shapes
        features, aim  (N, C, H, W) float32
        out            ()
    """
    return (features - aim).square().mean() / aim.square().mean()


def variation(image: Tensor) -> Tensor:
    """Mean squared difference between neighbours: what noise has much of, and areas none.

    Shapes
        image  (N, 3, H, W) float32, 0 to 1
        out    ()
    """
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean()
    across = (image[..., 1:] - image[..., :-1]).square().mean()
    return down + across


def gram(features: Tensor) -> Tensor:
    """What channels have in common, wherever in the picture: mean over positions of f fᵀ.

    Shapes
        features  (N, C, H, W) float32
        out       (N, C, C)
    """
    rows = features.flatten(2)
    return rows @ rows.transpose(1, 2) / rows.shape[2]


class Style(ABC):
    """The style of pictures at one layer, and the distance from it.

    styles   their features, each (1, C, H, W) float32, in sizes of their own
    weights  of each, which come to 1
    """

    @abstractmethod
    def __init__(self, styles: Sequence[Tensor], weights: Sequence[float]) -> None: ...

    @abstractmethod
    def distance(self, features: Tensor) -> Tensor:
        """From the style: () of features (N, C, H, W)."""


class GramStyle(Style):
    """Style is the Gram matrix; of several styles, the weighted mean of their matrices.

        distance = mean over n of Σ (gram(features)[n] - aim)² / Σ aim²

    Source: Gatys, Ecker and Bethge 2016, arXiv:1508.06576; as a share of the aim it is ours.
    """

    def __init__(self, styles: Sequence[Tensor], weights: Sequence[float]) -> None:
        grams = [weight * gram(one) for one, weight in zip(styles, weights, strict=True)]
        self.aim = torch.stack(grams).sum(0)

    def distance(self, features: Tensor) -> Tensor:
        """From the aim's Gram matrix."""
        difference = (gram(features) - self.aim).square().sum((1, 2))
        return difference.mean() / self.aim.square().sum()


class StatisticsStyle(Style):
    """Style is each channel's mean and deviation, which adaptive instance norm gives to features.

        aim = adaptive_instance_norm(features, style)
        distance = mean((features - aim)²) / mean(style²)
                 = Σ ((mean - mean_of_style)² + (deviation - deviation_of_style)²) / Σ …

    so the norm says at every position what the picture should have there, and that is the
    gradient's direction, too. A channel that does not vary has no deviation that could be changed,
    and only its mean counts. Of several styles, means and deviations are averaged.

    Source: Li, Wang, Liu and Hou 2017, arXiv:1701.01036; the norm is Huang and Belongie's (2017,
    arXiv:1703.06868).
    """

    def __init__(self, styles: Sequence[Tensor], weights: Sequence[float]) -> None:
        self.styles, self.weights = list(styles), list(weights)
        self.norm = AdaptiveInstanceNorm2d()
        sizes = [w * s.square().mean() for s, w in zip(styles, weights, strict=True)]
        self.size = torch.stack(sizes).sum()

    def distance(self, features: Tensor) -> Tensor:
        """From what the norm makes of the features."""
        with torch.no_grad():  # the gradient is the same without that of the aim
            aims = [w * self.norm(features, s)
                    for s, w in zip(self.styles, self.weights, strict=True)]  # fmt: skip
            aim = torch.stack(aims).sum(0)
        return (features - aim).square().mean() / self.size


STYLES: dict[str, type[Style]] = {"gram": GramStyle, "statistics": StatisticsStyle}
