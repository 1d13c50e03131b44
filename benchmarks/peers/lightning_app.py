"""The same training with a common stack: Lightning, DataLoader, Hydra, Optuna's sweeper, Lightning's MLflow logger.

It is written after the documentation of these packages, imports nothing of this project, and runs in the environment
that `make bench` creates.

    python lightning_app.py epoch ROOT             # seconds of one epoch of the mlp on Fashion-MNIST, batch 64
    python lightning_app.py sweep --multirun …     # a sweep over the LR on the digits, as a Hydra app
"""

import os
import sys
import time
from itertools import pairwise

import hydra
import lightning
import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision import datasets, transforms

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Classifier(lightning.LightningModule):
    """An mlp of the given widths with SGD, momentum 0.9 and a cosine schedule."""

    def __init__(self, widths: list[int], lr: float) -> None:
        super().__init__()
        self.lr = lr
        layers = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
        self.loss = nn.CrossEntropyLoss()

    def training_step(self, batch, index):
        images, labels = batch
        logits = self.network(images)
        loss = self.loss(logits, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/error", (logits.argmax(1) != labels).float().mean(), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        images, labels = batch
        logits = self.network(images)
        self.log("val/loss", self.loss(logits, labels))
        self.log("val/error", (logits.argmax(1) != labels).float().mean())

    def test_step(self, batch, index):
        images, labels = batch
        self.log("test/loss", self.loss(self.network(images), labels))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Clock(lightning.Callback):
    """Times an epoch with its validation."""

    def on_train_epoch_start(self, trainer, module):
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer, module):
        self.seconds = time.perf_counter() - self.started


def epoch(root: str) -> float:
    """Train one epoch of 50,000 images and validate on 10,000; return the seconds."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])
    images = datasets.FashionMNIST(root, train=True, transform=transform)
    train, val = random_split(images, [50_000, 10_000], generator=torch.Generator().manual_seed(0))
    clock = Clock()
    trainer = lightning.Trainer(max_epochs=1, logger=False, num_sanity_val_steps=0, callbacks=[clock], **QUIET)
    trainer.fit(Classifier([784, 256, 128], 0.05), DataLoader(train, 64, shuffle=True), DataLoader(val, 1024))
    return clock.seconds


ConfigStore.instance().store(
    name="config", node={"batch": 64, "lr": 0.1, "seed": 0, "epochs": 5, "uri": "sqlite:///mlflow.db"}
)


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def train(cfg: DictConfig) -> float:
    """Run one trial on the digits; return its validation loss."""
    lightning.seed_everything(cfg.seed)
    digits = load_digits()
    images = torch.from_numpy((digits.data / 16).astype(np.float32))
    parts = random_split(
        TensorDataset(images, torch.from_numpy(digits.target)), [1077, 360, 360], torch.Generator().manual_seed(0)
    )
    train, val, test = parts
    logger = MLFlowLogger("peers", tracking_uri=cfg.uri)
    logger.log_hyperparams(dict(cfg))
    trainer = lightning.Trainer(
        max_epochs=cfg.epochs, logger=logger, num_sanity_val_steps=0, log_every_n_steps=10**9, **QUIET
    )
    module = Classifier([64, 64], cfg.lr)
    trainer.fit(module, DataLoader(train, cfg.batch, shuffle=True), DataLoader(val, 360))
    value = trainer.callback_metrics["val/loss"].item()
    trainer.test(module, DataLoader(test, 360), verbose=False)
    return value


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    what = sys.argv.pop(1)
    if what == "epoch":
        print(epoch(sys.argv[1]))
    else:
        # Two trials that create MLflow's database at the same time break it, so it is created first.
        MlflowClient("sqlite:///mlflow.db").search_experiments()
        train()
