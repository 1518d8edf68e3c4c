# SPDX-License-Identifier: Apache-2.0
"""Columns to ids and numbers: learned from the training part, the same after saving."""

import numpy as np
import pandas as pd
import pytest

from mlayers.train.encoder import FIRST, HIDDEN_SHARE, MISSING, UNSEEN, Encoder, fit_encoder
from mlayers.train.errors import DataError
from mlayers.train.table import read_table

TRAINING = pd.DataFrame(
    {
        "user": pd.array([3, 10, 3, None], "Int64"),
        "city": pd.array(["b", "a", "b", "b"], "string"),
        "price": [1.0, 3.0, np.nan, 5.0],
    }
)


def fit(**settings):
    return fit_encoder(TRAINING, ["user"], ["city", "price"], ["city"], **settings)


def test_each_category_has_its_id_within_the_run_of_its_field():
    encoder = fit()
    assert encoder.names == ("user", "city", "price")
    assert encoder.categories[0].values == ("3", "10")
    assert encoder.offsets.tolist() == [0, 4]
    assert encoder.vocabulary == 8
    expected = [[FIRST, 4 + FIRST + 1], [FIRST + 1, 4 + FIRST], [FIRST, 7], [MISSING, 7]]
    ids_bc = encoder.encode(TRAINING)["categories"]
    assert ids_bc.dtype == np.int32
    np.testing.assert_array_equal(ids_bc, expected)


def test_floats_are_standardised_and_a_missing_one_is_the_mean():
    numbers_bf = fit().encode(TRAINING)["numbers"]
    root = np.sqrt(8 / 3)
    np.testing.assert_allclose(numbers_bf[:, 0], [-2 / root, 0, 0, 2 / root], rtol=1e-6)


def test_new_rows_use_what_the_training_part_taught():
    new = pd.DataFrame({"user": [99, 10], "city": ["c", None], "price": [5.0, 3.0]})
    inputs = fit().encode(new)
    np.testing.assert_array_equal(
        inputs["categories"], [[UNSEEN, 4 + UNSEEN], [FIRST + 1, 4 + MISSING]]
    )
    np.testing.assert_allclose(inputs["numbers"][:, 0], [2 / np.sqrt(8 / 3), 0], rtol=1e-6)
    assert fit().unseen_shares(inputs) == {"user": 0.5, "city": 0.5}


CSV = "version,hash,price\n1.10,12e4,1.5\n1.10,ab3f,2\nbeta,12e4,3\n2.50,77aa,NA\n"


@pytest.mark.parametrize("rows", [[0], [3], [0, 3], [1, 2], [0, 1, 2, 3]])
def test_a_row_is_encoded_alike_whatever_else_its_file_holds(tmp_path, rows):
    """Each of these rows alone would pass for other types than the whole file has."""
    (tmp_path / "a.csv").write_text(CSV)
    names = ["version", "hash", "price"]
    training = read_table(tmp_path / "a.csv", names, fields=names)
    encoder = fit_encoder(training, ["version"], ["hash", "price"], ["version"])
    assert [field.name for field in encoder.numbers] == ["price"]
    lines = CSV.splitlines()
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *(lines[1 + row] for row in rows)]))
    inputs = encoder.encode(read_table(tmp_path / "b.csv", None))
    assert encoder.unseen_shares(inputs) == {"version": 0, "hash": 0}
    for name, values in encoder.encode(training).items():
        np.testing.assert_array_equal(inputs[name], values[rows])


def test_whole_numbers_beside_a_missing_one_are_still_known(tmp_path):
    training = pd.DataFrame({"id": [5, 7]})
    encoder = fit_encoder(training, ["id"], [], [])
    later = pd.DataFrame({"id": [7, None, 5.5]})
    later.to_csv(tmp_path / "a.csv", index=False)
    later.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        ids_b1 = encoder.encode(read_table(tmp_path / name, None))["categories"]
        assert ids_b1.tolist() == [[FIRST + 1], [MISSING], [UNSEEN]]


def test_rare_categories_count_as_unseen():
    encoder = fit(min_count=2)
    assert [field.values for field in encoder.categories] == [("3",), ("b",)]
    assert encoder.encode(TRAINING)["categories"][1].tolist() == [UNSEEN, 3 + UNSEEN]


def test_a_constant_float_is_zero_and_not_nan():
    encoder = fit_encoder(pd.DataFrame({"x": [2.0, 2.0]}), ["x"], [], [])
    np.testing.assert_array_equal(
        encoder.encode(pd.DataFrame({"x": [2.0, np.nan]}))["numbers"], [[0], [0]]
    )
    assert encoder.unseen_shares({}) == {}


def test_a_small_share_of_the_training_categories_is_hidden():
    encoder = fit()
    ids_bc = np.tile(encoder.encode(TRAINING)["categories"], (20_000, 1))
    hidden_bc = encoder.hide_some({"categories": ids_bc}, seed=1)["categories"]
    changed_bc = hidden_bc != ids_bc
    assert changed_bc.mean() == pytest.approx(HIDDEN_SHARE, rel=0.1)
    assert set(hidden_bc[changed_bc]) == {UNSEEN, 4 + UNSEEN}
    again_bc = encoder.hide_some({"categories": ids_bc}, seed=1)["categories"]
    np.testing.assert_array_equal(hidden_bc, again_bc)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    encoder = fit()
    encoder.save(tmp_path / "features.json")
    assert Encoder.load(tmp_path / "features.json") == encoder


def test_a_file_of_an_older_version_is_read_where_its_categories_are_still_distinct(tmp_path):
    path = tmp_path / "features.json"
    encoder = fit_encoder(pd.DataFrame({"version": ["5.0", "1.10", "beta"]}), ["version"], [], [])
    encoder.save(path)
    text = path.read_text()
    path.write_text(text.replace('"5"', '"5.0"'))
    assert Encoder.load(path) == encoder
    path.write_text(text.replace('"beta"', '"5.0"'))
    with pytest.raises(DataError, match=r"of 'version' must be .* once.* Received: '5' twice"):
        Encoder.load(path)


@pytest.mark.parametrize("text", ["{}", "no json", '{"categories": [{"name": "a"}]}'])
def test_a_file_that_train_has_not_written_is_named(tmp_path, text):
    path = tmp_path / "features.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"is not a features\.json written"):
        Encoder.load(path)


@pytest.mark.parametrize("values", [[np.nan, np.nan], ["NA", None]])
def test_a_column_without_values_is_named(values):
    with pytest.raises(DataError, match="column 'x' has no value in the 2 training rows"):
        fit_encoder(pd.DataFrame({"x": values}), ["x"], [], [])
