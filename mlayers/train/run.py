# SPDX-License-Identifier: Apache-2.0
"""The job of ``python -m mlayers train``: two models on one split, their figures and pictures."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

import mlayers
from mlayers.train.dataset import Dataset, load_dataset
from mlayers.train.encoder import Encoder, fit_encoder
from mlayers.train.errors import DataError, UsageError
from mlayers.train.model import (
    compile_model,
    gate_values,
    gated_model,
    plain_model,
    predict,
    tower_parameters,
    widths_for,
)
from mlayers.train.options import TrainOptions
from mlayers.train.plots import draw_auc, draw_gates
from mlayers.train.predict import BASELINE, FEATURES, MODEL, format_shares, make_parent

Inputs = dict[str, np.ndarray]

LHUC, MLP = "LHUC tower", "plain MLP"
PREDICTIONS = "predictions.csv"
PATIENCE = 3
# How far a prediction of the saved model in a new process may be from the one in this process.
TOLERANCE = 1e-5


def train(options: TrainOptions) -> int:
    """Trains both models, writes everything to `options.out`, prints the figures.

    Returns:
        0, or 1 if the saved model predicts otherwise in a new process.
    """
    make_parent(options.out / MODEL)
    data = load_dataset(options)
    encoder, inputs = _encode(data, options)
    print(f"mlayers {mlayers.__version__}, Keras {keras.__version__} on {keras.config.backend()}")
    _describe(data, encoder, inputs["test"])
    models = _build(encoder, options)
    histories = {name: _fit(name, model, data, inputs, options) for name, model in models.items()}
    label_b = data.parts["test"].label
    predictions = {name: _predict(model, inputs["test"], options) for name, model in models.items()}
    figures = {
        name: {
            "auc": float(roc_auc_score(label_b, clicks_b)),
            "log_loss": float(log_loss(label_b, clicks_b)),
            "parameters": models[name].count_params(),
            "best_epoch": int(np.argmax(histories[name])) + 1,
        }
        for name, clicks_b in predictions.items()
    }
    ceilings = {part: _ceiling(data, part) for part in ("validation", "test")}

    _save(options.out, models, encoder)
    rows = data.parts["test"].table
    rows.assign(lhuc_prediction=predictions[LHUC], mlp_prediction=predictions[MLP]).to_csv(
        options.out / PREDICTIONS, index=False
    )
    gates = gate_values(models[LHUC], inputs["test"])
    draw_gates(encoder, rows, gates, options.out / "gates.png")
    draw_auc(histories, ceilings["validation"], options.out / "auc.png")
    difference = _check_in_new_process(options.out)
    report = {
        "options": asdict(options),
        "versions": _versions(),
        "rows": {part: len(rows.label) for part, rows in data.parts.items()},
        "click_rate": {part: float(rows.label.mean()) for part, rows in data.parts.items()},
        "unseen_in_test": encoder.unseen_shares(inputs["test"]),
        "figures": figures,
        "best_possible_auc": ceilings,
        "validation_auc": histories,
        "largest_difference_in_new_process": difference,
    }
    text = json.dumps(report, indent=1, default=str)
    (options.out / "report.json").write_text(text + "\n", encoding="utf-8")

    same = difference <= TOLERANCE
    print(
        f"\n{options.out / MODEL} loaded in a new process: predictions "
        f"{'are the same' if same else 'DIFFER'} (largest difference {difference:.1e}, "
        f"allowed {TOLERANCE:.0e})"
    )
    print(f"pictures: {options.out / 'gates.png'}, {options.out / 'auc.png'}\n")
    _print_figures(figures, ceilings["test"], len(label_b))
    return 0 if same else 1


def _encode(data: Dataset, options: TrainOptions) -> tuple[Encoder, dict[str, Inputs]]:
    """The encoder of the training part, and the models' inputs for each part."""
    try:
        training = data.parts["training"].table
        encoder = fit_encoder(training, **data.groups, min_count=options.min_count)
        inputs = {part: encoder.encode(rows.table) for part, rows in data.parts.items()}
    except DataError as error:
        raise DataError(f"{options.data}: {error}") from error
    inputs["training"] = encoder.hide_some(inputs["training"], options.seed)
    return encoder, inputs


