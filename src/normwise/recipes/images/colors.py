"""Keep a picture's colours while its style changes.

Source: Gatys, Bethge, Hertzmann and Shechtman 2016, arXiv:1606.05897, which describes both ways.
"""

import torch
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)


def luminance(image: Tensor) -> Tensor:
    """The picture in grey, as (3, H, W) alike, of one in red, green and blue."""
    weights = torch.tensor(_LUMINANCE)[:, None, None]
    return (image * weights).sum(0, keepdim=True).expand_as(image)


def with_colors_of(image: Tensor, content: Tensor) -> Tensor:
    """The light of an image and the colours of content, which is of its size."""
    return (content + luminance(image) - luminance(content)).clamp(0, 1)


def matched(image: Tensor, content: Tensor) -> Tensor:
    """An image with the mean and covariance that content's colours have.

    y = √Σ_content · √Σ_image⁻¹ · (x - mean_image) + mean_content
    """
    pixels, others = image.flatten(1).double(), content.flatten(1).double()
    change = _root(torch.cov(others)) @ torch.linalg.inv(_root(torch.cov(pixels)))
    moved: Tensor = change @ (pixels - pixels.mean(1, keepdim=True)) + others.mean(1, keepdim=True)
    return moved.reshape(image.shape).clamp(0, 1).float()


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root; a colour that does not vary counts as varying by 1e-4."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors @ values.clamp(min=1e-8).sqrt().diag() @ vectors.T
    return root
