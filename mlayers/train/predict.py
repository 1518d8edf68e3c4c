# SPDX-License-Identifier: Apache-2.0
"""Predictions from a saved model, under any backend: what `train` wrote is all it takes.

Importing `mlayers.train.model` registers the layers, so that Keras can load them by name.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import is_zipfile

import keras

from mlayers.train.encoder import Encoder
from mlayers.train.errors import DataError
from mlayers.train.model import predict
from mlayers.train.table import read_table

MODEL, BASELINE, FEATURES = "model.keras", "baseline.keras", "features.json"


def predict_file(model_dir: Path, data: Path, out: Path, sep: str | None = None) -> None:
    """Writes the rows of `data` with a column "prediction" to `out`.

    Args:
        model_dir: the folder `train` wrote.
        data: a file with the fields of the model; the text of a CSV is copied as it is.
        out: the CSV to write.
        sep: the CSV separator of `data`; None finds it.

    Raises:
        DataError: a missing or damaged file, a missing column, or one that cannot be read.
    """
    for name in (MODEL, FEATURES):
        if not (model_dir / name).is_file():
            raise DataError(f"{model_dir / name}: there is no such file; has train written it?")
    if not is_zipfile(model_dir / MODEL):
        raise DataError(f"{model_dir / MODEL}: is damaged, or no Keras model.")
    encoder = Encoder.load(model_dir / FEATURES)
    table = read_table(data, None, sep)
    if absent := [name for name in encoder.names if name not in table.columns]:
        raise DataError(f"{data}: there is no column {absent[0]!r}, which the model needs.")
    inputs = encoder.encode(table)
    model = keras.saving.load_model(model_dir / MODEL)
    make_parent(out)
    table.assign(prediction=predict(model, inputs)).to_csv(out, index=False)
    print(f"{len(table):,} predictions by Keras on {keras.config.backend()} in {out}")
    unseen = {name: share for name, share in encoder.unseen_shares(inputs).items() if share}
    if unseen:
        print("values unseen in training: " + format_shares(unseen))


def make_parent(path: Path) -> None:
    """Creates the folder that `path` is to lie in.

    Raises:
        DataError: it cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be created: {error.strerror}.") from error


def format_shares(shares: dict[str, float]) -> str:
    """Such as "user 5.0 %, item 0.1 %"."""
    return ", ".join(f"{name} {share:.1%}".replace("%", " %") for name, share in shares.items())
