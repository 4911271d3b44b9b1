"""What folding and fusing save: EfficientNet-lite0 at inference, all forms of it taking turns.

python benchmarks/fold.py      needs timm and torchvision: the dependency group `architectures`
"""

import json
import statistics
import sys
from pathlib import Path

import torch

import normwise as nw
from normwise.machine import stamp
from normwise.timing import take_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "architectures"))

import real_models

RESULTS = Path(__file__).parent / "results" / "fold.json"
BATCHES = (1, 4)
ROUNDS, ROUND_S = 7, 0.2


def main() -> None:
    """Print and write down the time of each form, as a share of the model's as it is."""
    model = real_models.built("timm efficientnet_lite0").eval()
    forms = {
        "as it is": model,
        "same": nw.swap(model, "same"),
        "same, fused": nw.swap(model, "same", fuse=True),
        "folded": nw.fold(model, torch.randn(1, 3, 224, 224)),
    }
    print(f"EfficientNet-lite0, 224 px, {torch.get_num_threads()} threads, medians of ratios")
    rows = []
    with torch.no_grad():
        for batch in BATCHES:
            x = torch.randn(batch, 3, 224, 224)
            calls = {name: (lambda form=form, x=x: form(x)) for name, form in forms.items()}
            taken = take_turns(calls, ROUNDS, ROUND_S, warm=True)
            shares = {
                name: statistics.median(a / b for a, b in zip(t, taken["as it is"], strict=True))
                for name, t in taken.items()
            }
            rows.append({"batch": batch, **shares})
            row = "  ".join(f"{name} {share:.2f}" for name, share in shares.items())
            print(f"batch {batch}: {row}", flush=True)
    RESULTS.write_text(json.dumps({**stamp(), "rows": rows}, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
