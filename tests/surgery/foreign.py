"""Norms as other packages write them, and a block whose activation is used twice."""

import torch
import torch.nn.functional as F
from torch import nn


class ChannelsLast(nn.Module):
    """Layer norm written out, under names of its own."""

    def __init__(self, size=6):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps = 1e-6

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = (x - mean).square().mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(var + self.eps) * self.gamma + self.beta


class ChannelsSecond(nn.LayerNorm):
    """torchvision's and timm's way: a layer norm that moves the channels."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RootMeanSquare(nn.Module):
    """Llama's and T5's way: computed in float32."""

    def __init__(self, size=6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = 1e-6

    def forward(self, x):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class FromOne(RootMeanSquare):
    """Gemma's way: a weight that counts from 1."""

    def forward(self, x):
        wide = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return wide * (1 + self.weight)


class WholeSample(nn.Module):
    """Conv-TasNet's global layer norm: group norm of one group."""

    def __init__(self, size=6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, size, 1))
        self.bias = nn.Parameter(torch.zeros(1, size, 1))

    def forward(self, x):
        mean, var = x.mean((1, 2), keepdim=True), x.var((1, 2), keepdim=True, correction=0)
        return self.weight * (x - mean) / (var + 1e-5).sqrt() + self.bias


class Frozen(nn.Module):
    """torchvision's frozen batch norm: everything is a buffer."""

    def __init__(self, size=6):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(size))

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(shape) + shift.reshape(shape)


class WithActivation(nn.BatchNorm2d):
    """timm's way: a batch norm that brings its activation."""

    def __init__(self, size=6, act=nn.SiLU):
        super().__init__(size)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Residual(nn.Module):
    """One activation used twice, once on what is no norm's."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), nn.ReLU()
        self.last, self.norm2 = nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6)

    def forward(self, x, mask=None):
        y = self.act(self.norm(self.conv(x)))
        y = F.gelu(self.norm2(self.last(y))) if mask is None else y
        return self.act(x + y)
