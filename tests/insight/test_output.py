# SPDX-License-Identifier: Apache-2.0
"""A report as text, table, dict, HTML and picture; and what is imported for it."""

import json
from html.parser import HTMLParser

import keras
import matplotlib as mpl
import numpy as np
import pytest

from mlayers.insight import FeatureInsightReport, FieldInsight, _optional, feature_insight_report
from support import programs

mpl.use("Agg")

ROWS = [
    FieldInsight("age", 1, -0.5, 0.5, 0.1, 0.25),
    FieldInsight("<b>item & co</b>", 16, 0.1, 3.5, 0.7, -0.5),
    FieldInsight("cost $x_{$", 1200, 12345.678, 1.0, 0.2, float("nan")),
]
REPORT = FeatureInsightReport(ROWS, "mlp", units=1, n_examples=12345)
UNLABELLED = FeatureInsightReport(
    [FieldInsight("a", 2, 1.0, 1.0, 0.25, None), FieldInsight("b", 1, 3.0, 3.0, 0.75, None)],
    "tower",
    units=16,
    n_examples=1,
)


def test_text_is_a_table_sorted_by_share():
    assert str(REPORT).splitlines() == [
        "Feature insight of 'mlp': 12,345 examples, 1 unit",
        "field              size       mean  mean_abs   share  correlation",
        "<b>item & co</b>     16        0.1       3.5  70.0 %       -0.500",
        "cost $x_{$        1,200  1.235e+04         1  20.0 %          nan",
        "age                   1       -0.5       0.5  10.0 %        0.250",
    ]
    assert str(UNLABELLED).splitlines() == [
        "Feature insight of 'tower': 1 example, 16 units",
        "field  size  mean  mean_abs   share",
        "b         1     3         3  75.0 %",
        "a         2     1         1  25.0 %",
    ]


def test_odd_names_keep_the_table_in_shape():
    rows = [FieldInsight(name, 1, 0.0, 0.0, 0.0, None) for name in ("two\nlines\t", "x" * 99, "")]
    _, _, *lines = str(FeatureInsightReport(rows, "mlp", 1, 1)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("two lines ")
    assert lines[1].startswith("x" * 39 + "… ")


def test_nan_is_sorted_last():
    rows = [FieldInsight(n, 1, s, s, s, None) for n, s in (("a", np.nan), ("b", 0.1), ("c", 0.9))]
    assert [row.name for row in FeatureInsightReport(rows, "mlp", 1, 1).by_share()] == [*"cba"]


def test_dict_is_plain_python():
    as_dict = REPORT.to_dict()
    assert as_dict["rows"][0] == {
        "name": "age",
        "size": 1,
        "mean": -0.5,
        "mean_abs": 0.5,
        "share": 0.1,
        "correlation": 0.25,
    }
    assert {k: v for k, v in as_dict.items() if k != "rows"} == {
        "layer": "mlp",
        "units": 1,
        "n_examples": 12345,
    }
    dense = keras.layers.Dense(1)
    dense.build((None, 3))
    report = feature_insight_report(dense, np.ones((2, 3)), ["a", "b"], [2, 1], label=[0, 1])
    assert json.loads(json.dumps(report.to_dict()))["rows"][1]["name"] == "b"


@pytest.mark.parametrize("report", [REPORT, UNLABELLED])
def test_pandas(report):
    table = report.to_pandas()
    assert [*table.columns] == ["name", "size", "mean", "mean_abs", "share", "correlation"]
    assert [*table["name"]] == [row.name for row in report.rows]
    assert table["correlation"].dtype == "float64"
    for index, row in enumerate(report.rows):
        expected = np.nan if row.correlation is None else row.correlation
        np.testing.assert_equal(table["correlation"][index], expected)
        assert table["share"][index] == row.share


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("td", "th", "caption"):
            self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data


def test_html_escapes_names():
    parser = Cells()
    parser.feed(REPORT._repr_html_())
    assert {*parser.tags} == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    caption, *cells = parser.cells
    assert caption == str(REPORT).splitlines()[0]
    assert cells[:6] == ["field", "size", "mean", "mean_abs", "share", "correlation"]
    assert cells[6::6] == ["<b>item & co</b>", "cost $x_{$", "age"]
    assert cells[7:12] == ["16", "0.1", "3.5", "70.0 %", "-0.500"]
    assert "correlation" not in UNLABELLED._repr_html_()
    odd = FeatureInsightReport(ROWS, "<script>", 1, 1)._repr_html_()
    assert "<script>" not in odd


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_plot_draws_bars_in_order(tmp_path):
    axes = REPORT.plot()
    figure = axes.figure
    figure.savefig(tmp_path / "insight.png")
    assert (tmp_path / "insight.png").stat().st_size > 5000
    assert labels(axes) == ["<b>item & co</b>", "cost $x_{$", "age"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([70, 20, 10])
    heights = [axes.transData.transform((0, bar.get_y()))[1] for bar in axes.patches]
    assert heights == sorted(heights, reverse=True)  # the largest on top
    assert "share" in axes.get_xlabel()
    assert "mlp" in axes.get_title()
    mpl.pyplot.close(figure)


def test_plot_draws_on_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots(1, 2)[1]
    assert UNLABELLED.plot(axes) is axes
    assert UNLABELLED.plot(axes=axes) is axes
    assert labels(axes) == ["b", "a"]
    figure.canvas.draw()


@pytest.mark.parametrize(("method", "package"), [("to_pandas", "pandas"), ("plot", "matplotlib")])
def test_a_missing_package_is_named(method, package, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_optional, "import_module", missing)
    words = f"FeatureInsightReport.{method} needs the package '{package}': pip install {package}"
    with pytest.raises(ImportError, match=words):
        getattr(REPORT, method)()


def test_nothing_heavy_is_imported():
    program = (
        "import sys, mlayers\n"
        "assert 'mlayers.insight' not in sys.modules and 'keras' not in sys.modules\n"
        "import mlayers.layers\n"
        "before = set(sys.modules)\n"  # Keras imports pandas and matplotlib where they are
        "mlayers.insight\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))\n"
        "import mlayers.layers, mlayers.insight\n"
        "assert mlayers.insight.feature_insight_report\n"
    )
    assert programs.output("-c", program).splitlines()[-1] == "['mlayers']"
