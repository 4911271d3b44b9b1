"""What torch itself has: its own kernels, for the normalizations they compute.

They run where ours cannot and the formula would be slow: on other devices. They lose digits
where a signal lies far from 0, and know no masks.
"""

from torch import Tensor
from torch.nn import functional

from normwise.axes import SCHEMES, trailing
from normwise.ops.operands import Operands
from normwise.ops.plan import Formula
from normwise.reference import ACTIVATIONS


def fits(formula: Formula, x: Tensor, mask: Tensor | None, given: object, keeps: bool) -> bool:
    """Whether torch has this one, with nothing that it does not know."""
    return mask is None and given is None and not keeps and _kind(formula, x) is not None


def _kind(formula: Formula, x: Tensor) -> str | None:
    scheme = formula.scheme
    for kind in ("instance", "group", "sample"):
        if scheme.pattern is SCHEMES[kind].pattern and scheme.centres and x.dim() > 2:
            return kind
    for count in range(1, x.dim() + 1):
        if scheme.pattern is trailing(count):
            return "trailing"
    return None


def normalize(formula: Formula, of: Operands) -> Tensor:
    """y by torch's own kernels."""
    x, residual = of.x, of.residual
    kind = _kind(formula, x)
    weight, bias = (None if t is None else t.to(x.dtype) for t in (of.weight, of.bias))
    if kind == "instance":
        y = functional.instance_norm(x, None, None, weight, bias, True, 0.0, formula.eps)
    elif kind in ("group", "sample"):
        y = functional.group_norm(x, formula.sizes.get("g", 1), weight, bias, formula.eps)
    else:
        fitted = formula.scheme.pattern.fit(x.dim())
        shape = [x.shape[i] for i in fitted.features]
        if formula.scheme.centres:
            y = functional.layer_norm(x, shape, weight, bias, formula.eps)
        else:
            y = functional.rms_norm(x, shape, weight, formula.eps)
            y = y if bias is None else y + bias
    if residual is not None:
        y = y + residual.to(y.dtype)
    if formula.activation is not None:
        y = ACTIVATIONS[formula.activation](y)
    return y.to(x.dtype)
