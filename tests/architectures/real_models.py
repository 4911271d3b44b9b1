"""Real models, small and with random weights, from the packages that people take them from.

These packages are development-only: the dependency group `architectures`.
"""

import warnings
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from torch import nn

if not all(find_spec(name) for name in ("torchvision", "timm", "transformers")):
    pytest.skip("`make architectures` installs the models' packages", allow_module_level=True)

# Beside a CPU build of torch the wheel of torchvision lacks its operators, and asks for these two.
_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm
    import torchvision
    import transformers

IMAGE = (3, 3, 64, 64)
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SPEECH = {
    **SIZES,
    "conv_dim": (12, 12),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
TEXT = {"vocab_size": 20, **SIZES, "num_key_value_heads": 2}


def _t5():
    config = transformers.T5Config(
        vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
    )
    return transformers.T5Model(config)


BUILDERS = {
    "torchvision resnet18": torchvision.models.resnet18,
    "torchvision mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
    "torchvision convnext_tiny": torchvision.models.convnext_tiny,
    "torchvision efficientnet_b0": torchvision.models.efficientnet_b0,
    "timm convnext_atto": lambda: timm.create_model("convnext_atto"),
    "timm regnetx_002": lambda: timm.create_model("regnetx_002"),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2),
    "timm efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0"),
    "wav2vec2": lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SPEECH)),
    "hubert": lambda: transformers.HubertModel(
        transformers.HubertConfig(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True)
    ),
    "t5": _t5,
    "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**TEXT)),
    "gemma2": lambda: transformers.Gemma2Model(transformers.Gemma2Config(**TEXT, head_dim=8)),
}


@cache
def built(name: str) -> nn.Module:
    """A model, the same for every test: they leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BUILDERS[name]()


def run(name: str, model: nn.Module) -> torch.Tensor:
    """The model's main output for an input that is the same in every run."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.arange(24).reshape(4, 6) % 20
    if name == "t5":
        return model(input_ids=tokens, decoder_input_ids=tokens).last_hidden_state
    if name in ("llama", "gemma2"):
        return model(input_ids=tokens).last_hidden_state
    if name in ("wav2vec2", "hubert"):
        return model(torch.randn(4, 800, generator=draw)).last_hidden_state
    return model(torch.randn(IMAGE, generator=draw))
