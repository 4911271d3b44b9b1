"""A LightningModule as a task: `normwise compare examples/with_lightning.py`.

Nothing in the module or in its data knows of normwise, but for the padding: who is
speaking, in utterances of unequal length? Needs `pip install lightning`.
"""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import normwise as nw
from normwise.recipes.vowels import SpeakerClassifier


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = SpeakerClassifier()

    def forward(self, x, lengths):
        with nw.padding(lengths):  # the norms see what was recorded
            return self.net(x, lengths)

    def training_step(self, batch, index):
        x, speaker, lengths = batch
        return torch.nn.functional.cross_entropy(self(x, lengths), speaker)

    def validation_step(self, batch, index):
        x, speaker, lengths = batch
        right = self(x, lengths).argmax(1) == speaker
        self.log("val_accuracy", right.float().mean(), batch_size=len(x))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Speech(lightning.LightningDataModule):
    def setup(self, stage):
        self.known, self.unknown = nw.data.japanese_vowels()

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.known), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*self.unknown), batch_size=128)


task = nw.lightning_task(
    Classifier,
    data=Speech,
    monitor="val_accuracy",
    higher_is_better=True,
    trainer={"max_epochs": 4},
)
