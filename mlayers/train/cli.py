# SPDX-License-Identifier: Apache-2.0
"""The arguments of `train` and `predict`, and the choice of a backend before Keras is imported."""

from __future__ import annotations

import argparse
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from mlayers.train.errors import UsageError
from mlayers.train.options import TrainOptions

BACKENDS = ("jax", "torch", "tensorflow")
BACKEND_HELP = "Keras backend (default: KERAS_BACKEND, else the first installed)"
TRAIN_PACKAGES = ("pandas", "pyarrow", "sklearn", "matplotlib")
PREDICT_PACKAGES = ("pandas", "pyarrow")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError`."""
        raise UsageError(f"{message} (see '{self.prog} --help')")


def add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the `train` command."""
    parser = commands.add_parser(
        "train",
        help="train a click model gated by LHUC beside a plain MLP of the same size",
        description="Train a click model (embeddings, GroupInt between the left and the right "
        "fields, LHUCTower gated by the gate fields) beside a plain MLP of the same size, on the "
        "same split. Without --data, on a generated click log.",
    )
    parser.set_defaults(run=run_train)
    data = parser.add_argument_group("data")
    _option(data, "--data", "a .csv, .tsv or .parquet file", type=Path, metavar="FILE")
    _option(
        data,
        "--sep",
        "CSV separator, otherwise found in the first line",
        type=_separator,
        metavar="CHAR",
    )
    _option(data, "--label", "what to predict, 0 or 1", metavar="COLUMN")
    _option(
        data,
        "--positive-from",
        "makes the label 1 where --label is at least VALUE",
        type=_finite,
        metavar="VALUE",
    )
    _option(data, "--left", "such as user,age,city", type=_names, metavar="COLUMNS")
    _option(data, "--right", "such as item,category", type=_names, metavar="COLUMNS")
    _option(data, "--gate", "fields that drive the gates", type=_names, metavar="COLUMNS")
    _option(
        data,
        "--time",
        "train on the earliest 80 %%, validate on the next 10 %%, test on the last 10 %%; "
        "otherwise the split is random",
        metavar="COLUMN",
    )
    _option(
        data,
        "--min-count",
        "a category seen fewer than N times in the training part counts as unseen",
        type=_positive_int,
        metavar="N",
    )
    _option(data, "--rows", "rows to generate without --data", type=_positive_int, metavar="N")
    job = parser.add_argument_group("training")
    _option(job, "--backend", BACKEND_HELP, choices=BACKENDS)
    _option(job, "--epochs", "the most epochs", type=_positive_int, metavar="N")
    _option(job, "--batch-size", "rows per step", type=_positive_int, metavar="N")
    _option(job, "--learning-rate", "of AdamW", type=_positive, metavar="X")
    _option(job, "--weight-decay", "of AdamW", type=_not_negative, metavar="X")
    _option(job, "--embedding-dim", "width of a field", type=_positive_int, metavar="N")
    _option(job, "--hidden", "widths of the gated tower", type=_widths, metavar="N,N")
    _option(job, "--seed", "of split, weights and shuffling", type=_seed, metavar="N")
    _option(job, "--out", "where models and pictures go", type=Path, metavar="DIR")


def add_predict(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the `predict` command."""
    parser = commands.add_parser(
        "predict",
        help="predict with a model that `train` saved",
        description="Predict with the model.keras and features.json that `train` saved, under any "
        "backend.",
    )
    parser.set_defaults(run=run_predict)
    parser.add_argument("--model", type=Path, metavar="DIR", required=True, help="train's --out")
    parser.add_argument("--data", type=Path, metavar="FILE", required=True)
    parser.add_argument(
        "--sep", help="CSV separator, otherwise found in the first line", type=_separator
    )
    parser.add_argument("--backend", choices=BACKENDS, help=BACKEND_HELP)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("predictions.csv"),
        help="the rows of --data with a column 'prediction' (default: predictions.csv)",
    )


def run_train(arguments: argparse.Namespace) -> int:
    """Checks the flags, chooses the backend and runs the job."""
    given = {name: value for name, value in vars(arguments).items() if name != "run"}
    options = TrainOptions(**given)
    _check_flags(options, given)
    _need(TRAIN_PACKAGES)
    options = TrainOptions(**{**given, "backend": choose_backend(options.backend)})
    from mlayers.train.run import train

    return train(options)


def run_predict(arguments: argparse.Namespace) -> int:
    """Chooses the backend and predicts."""
    _need(PREDICT_PACKAGES)
    choose_backend(arguments.backend)
    from mlayers.train.predict import predict_file

    predict_file(arguments.model, arguments.data, arguments.out, arguments.sep)
    return 0


def choose_backend(requested: str | None) -> str:
    """Sets KERAS_BACKEND and returns it: the flag, else the variable, else the first installed."""
    installed = [name for name in BACKENDS if find_spec(name)]
    backend = requested or os.environ.get("KERAS_BACKEND") or next(iter(installed), None)
    if backend is None:
        raise UsageError(
            "no Keras backend is installed. Install one: pip install 'mlayers[jax]' (or "
            "[torch], [tensorflow])."
        )
    if backend not in BACKENDS:
        raise UsageError(
            f"the backend must be one of {', '.join(BACKENDS)}. Received: KERAS_BACKEND={backend}"
        )
    if backend not in installed:
        raise UsageError(
            f"the backend {backend} is not installed (found: {', '.join(installed) or 'none'}). "
            f"Install it: pip install 'mlayers[{backend}]'"
        )
    if "keras" in sys.modules and (active := sys.modules["keras"].config.backend()) != backend:
        raise UsageError(
            f"Keras already runs on {active} in this process; start a new one for {backend}."
        )
    os.environ["KERAS_BACKEND"] = backend
    return backend


def _check_flags(options: TrainOptions, given: dict[str, Any]) -> None:
    if options.data is None:
        flags = ("sep", "label", "positive_from", "left", "right", "gate", "time")
        if alone := [_flag(name) for name in flags if name in given]:
            raise UsageError(f"{', '.join(alone)} needs --data FILE.")
        return
    if "rows" in given:
        raise UsageError("--rows is for the generated click log and cannot go with --data.")
    if absent := [_flag(name) for name in ("label", "left", "right", "gate") if name not in given]:
        raise UsageError(f"--data needs {', '.join(absent)} too.")
    if both := sorted({*options.left} & {*options.right}):
        raise UsageError(f"--left and --right must not share a column. Received: {both[0]!r} twice")
    if options.label in (*options.left, *options.right, *options.gate):
        raise UsageError(
            f"the label {options.label!r} must not be a field of --left/--right/--gate."
        )


def _need(packages: tuple[str, ...]) -> None:
    if absent := [name for name in packages if not find_spec(name)]:
        raise UsageError(f"{', '.join(absent)} is not installed: pip install 'mlayers[train]'")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _option(group: argparse._ArgumentGroup, flag: str, text: str, **settings: Any) -> None:
    """Adds a flag of `train`; its default is read from `TrainOptions` and shown in the help."""
    default = getattr(TrainOptions, flag.removeprefix("--").replace("-", "_"))
    if default not in (None, ()):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text} (default: {shown})"
    group.add_argument(flag, help=text, default=argparse.SUPPRESS, **settings)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"must be different column names separated by commas. Received: {text!r}"
        )
    return names


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number. Received: {text!r}")
    return value


def _positive(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0. Received: {text!r}")
    return value


def _not_negative(text: str) -> float:
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be below 0. Received: {text!r}")
    return value


def _whole(text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {lowest} to {highest}. Received: {text!r}"
        )
    return int(text)


def _positive_int(text: str) -> int:
    return _whole(text, 1, 2**31 - 1)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**32 - 1)


def _separator(text: str) -> str:
    char = text.replace("\\t", "\t")
    if len(char) != 1:
        raise argparse.ArgumentTypeError(f"must be one character. Received: {text!r}")
    return char


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_positive_int(part.strip()) for part in text.split(","))