def _build(encoder: Encoder, options: TrainOptions) -> dict[str, Any]:
    keras.utils.set_random_seed(options.seed)
    gated = gated_model(encoder, options.embedding_dim, options.hidden)
    inputs = gated.get_layer("tower_input").output.shape[-1]
    widths = widths_for(tower_parameters(gated), inputs, options.hidden)
    keras.utils.set_random_seed(options.seed)
    plain = plain_model(encoder, options.embedding_dim, widths)
    print(
        f"{LHUC} {list(options.hidden)}: {gated.count_params():,} parameters; "
        f"{MLP} {widths}: {plain.count_params():,}"
    )
    return {LHUC: gated, MLP: plain}


def _fit(
    name: str,
    model: Any,
    data: Dataset,
    inputs: dict[str, Inputs],
    options: TrainOptions,
) -> list[float]:
    """Trains one model, keeps its best epoch; returns the AUC on the validation part per epoch."""
    print(f"\n{name}")
    keras.utils.set_random_seed(options.seed)
    compile_model(model, options.learning_rate, options.weight_decay)
    keep_best = keras.callbacks.EarlyStopping(
        monitor="val_auc", mode="max", patience=PATIENCE, restore_best_weights=True
    )
    history = model.fit(
        inputs["training"],
        data.parts["training"].label,
        validation_data=(inputs["validation"], data.parts["validation"].label),
        batch_size=options.batch_size,
        epochs=options.epochs,
        callbacks=[keep_best],
    )
    return [float(value) for value in history.history["val_auc"]]


def _predict(model: Any, inputs: Inputs, options: TrainOptions) -> np.ndarray:
    clicks_b = predict(model, inputs)
    if not np.isfinite(clicks_b).all():
        raise UsageError(
            f"training diverged; try a smaller --learning-rate. Received: {options.learning_rate:g}"
        )
    return clicks_b


def _save(out: Path, models: dict[str, Any], encoder: Encoder) -> None:
    """Saves the models without their optimizers: torch's is a class no other backend can load."""
    for model, name in ((models[LHUC], MODEL), (models[MLP], BASELINE)):
        keras.Model(model.inputs, model.outputs, name=model.name).save(out / name)
    encoder.save(out / FEATURES)


def _check_in_new_process(out: Path) -> float:
    """The largest difference between the predictions here and those of a new process."""
    again = out / "predictions_again.csv"
    # -P: a folder of the user's called "jax" must not be taken for the package.
    command = [sys.executable, "-P", "-m", "mlayers", "predict", "--model", str(out)]
    command += ["--data", str(out / PREDICTIONS), "--out", str(again)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    table = pd.read_csv(again)
    again.unlink()
    return float((table["prediction"] - table["lhuc_prediction"]).abs().max())


def _ceiling(data: Dataset, part: str) -> float | None:
    rows = data.parts[part]
    return None if rows.probability is None else float(roc_auc_score(rows.label, rows.probability))


def _describe(data: Dataset, encoder: Encoder, test: Inputs) -> None:
    for part, rows in data.parts.items():
        share = f"{rows.label.mean():.1%}".replace("%", " %")
        print(f"{part:>10}: {len(rows.label):>9,} rows, {data.label_name!r} is 1 in {share}")
    sizes = {field.name: f"{len(field.values):,} values" for field in encoder.categories}
    sizes |= {field.name: "float" for field in encoder.numbers}
    for group, names in data.groups.items():
        fields = ", ".join(f"{name} ({sizes[name]})" for name in names)
        print(fill(f"{group:>10}: {fields}", 100, subsequent_indent=" " * 12))
    unseen = {name: share for name, share in encoder.unseen_shares(test).items() if share}
    if unseen:
        print(f"test values unseen in training: {format_shares(unseen)}")


def _versions() -> dict[str, str]:
    backend = keras.config.backend()
    versions = {"python": platform.python_version(), "mlayers": mlayers.__version__}
    versions |= {"keras": keras.__version__, "backend": backend, "numpy": np.__version__}
    return versions | {backend: sys.modules[backend].__version__}


def _print_figures(figures: dict[str, dict[str, Any]], ceiling: float | None, rows: int) -> None:
    def line(name: str, cells: Sequence[str]) -> None:
        print(f"{name:<24}" + "".join(f"{cell:>12}" for cell in cells))

    line(f"on {rows:,} test rows", ("parameters", "log loss", "AUC"))
    if ceiling is not None:
        line("best possible", ("", "", f"{ceiling:.4f}"))
    for name in (MLP, LHUC):
        row = figures[name]
        line(name, (f"{row['parameters']:,}", f"{row['log_loss']:.4f}", f"{row['auc']:.4f}"))
    ahead = figures[LHUC]["auc"] - figures[MLP]["auc"]
    line("LHUC tower - plain MLP", ("", "", f"{ahead:+.4f}"))
