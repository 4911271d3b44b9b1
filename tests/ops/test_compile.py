"""torch.compile sees one operator; in a new process, where nothing has been run before."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch, normwise as nw

layer = {layer}
torch.manual_seed(0)
x = torch.randn(16, 32, 256, requires_grad=True)  # so large that the kernels are worth a call
compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
y = compiled(x)
(gradient,) = torch.autograd.grad(y.square().sum() + y.sum(), x)
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
expected = layer(x)
(wanted,) = torch.autograd.grad(expected.square().sum() + expected.sum(), x)
torch.testing.assert_close(y, expected)
torch.testing.assert_close(gradient, wanted)
compiled(x)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "compiled again"
print("same")
"""


@pytest.mark.parametrize(
    "layer",
    [
        "nw.BatchNorm1d(32, activation='relu')",
        "nw.LayerNorm(256)",
        *(
            pytest.param(layer, marks=pytest.mark.slow)
            for layer in (
                "nw.InstanceNorm1d(32, affine=True)",
                "nw.BatchNorm1d(32).eval()",
                "nw.GroupNorm(4, 32, activation='gelu')",
                "nw.RMSNorm1d(32)",
            )
        ),
    ],
)
def test_the_first_call_of_a_process_may_be_compiled(layer):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{layer}", layer)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "same\n"
