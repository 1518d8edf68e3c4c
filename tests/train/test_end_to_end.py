# SPDX-License-Identifier: Apache-2.0
"""A tiny run of `train` on a file and on the generated log, then `predict` with what it saved."""

import csv
import json
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest

from mlayers.__main__ import main
from mlayers.train import run

PNG = b"\x89PNG\r\n"
RNG = np.random.default_rng(5)
ROWS = 400
LOG = pd.DataFrame(
    {
        "user": RNG.integers(20, size=ROWS),
        "item": pd.array(RNG.integers(15, size=ROWS), "Int64"),
        "price": RNG.normal(size=ROWS),
        "page": RNG.choice(["home", "search", "a/b, c"], size=ROWS),
        "rating": RNG.integers(1, 6, size=ROWS),
        "time": RNG.permutation(ROWS),
        "unused": "x",
    }
)
LOG.loc[::7, "price"] = np.nan
LOG.loc[::9, "item"] = pd.NA
FLAGS = ["--label", "rating", "--positive-from", "4", "--left", "user", "--right", "item,price"]
FLAGS += ["--gate", "page,price", "--time", "time", "--epochs", "1", "--batch-size", "64"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on a file."""
    folder = tmp_path_factory.mktemp("train")
    LOG.to_parquet(folder / "log.parquet")
    out = folder / "out"
    assert main(["train", "--data", str(folder / "log.parquet"), *FLAGS, "--out", str(out)]) == 0
    return out


def test_everything_is_written(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "auc.png",
        "baseline.keras",
        "features.json",
        "gates.png",
        "model.keras",
        "predictions.csv",
        "report.json",
    ]
    for name in ("auc.png", "gates.png"):
        assert (trained / name).read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["model.keras", "baseline.keras"])
def test_no_optimizer_of_one_backend_is_saved(trained, name):
    with zipfile.ZipFile(trained / name) as saved:
        assert "optimizer" not in saved.read("config.json").decode()


def test_files_where_it_runs_do_not_lead_the_new_process_astray(trained, tmp_path, monkeypatch):
    (tmp_path / "keras.py").write_text("raise ImportError('not the package')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    assert run._check_in_new_process(trained) <= run.TOLERANCE


def test_the_report_states_how_and_how_well(trained):
    report = json.loads((trained / "report.json").read_text())
    assert report["rows"] == {"training": 320, "validation": 40, "test": 40}
    assert report["versions"]["backend"] == report["options"]["backend"] == keras.config.backend()
    assert report["largest_difference_in_new_process"] <= run.TOLERANCE
    sizes = [figures["parameters"] for figures in report["figures"].values()]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)
    for figures in report["figures"].values():
        assert 0 <= figures["auc"] <= 1
        assert figures["log_loss"] > 0


def test_the_test_part_is_the_latest(trained):
    predictions = pd.read_csv(trained / "predictions.csv")
    assert predictions["time"].tolist() == list(range(360, 400))
    assert {"lhuc_prediction", "mlp_prediction"} <= set(predictions)


def test_predict_on_new_rows(trained, tmp_path, capsys):
    new = LOG.tail(3).drop(columns=["rating", "time"]).assign(user=[1, 999, 2])
    new.to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    out = tmp_path / "folder" / "p.csv"
    arguments = ["--model", trained, "--data", tmp_path / "new.tsv", "--out", out]
    assert main(["predict", *map(str, arguments)]) == 0
    table = pd.read_csv(out)
    assert table["unused"].tolist() == ["x"] * 3
    assert table["prediction"].between(0, 1).all()
    assert "values unseen in training: user 33.3 %" in capsys.readouterr().out


def test_predict_copies_a_csv_as_it_is(trained, tmp_path):
    rows = [
        ["user", "item", "price", "page", "version", "code", "note", "batch", "empty"],
        ["3", "2.0", "01.50", "home", "1.10", "00.50", "NA", "12e4", ""],
        ["4", "n/a", "NaN", "a/b, c", "2.50", "01.25", "n/a", "3e10", ""],
    ]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "p.csv"
    arguments = ["--model", trained, "--data", tmp_path / "new.csv", "--out", out]
    assert main(["predict", *map(str, arguments)]) == 0
    with out.open(newline="") as file:
        assert [row[:-1] for row in csv.reader(file)] == rows


def test_text_that_passes_for_numbers_in_the_test_part_is_still_known(tmp_path, capsys):
    version = np.where(np.arange(ROWS) < 300, RNG.choice(["1.10", "2.50", "beta"], ROWS), "1.10")
    table = LOG.assign(version=version, time=np.arange(ROWS))
    table.to_csv(tmp_path / "log.csv", index=False)
    arguments = ["train", "--data", tmp_path / "log.csv", *FLAGS, "--gate", "version"]
    assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 0
    assert "predictions are the same" in capsys.readouterr().out


def test_predict_names_a_missing_column(trained, tmp_path, capsys):
    LOG.drop(columns="page").to_csv(tmp_path / "new.csv", index=False)
    arguments = ["--model", trained, "--data", tmp_path / "new.csv"]
    assert main(["predict", *map(str, arguments)]) == 2
    assert "there is no column 'page', which the model needs" in capsys.readouterr().err


def test_predict_names_a_value_that_is_no_number(trained, tmp_path, capsys):
    LOG.assign(price="cheap").to_csv(tmp_path / "new.csv", index=False)
    arguments = ["--model", trained, "--data", tmp_path / "new.csv"]
    assert main(["predict", *map(str, arguments)]) == 2
    assert "column 'price' must hold finite numbers. Received: 'cheap'" in capsys.readouterr().err


def test_without_a_file_the_log_is_generated_and_the_last_lines_are_the_figures(tmp_path, capsys):
    arguments = ["train", "--rows", "600", "--epochs", "1", "--hidden", "8", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "0s" in printed  # Keras' progress bar
    last = printed.splitlines()[-5:]
    assert [line.split()[0] for line in last] == ["on", "best", "plain", "LHUC", "LHUC"]
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert last[3].endswith(f"{figures['LHUC tower']['auc']:.4f}")


def test_other_predictions_in_the_new_process_are_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "_fit", lambda *arguments: [0.5])
    monkeypatch.setattr(run, "_check_in_new_process", lambda out: 0.1)
    arguments = ["train", "--rows", "300", "--epochs", "1", "--hidden", "4", "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert "predictions DIFFER (largest difference 1.0e-01" in capsys.readouterr().out
