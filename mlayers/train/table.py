# SPDX-License-Identifier: Apache-2.0
"""Reading a CSV or parquet file, and its label and time, with one clear sentence when it cannot be.

A CSV says nothing about types, so its columns are read as text and stay it, value by value. Only in
training a field becomes numbers, if every value is one and some value is not whole: ids such as
``007`` keep their zeros. Later files are read by what the encoder has learned, not by their rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlayers.train.errors import DataError

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
SEPARATORS = ",\t;|"
# Text that means "no value here", in a CSV and in a parquet column of strings alike.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>")
# A whole number as floats are written: what 5 becomes beside a missing value.
WHOLE_FLOAT = r"(?:0|-?[1-9][0-9]*)\.0"


def read_table(
    path: Path, columns: Sequence[str] | None, sep: str | None = None, fields: Sequence[str] = ()
) -> pd.DataFrame:
    """Reads `columns` (None: all) of a file; those of a CSV are the text that is there.

    Args:
        path: a .csv, .tsv, .txt, .parquet or .pq file.
        columns: the names needed.
        sep: the CSV separator; None takes the commonest of comma, tab, semicolon and bar in the
            first line.
        fields: the columns of a CSV that become floats where every value is a number and some value
            is not whole: what training decides once, for every file to come.

    Raises:
        DataError: no such file, an unknown extension, an unreadable or empty file, a column
            that is not in it.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    suffix = path.suffix.lower()
    if suffix not in CSV_SUFFIXES + PARQUET_SUFFIXES:
        raise DataError(
            f"{path}: the extension must be one of {', '.join(CSV_SUFFIXES + PARQUET_SUFFIXES)}. "
            f"Received: {suffix or 'none'!r}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    try:
        if suffix in PARQUET_SUFFIXES:
            table = pd.read_parquet(path, dtype_backend="numpy_nullable")
        else:
            table = _read_csv(path, sep)
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as {suffix[1:]}: {reason}") from error
    wanted = list(table.columns if columns is None else columns)
    if absent := [name for name in wanted if name not in table.columns]:
        raise DataError(
            f"{path}: there is no column {absent[0]!r}. Columns found: "
            f"{', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise DataError(f"{path}: there are no rows below the header.")
    table = table[wanted]
    if suffix in PARQUET_SUFFIXES:
        return table
    return table.assign(**{name: _numbers_if_not_whole(table[name]) for name in fields})


def as_text(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Categories as text, NA where missing: 5, 5.0, "5" and "5.0" are one category.

    The rule looks at one value at a time: its text as a CSV has it, of which a whole number without
    leading zeros loses a final ".0". All else stays as spelled: "007" is not "7", "1.10" not "1.1".

    Raises:
        DataError: for a column of dates, lists or other objects.
    """
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if not _is_plain(values):
        raise DataError(f"column {name!r} holds {_kind(values)}, which cannot be a category.")
    text = column.astype("string")
    text = text.mask(text.str.fullmatch(WHOLE_FLOAT, na=False), text.str.slice(stop=-2))
    return text.mask(text.isin(MISSING))


def as_floats(column: pd.Series[Any], name: str) -> np.ndarray:
    """Numbers as float64, NaN where missing.

    Raises:
        DataError: for a value that is no finite number.
    """
    if not pd.api.types.is_numeric_dtype(column.dtype):
        column = as_text(column, name)
    numbers = pd.to_numeric(column, errors="coerce").astype("Float64")
    values = np.asarray(numbers.to_numpy(float, na_value=np.nan))
    wrong = column.notna().to_numpy() & ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"column {name!r} must hold finite numbers. Received: {str(column.iloc[row])!r} in row "
            f"{column.index[row] + 1}"
        )
    return values


def is_category(column: pd.Series[Any]) -> bool:
    """Whether a column is encoded as categories (whole numbers, text, bools) or as a float."""
    return not pd.api.types.is_float_dtype(column.dtype)


def read_label(column: pd.Series[Any], name: str, positive_from: float | None) -> np.ndarray:
    """The label as 0.0 or 1.0, one per row.

    Raises:
        DataError: for missing or non-numeric labels, other values than 0 and 1 without
            `positive_from`, or one class only.
    """
    if pd.api.types.is_bool_dtype(column.dtype):
        column = column.astype("Int64")
    try:
        numbers = as_floats(column, name)
    except DataError as error:
        raise DataError(f"the label: {error}") from error
    if missing := int(np.isnan(numbers).sum()):
        raise DataError(f"the label {name!r} is missing in {missing} of {len(numbers)} rows.")
    if positive_from is not None:
        label = (numbers >= positive_from).astype(np.float32)
    elif np.isin(numbers, (0, 1)).all():
        label = numbers.astype(np.float32)
    else:
        raise DataError(
            f"the label {name!r} must be 0 or 1 without --positive-from. Received: values from "
            f"{numbers.min():g} to {numbers.max():g}"
        )
    check_both_classes(label, f"the label {name!r}")
    return label


def check_both_classes(label: np.ndarray, where: str) -> None:
    """Raises `DataError` unless `label` holds both a 0 and a 1."""
    if label.size == 0 or label.min() == label.max():
        only = "no rows" if label.size == 0 else f"only {label[0]:g} in {label.size} rows"
        raise DataError(f"{where} must have both classes, 0 and 1. Received: {only}")


def read_time(column: pd.Series[Any], name: str) -> np.ndarray:
    """Points in time as numbers that sort like them.

    Raises:
        DataError: for missing values, or text that is neither numbers nor dates.
    """
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        times = column
    elif pd.api.types.is_numeric_dtype(column.dtype):
        times = column.astype("Float64")
    else:
        text = as_text(column, name)
        numbers = pd.to_numeric(text, errors="coerce")
        dates = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
        times = numbers if numbers.isna().sum() <= dates.isna().sum() else dates
    wrong = times.isna().to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"the time {name!r} must be a number or an ISO date in each row. Received: "
            f"{str(column.iloc[row])!r} in row {row + 1}"
        )
    return np.asarray(times.rank(method="first"))


def _read_csv(path: Path, sep: str | None) -> pd.DataFrame:
    if sep is None:
        with path.open(encoding="utf-8") as file:
            header = file.readline()
        sep = max(SEPARATORS, key=header.count)
    with warnings.catch_warnings():  # rows longer than the header are cut with a mere warning
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path,
            sep=sep,
            index_col=False,
            dtype="string",
            encoding="utf-8",
            keep_default_na=False,
            na_values=[""],
        )


def _numbers_if_not_whole(column: pd.Series[Any]) -> pd.Series[Any]:
    text = column[~column.isin(MISSING)].dropna()
    numbers = pd.to_numeric(text, errors="coerce")
    if text.str.fullmatch(r"[+-]?\d+").all() or numbers.isna().any():
        return column
    return numbers.astype("Float64").reindex(column.index)


def _is_plain(column: pd.Series[Any] | pd.Index[Any]) -> bool:
    if column.dtype == object:
        return pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty", "boolean")
    types = pd.api.types
    return bool(types.is_string_dtype(column.dtype) or types.is_numeric_dtype(column.dtype))


def _kind(column: pd.Series[Any] | pd.Index[Any]) -> str:
    if column.dtype == object:
        return str(pd.api.types.infer_dtype(column, skipna=True))
    return str(column.dtype)
