"""What each layer computes, in float64: (layer, x, features, real) → y.

`real` and what `features` makes of a parameter have x's rank.
"""

import torch

import oracle


def own(key, centres=True):
    """The formula of norms that use the input's own moments."""

    def formula(layer, x, features, real):
        weight, bias = features(layer.weight), features(getattr(layer, "bias", None))
        eps = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
        affine = {"weight": weight, "bias": bias}
        return oracle.normalized(x, key, real=real, eps=eps, centres=centres, **affine)

    return formula


def remembering(key):
    """The formula of norms that use remembered moments in evaluation, if they have them."""

    def formula(layer, x, features, real):
        if layer.training or layer.running_mean is None:
            return own(key)(layer, x, features, real)
        return by_memory(layer, x, features, real)

    return formula


def by_memory(layer, x, features, real):
    mean, var = (features(b.double()) for b in (layer.running_mean, layer.running_var))
    y = (x.double() - mean) / (var + layer.eps).sqrt()
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def at_its_limits(layer, x, features, real):
    """Batch renorm, where r and d end at their limits: x lies above what the layer remembers."""
    if not layer.training:
        return remembering(oracle.batch)(layer, x, features, real)
    y = oracle.normalized(x, oracle.batch, real=real) * layer.r_max + layer.d_max
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def switched(layer, x, features, real):
    keys = [oracle.instance, oracle.sample, oracle.batch]
    means, variances = zip(*(oracle.moments(x, key, real) for key in keys), strict=True)
    if not layer.training and layer.running_mean is not None:
        remembered = (features(b.double()) for b in (layer.running_mean, layer.running_var))
        means, variances = (
            (*parts[:2], of_batch)
            for parts, of_batch in zip((means, variances), remembered, strict=True)
        )
    shares = (p.detach().double().softmax(0) for p in (layer.mean_weight, layer.var_weight))
    mean, var = (
        sum(share * part for share, part in zip(weights, parts, strict=True))
        for weights, parts in zip(shares, (means, variances), strict=True)
    )
    y = (x.double() - mean) / (var + layer.eps).sqrt()
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def causal(layer, x, features, real):
    """Each position is the last one of a series that ends with it."""
    real = real.expand(x.shape)
    series = [(x[..., : t + 1], real[..., : t + 1]) for t in range(x.shape[-1])]
    y = [
        oracle.normalized(xs, oracle.sample, real=rs, eps=layer.eps)[..., -1:] for xs, rs in series
    ]
    return oracle.affine(torch.cat(y, -1), real, features(layer.weight), features(layer.bias))


def filter_response(layer, x, features, real):
    eps = layer.eps + (0.0 if layer.extra_eps is None else abs(layer.extra_eps.item()))
    y = oracle.normalized(x, oracle.instance, real=real, eps=eps, centres=False)
    y = oracle.affine(y, real, features(layer.weight), features(layer.bias))
    if layer.tau is None:
        return y
    return torch.where(real, torch.maximum(y, features(layer.tau.detach().double())), 0.0)


def global_response(layer, x, features, real):
    x = torch.where(real, x.double(), 0.0)
    response = x.square().sum(tuple(range(2, x.dim())), keepdim=True).sqrt()
    relative = response / (response.mean(1, keepdim=True) + layer.eps)
    y = oracle.affine(x * relative, real, features(layer.weight), features(layer.bias))
    return y + x


def evonorm_s0(channels_per_group):
    def formula(layer, x, features, real):
        _, var = oracle.moments(x, oracle.group(channels_per_group), real)
        x = x.double()
        y = x * torch.sigmoid(features(layer.slope.detach().double()) * x)
        y = y / (var + layer.eps).sqrt()
        return oracle.affine(y, real, features(layer.weight), features(layer.bias))

    return formula


def evonorm_b0(layer, x, features, real):
    _, of_batch = oracle.moments(x, oracle.batch, real)
    _, own_var = oracle.moments(x, oracle.instance, real)
    if not layer.training:
        of_batch = features(layer.running_var.double())
    x, slope = x.double(), features(layer.slope.detach().double())
    std, own_std = ((var + layer.eps).sqrt() for var in (of_batch, own_var))
    y = x / torch.maximum(std, slope * x + own_std)
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def dynamic_tanh(layer, x, features, real):
    y = torch.tanh(layer.alpha.detach().double() * x.double())
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def dynamic_erf(layer, x, features, real):
    y = torch.erf(layer.alpha.detach().double() * x.double() + layer.shift.detach().double())
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def identity(layer, x, features, real):
    return oracle.affine(x.double(), real, None, None)
