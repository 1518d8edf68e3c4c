# SPDX-License-Identifier: Apache-2.0
"""Reading files: separators, types, missing values, labels and times."""

import numpy as np
import pandas as pd
import pytest

from mlayers.train.errors import DataError
from mlayers.train.table import as_floats, as_text, is_category, read_label, read_table, read_time


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("sep", [",", "\t", ";", "|"])
def test_the_separator_is_found_in_the_first_line(tmp_path, sep):
    path = write(tmp_path / "a.csv", f"user{sep}price\n7{sep}1.5\n8{sep}2\n")
    table = read_table(path, ["user", "price"], fields=["user", "price"])
    assert table["user"].tolist() == ["7", "8"]
    assert table["price"].tolist() == [1.5, 2.0]


def test_a_given_separator_wins(tmp_path):
    path = write(tmp_path / "a.csv", "a,b;c\n1,2;3\n")
    assert read_table(path, None, sep=";").columns.tolist() == ["a,b", "c"]


def test_whole_numbers_and_text_are_categories_and_keep_their_zeros(tmp_path):
    path = write(tmp_path / "a.csv", "zip,on,x,name\n007,True,0.5,a\n12,False,,\n")
    table = read_table(path, None, fields=["zip", "on", "x", "name"])
    assert [is_category(table[name]) for name in table] == [True, True, False, True]
    assert as_text(table["zip"], "zip").tolist() == ["007", "12"]
    np.testing.assert_array_equal(as_floats(table["x"], "x"), [0.5, np.nan])


def test_whole_numbers_with_gaps_are_still_categories(tmp_path):
    path = write(tmp_path / "a.csv", "id,x\n5,1\n,2\nNA,3\n")
    table = read_table(path, None, fields=["id"])
    assert is_category(table["id"])
    text = as_text(table["id"], "id")
    assert text[0] == "5"
    assert text.isna().tolist() == [False, True, True]


def test_the_text_of_a_csv_stays_as_it_is_but_in_fields_of_floats(tmp_path):
    columns = {"version": ["1.10", "02.50"], "note": ["NA", "n/a"], "hash": ["12e4", "3e10"]}
    pd.DataFrame(columns).to_csv(tmp_path / "a.csv", index=False)
    assert read_table(tmp_path / "a.csv", None).to_dict("list") == columns
    table = read_table(tmp_path / "a.csv", None, fields=["version", "note"])
    assert table.to_dict("list") == {**columns, "version": [1.1, 2.5]}


def test_a_float_field_of_a_csv_has_its_missing_values_in_place(tmp_path):
    path = write(tmp_path / "a.csv", "id,x\n1,NA\n2,1.5\n3,\n4,2\n")
    table = read_table(path, None, fields=["x"])
    np.testing.assert_array_equal(as_floats(table["x"], "x"), [np.nan, 1.5, np.nan, 2])


def test_parquet_keeps_its_types_and_reads_as_the_csv_does(tmp_path):
    frame = pd.DataFrame(
        {"id": pd.array([5, None], "Int64"), "on": [True, False], "x": [1.0, 2.0], "s": ["a", "NA"]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet", None)
    assert [is_category(table[name]) for name in table] == [True, True, False, True]
    assert as_text(table["id"], "id")[0] == "5"
    assert as_text(table["on"], "on").tolist() == ["True", "False"]
    assert as_text(table["s"], "s").isna().tolist() == [False, True]


def test_five_is_one_category_whether_whole_or_float():
    assert as_text(pd.Series([5.0, np.nan]), "id")[0] == as_text(pd.Series([5]), "id")[0] == "5"
    assert as_text(pd.Series([5.5, 1e300]), "id")[0] == "5.5"


SPELLINGS = {"5": "5", "5.0": "5", "-5.0": "-5", "0.0": "0", "10.0": "10", "1.10": "1.10"}
SPELLINGS |= {text: text for text in ("007", "007.0", "7", "1.1", "5.00", "12e4", ".0", "v5.0")}


@pytest.mark.parametrize(("value", "text"), SPELLINGS.items())
def test_a_category_is_the_same_whatever_the_other_rows_hold(value, text):
    for others in ([], ["1.5"], ["3"], ["beta", "NA"]):
        assert as_text(pd.Series([value, *others], dtype="string"), "id")[0] == text


@pytest.mark.parametrize("dtype", ["float32", "float64", "Float32", "Float64"])
def test_a_float_is_the_category_of_its_text_in_a_csv(tmp_path, dtype):
    floats = pd.Series([5.0, 0.1, None, -3.0, 1e16, 123456789.0, 1e-7], name="id", dtype=dtype)
    floats.to_csv(tmp_path / "a.csv", index=False)
    text = as_text(read_table(tmp_path / "a.csv", None)["id"], "id")
    pd.testing.assert_series_equal(as_text(floats, "id"), text)
    assert text[[0, 1, 3]].tolist() == ["5", "0.1", "-3"]


@pytest.mark.parametrize(
    ("values", "text"),
    [([5, None], "5"), ([5.0, 1.5, None], "5"), (["5.0", None], "5"), ([True, None], "True")],
)
def test_a_categorical_column_is_the_categories_of_its_values(values, text):
    column = as_text(pd.Series(values, dtype="category"), "id")
    assert column[0] == text
    assert column.isna().tolist() == [value is None for value in values]


def test_label_from_a_threshold():
    label = read_label(pd.Series(["1", "4", "5", "3.9"], dtype="string"), "rating", 4.0)
    np.testing.assert_array_equal(label, [0, 1, 1, 0])
    assert label.dtype == np.float32


@pytest.mark.parametrize("values", [[0, 1, 1], [False, True, True], ["0", "1", "1"]])
def test_label_of_zeros_and_ones(values):
    column = pd.Series(values, dtype="string" if isinstance(values[0], str) else None)
    np.testing.assert_array_equal(read_label(column, "click", None), [0, 1, 1])


@pytest.mark.parametrize(
    "values",
    [
        ["30", "10", "20"],
        ["2024-03-01", "2024-01-01T10:00:00", "2024-02-01"],
    ],
)
def test_time_sorts_numbers_and_dates(values):
    order = np.argsort(read_time(pd.Series(values, dtype="string"), "t"), kind="stable")
    assert order.tolist() == [1, 2, 0]


def test_time_of_a_date_column_sorts():
    times = pd.Series(pd.to_datetime(["2024-03-01", "2024-01-01", "2024-02-01"]))
    assert np.argsort(read_time(times, "t")).tolist() == [1, 2, 0]


def test_rows_at_the_same_time_keep_their_order():
    times = read_time(pd.Series([2.0, 1.0, 2.0, 1.0]), "t")
    assert np.argsort(times, kind="stable").tolist() == [1, 3, 0, 2]


def test_a_time_that_is_none_is_named():
    with pytest.raises(DataError, match=r"the time 't' .* Received: 'noon' in row 2"):
        read_time(pd.Series(["1", "noon"], dtype="string"), "t")


def test_lists_cannot_be_a_category():
    with pytest.raises(DataError, match="column 'tags' holds mixed, which cannot be a category"):
        as_text(pd.Series([["a"], ["b"]]), "tags")
    dates = pd.Series(pd.to_datetime(["2024-03-01"]), dtype="category")
    with pytest.raises(DataError, match=r"column 'day' holds datetime64.*cannot be a category"):
        as_text(dates, "day")


@pytest.mark.parametrize("value", ["two", "inf"])
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(DataError, match=f"column 'x' must hold finite numbers.*'{value}' in row 2"):
        as_floats(pd.Series(["1", value], dtype="string"), "x")
