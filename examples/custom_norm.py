"""A normalization of one's own, trained on real speech: `python examples/custom_norm.py`.

Neighbouring channels share one mean and one variance, taken over the batch and
remembered for inference. torch.nn has no such layer; here it is a pattern, and
`nw.swap` puts it where a model had batch norm.
"""

import torch
from torch import nn

import normwise as nw
from normwise.recipes.vowels import SpeakerClassifier


def pair_norm(num_features, dim):
    remembered = nw.Running(momentum=0.05, start="first-batch")
    return nw.Norm("[n] (g [c]) [...]", c=2, g=num_features // 2, running=remembered)


def train(model, speech, epochs=6):
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(speech.x), generator=draw).split(16):
            x, speakers, lengths = (tensor[batch] for tensor in speech)
            optimizer.zero_grad()
            with nw.padding(lengths):
                nn.functional.cross_entropy(model(x, lengths), speakers).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model, speech):
    with nw.padding(speech.lengths):
        logits = model.eval()(speech.x, speech.lengths)
    return (logits.argmax(1) == speech.speakers).float().mean().item()


def main():
    torch.manual_seed(0)
    known, unknown = nw.data.japanese_vowels()
    model = nw.swap(SpeakerClassifier(), pair_norm)
    print(nw.receipt(model))
    train(model, known)
    score = accuracy(model, unknown)
    print(f"{score:.1%} of {len(unknown.x)} utterances told apart")
    return model, score


if __name__ == "__main__":
    main()
