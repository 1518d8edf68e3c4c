# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong: one sentence on stderr, exit code 2, no traceback."""

import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from mlayers.__main__ import main
from mlayers.train import cli
from support import programs

GROUPS = ["--left", "user", "--right", "item", "--gate", "page"]
ROWS = 40


def table(**columns):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user": rng.integers(5, size=ROWS),
            "item": rng.integers(5, size=ROWS),
            "page": rng.choice(["a", "b"], size=ROWS),
            "price": rng.normal(size=ROWS),
            "rating": np.tile([1, 5], ROWS // 2),
            "click": np.tile([0, 1], ROWS // 2),
            "time": np.arange(ROWS),
        }
    )
    return frame.assign(**columns)


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a command that must be refused; returns the sentence."""

    def run(*arguments):
        assert main(["train", "--out", str(tmp_path / "out"), *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert printed.err.startswith("mlayers: ")
        assert not (tmp_path / "out" / "model.keras").exists()
        return printed.err

    return run


@pytest.fixture
def csv(tmp_path):
    def write(**columns):
        path = tmp_path / "log.csv"
        table(**columns).to_csv(path, index=False)
        return path

    return write


def some_nan(value):
    return [np.nan, *[value] * (ROWS - 1)]


BAD_COLUMNS = {
    "one class only": (
        {"click": 1},
        [],
        "the label 'click' must have both classes, 0 and 1. Received: only 1 in 40 rows",
    ),
    "one class in a part": (
        {"click": [0, 1] * 16 + [0] * 4 + [0, 1] * 2},
        ["--time", "time"],
        "the validation part of 'click' must have both classes, 0 and 1. Received: only 0 in 4",
    ),
    "label is no 0 or 1": (
        {"click": [1, 5] * (ROWS // 2)},
        [],
        "the label 'click' must be 0 or 1 without --positive-from. Received: values from 1 to 5",
    ),
    "label is text": (
        {"click": ["good", "bad"] * (ROWS // 2)},
        ["--positive-from", "4"],
        "the label: column 'click' must hold finite numbers. Received: 'good' in row 1",
    ),
    "label is missing": (
        {"click": some_nan(1)},
        ["--positive-from", "4"],
        "the label 'click' is missing in 1 of 40 rows",
    ),
    "time is text": (
        {"time": "noon"},
        ["--time", "time"],
        "the time 'time' must be a number or an ISO date in each row. Received: 'noon' in row 1",
    ),
    "time is missing": (
        {"time": some_nan(3)},
        ["--time", "time"],
        "the time 'time' must be a number or an ISO date",
    ),
    "a field without values": (
        {"user": np.nan},
        ["--time", "time"],
        "column 'user' has no value in the 32",
    ),
    "an infinite float": (
        {"user": [0.5, np.inf] * (ROWS // 2), "time": np.arange(ROWS)[::-1]},
        ["--time", "time"],
        "column 'user' must hold finite numbers. Received: 'inf' in row 40",
    ),
}


@pytest.mark.parametrize(("columns", "flags", "words"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_columns_that_cannot_be_used(refused, csv, columns, flags, words):
    path = csv(**columns)
    told = refused("--data", path, "--label", "click", *GROUPS, *flags)
    assert str(path) in told
    assert words in told


@pytest.mark.parametrize("flag", ["--left", "--right", "--gate", "--label", "--time"])
def test_a_column_that_is_not_there(refused, csv, flag):
    path = csv()
    told = refused("--data", path, "--label", "click", *GROUPS, flag, "nope")
    assert f"{path}: there is no column 'nope'. Columns found: user, item, page, price" in told


def test_a_column_of_lists_cannot_be_read(refused, tmp_path):
    path = tmp_path / "log.parquet"
    table(item=[[1, 2]] * ROWS).to_parquet(path)
    told = refused("--data", path, "--label", "click", *GROUPS, "--time", "time")
    assert f"{path}: column 'item' holds" in told
    assert "which cannot be a category" in told


BAD_FILES = {
    "absent": ("log.csv", None, "there is no such file"),
    "empty": ("log.csv", b"", "the file is empty"),
    "header only": ("log.csv", b"user,item,page,click\n", "there are no rows below the header"),
    "extension": ("log.xlsx", b"a", "the extension must be one of .csv, .tsv, .txt, .parquet, .pq"),
    "ragged": (
        "log.csv",
        b"user,item,page,click\n1,2,a,0\n1,2,a,0,9,9\n",
        "cannot be read as csv: Error tokenizing data",
    ),
    "longer than the header": (
        "log.csv",
        b"user,item,page,click\n1,2,a,0,9\n",
        "cannot be read as csv: ",
    ),
    "no UTF-8": ("log.csv", b"user,item,page,click\n\xff,2,a,0\n", "cannot be read as csv: "),
    "no parquet": ("log.parquet", b"user,item", "cannot be read as parquet: "),
}


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_cannot_be_used(refused, tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    told = refused("--data", path, "--label", "click", *GROUPS)
    assert f"{path}: {words}" in told


BAD_FLAGS = {
    "no label": (["--data", "a.csv"], "--data needs --label, --left, --right, --gate too"),
    "no data": (["--label", "click"], "--label needs --data FILE"),
    "no data for groups": (["--left", "a", "--time", "t"], "--left, --time needs --data FILE"),
    "rows of a file": (
        ["--data", "a.csv", "--label", "y", *GROUPS, "--rows", "9"],
        "--rows is for the generated click log",
    ),
    "label is a field": (
        ["--data", "a.csv", "--label", "user", *GROUPS],
        "the label 'user' must not be a field",
    ),
    "on both sides": (
        ["--data", "a.csv", "--label", "y", *GROUPS, "--right", "item,user"],
        "--left and --right must not share a column. Received: 'user' twice",
    ),
    "empty group": (["--gate", ""], "--gate: must be different column names separated by commas"),
    "twice in a group": (["--left", "a,a"], "--left: must be different column names"),
    "epochs": (["--epochs", "0"], "--epochs: must be a whole number from 1 to"),
    "batch size": (["--batch-size", "1.5"], "--batch-size: must be a whole number from 1 to"),
    "seed": (["--seed", "-1"], "--seed: "),
    "hidden": (["--hidden", "8,,4"], "--hidden: must be a whole number"),
    "threshold": (["--positive-from", "four"], "must be a finite number. Received: 'four'"),
    "infinite threshold": (["--positive-from", "inf"], "must be a finite number. Received: 'inf'"),
    "learning rate": (["--learning-rate", "0"], "--learning-rate: must be above 0. Received: '0'"),
    "weight decay": (["--weight-decay", "-1"], "--weight-decay: must not be below 0"),
    "separator": (["--sep", "::"], "--sep: must be one character. Received: '::'"),
    "backend": (["--backend", "theano"], "--backend: invalid choice: 'theano'"),
    "unknown flag": (["--speed", "9"], "unrecognized arguments: --speed 9"),
}


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_flags_that_cannot_be_used(refused, flags, words):
    assert words in refused(*flags)


def test_no_command_and_an_unknown_one(capsys):
    assert main([]) == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err
    assert main(["fly"]) == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be created" in capsys.readouterr().err


def test_a_package_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr(cli, "TRAIN_PACKAGES", ("pandas", "no_such_package"))
    assert "no_such_package is not installed: pip install 'mlayers[train]'" in refused()


def test_a_backend_that_is_not_installed(refused, monkeypatch):
    installed = {"jax"}
    monkeypatch.setattr(
        cli, "find_spec", lambda name: name not in cli.BACKENDS or name in installed
    )
    told = refused("--backend", "torch")
    assert "the backend torch is not installed (found: jax)" in told
    installed.clear()
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert "no Keras backend is installed" in refused()


def test_a_backend_that_cannot_train(refused, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    assert "the backend must be one of jax, torch, tensorflow. Received: KERAS_BACKEND=numpy" in (
        refused()
    )


def test_predict_says_what_is_missing(tmp_path, capsys):
    arguments = ["predict", "--model", str(tmp_path), "--data", str(tmp_path / "a.csv")]
    assert main(arguments) == 2
    assert "model.keras: there is no such file; has train written it?" in capsys.readouterr().err


def test_predict_says_what_is_damaged(tmp_path, capsys):
    arguments = ["predict", "--model", str(tmp_path), "--data", str(tmp_path / "a.csv")]
    (tmp_path / "features.json").write_text('{"categories": []')
    (tmp_path / "model.keras").write_bytes(b"PK no zip file")
    assert main(arguments) == 2
    assert "model.keras: is damaged, or no Keras model." in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert main(arguments) == 2
    assert "features.json: is not a features.json written by train" in capsys.readouterr().err


def test_no_traceback_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "mlayers", "train", "--data", "nope.csv", "--label", "y"]
    done = subprocess.run(
        [*command, *GROUPS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "mlayers: nope.csv: there is no such file."
    assert "Traceback" not in done.stderr


def test_the_parser_imports_no_framework():
    code = (
        "import sys; from mlayers.__main__ import build_parser; build_parser();"
        "print([m for m in ('keras', 'jax', 'torch', 'tensorflow', 'pandas') if m in sys.modules])"
    )
    assert programs.output("-c", code) == "[]"
