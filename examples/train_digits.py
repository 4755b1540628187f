"""Train a softmax classifier on scikit-learn's digits, and record the run.

    python examples/train_digits.py --epochs 12 --seconds-per-epoch 1

Started by hand it records a tracked run; as the command of a managed run it reports to that one, and takes the
learning rate and the batch size from its configuration.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import tachograph

DEFAULTS = {"lr": 0.05, "batch_size": 32, "seed": 0}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--seconds-per-epoch", type=float, default=0.0, help="slow the training down to this")
    options.add_argument("--fail-at", type=int, metavar="EPOCH", help="raise an exception after this epoch")
    options.add_argument("--name", help="the run's name (tracked runs)")
    options.add_argument(
        "--liveness",
        type=float,
        nargs=3,
        metavar="SECONDS",
        help="heartbeat period, and the silence after which the run is unresponsive and crashed (tracked runs)",
    )
    return options


def batches(rows: int, size: int, random: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of one epoch's mini-batches, in random order."""
    order = random.permutation(rows)
    for start in range(0, rows, size):
        yield order[start : start + size]


def train(run: tachograph.Run, arguments: argparse.Namespace) -> float:
    """Train, log and return the last validation accuracy."""
    settings = {name: run.config.get(name, default) for name, default in DEFAULTS.items()}
    run.config({**settings, "epochs": arguments.epochs})
    run.set_primary_metric("val/accuracy", "max")
    images, digits = load_digits(return_X_y=True)
    seen, unseen, labels, answers = train_test_split(
        images / 16.0, digits, test_size=0.2, random_state=settings["seed"], stratify=digits
    )
    # Without a hidden layer this is softmax regression; `partial_fit` takes one step.
    model = MLPClassifier(
        hidden_layer_sizes=(),
        solver="sgd",
        learning_rate_init=settings["lr"],
        random_state=settings["seed"],
    )
    random = np.random.default_rng(settings["seed"])
    classes = np.unique(digits)
    accuracy = 0.0
    for epoch in range(1, arguments.epochs + 1):
        stage = f"epoch_{epoch}"
        began = time.monotonic()
        parts = list(batches(len(seen), settings["batch_size"], random))
        for done, part in enumerate(parts, start=1):
            model.partial_fit(seen[part], labels[part], classes=classes)
            run.log({"train/loss": model.loss_}, stage=stage)
            time.sleep(max(0.0, began + arguments.seconds_per_epoch * done / len(parts) - time.monotonic()))
        accuracy = float(model.score(unseen, answers))
        loss = log_loss(answers, model.predict_proba(unseen))
        run.log({"val/loss": loss, "val/accuracy": accuracy, "epoch": epoch}, stage=stage)
        run.progress(epoch, arguments.epochs, "epochs")
        print(
            f"epoch {epoch:3d}  train loss {model.loss_:.3f}  val loss {loss:.3f}  val accuracy {accuracy:.3f}",
            flush=True,
        )
        if epoch == arguments.fail_at:
            raise RuntimeError(f"asked to fail after epoch {epoch}")
    return accuracy


def main() -> None:
    """Open a run and train in it."""
    arguments = parser().parse_args()
    liveness = None
    if arguments.liveness:
        names = ("beat_seconds", "unresponsive_seconds", "crashed_seconds")
        liveness = dict(zip(names, arguments.liveness, strict=True))
    with tachograph.init(name=arguments.name, tags=["digits"], liveness=liveness) as run:
        print(f"recording {run}", flush=True)
        accuracy = train(run, arguments)
        run.summary({"val/accuracy": accuracy})


if __name__ == "__main__":
    main()
