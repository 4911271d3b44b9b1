"""A Hugging Face Trainer as a task: `normwise compare examples/with_transformers.py`.

Which of two symbols is the more frequent in a string? A small BERT learns to say so;
layer norm is what it has. Needs `pip install transformers accelerate`.
"""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import normwise as nw

LENGTH, START = 17, 2  # an odd number of 0 and 1, after a symbol to read the answer at


class Strings(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        draw = torch.Generator().manual_seed(seed)
        self.symbols = torch.randint(2, (count, LENGTH), generator=draw)

    def __len__(self):
        return len(self.symbols)

    def __getitem__(self, n):
        symbols = self.symbols[n]
        return {
            "input_ids": torch.cat([torch.tensor([START]), symbols]),
            "labels": int(symbols.sum() > LENGTH / 2),
        }


def build():
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=3,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=LENGTH + 1,
        )
    )


def trainer(model, seed):
    return Trainer(
        model,
        TrainingArguments(
            "runs/with_transformers",
            seed=seed,
            num_train_epochs=4,
            learning_rate=2e-3,
            per_device_train_batch_size=32,
            eval_strategy="epoch",
            save_strategy="no",
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
        ),
        train_dataset=Strings(1024, seed=1),
        eval_dataset=Strings(512, seed=2),
        compute_metrics=lambda found: {
            "accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()
        },
    )


task = nw.trainer_task(build, trainer, metric="accuracy", higher_is_better=True)
