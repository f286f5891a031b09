"""The book's Trainer (common/trainer.py), over shuffled epochs that are the same on every backend."""

from __future__ import annotations

import sys
from typing import Any

from xconv import optimizers, streams
from xconv.models import Model
from xconv.shapes import positive


class Trainer:
    """Trains any network that has `params`, `gradient(x, t)`, `loss(x, t)` and `accuracy(x, t)`.

    Arguments and the lists train_loss_list (one entry a step), train_acc_list and test_acc_list (one an epoch, over
    `evaluate_sample_num_per_epoch` examples, or all) are the book's. Batches are drawn without replacement.
    """

    def __init__(
        self,
        network: Any,
        x_train: Any,
        t_train: Any,
        x_test: Any,
        t_test: Any,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str | optimizers.Optimizer = "SGD",
        optimizer_param: dict[str, float] | None = None,
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.network, self.verbose = network, verbose
        self.x_train, self.t_train, self.x_test, self.t_test = x_train, t_train, x_test, t_test
        self.epochs = positive(epochs, "Trainer: epochs")
        self.batch_size = positive(mini_batch_size, "Trainer: mini_batch_size")
        self.optimizer = optimizers.get(optimizer, **({"lr": 0.01} if optimizer_param is None else optimizer_param))
        self.evaluated = evaluate_sample_num_per_epoch
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []

    def train(self) -> None:
        """Run all epochs; the accuracies are measured after each."""
        for epoch in range(1, self.epochs + 1):
            order = streams.permutation(getattr(self.network, "seed", 0), epoch, len(self.x_train))
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                x, t = self.x_train[chosen], self.t_train[chosen]
                grads = self.network.gradient(x, t)
                self.optimizer.update(self.network.params, grads)
                self.train_loss_list.append(self.network.loss(x, t))
            if isinstance(self.network, Model):
                self.network.warn_if_dead(grads, self.train_loss_list[-1])
            some = slice(self.evaluated)
            self.train_acc_list.append(self.network.accuracy(self.x_train[some], self.t_train[some]))
            self.test_acc_list.append(self.network.accuracy(self.x_test[some], self.t_test[some]))
            if self.verbose:
                print(
                    f"=== epoch:{epoch}, train loss:{self.train_loss_list[-1]:.4f}, "
                    f"train acc:{self.train_acc_list[-1]:.4f}, test acc:{self.test_acc_list[-1]:.4f} ===",
                    file=sys.stderr,
                )
