# SPDX-License-Identifier: Apache-2.0
"""The generated log: seeded, with a ceiling, and clicks that follow the stated probability."""

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mlayers.train.click_log import GATE, LABEL, LEFT, PAGES, RIGHT, generate_click_log


def test_the_seed_decides():
    first, again, other = (generate_click_log(500, seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.table, again.table)
    assert not first.table.equals(other.table)


def test_the_columns_are_those_of_the_groups():
    assert set(generate_click_log(5).table.columns) == {*LEFT, *RIGHT, *GATE, LABEL}


def test_clicks_follow_the_probability():
    log = generate_click_log(100_000)
    click = log.table[LABEL].to_numpy()
    bins = np.digitize(log.probability, np.linspace(0, 1, 11)[1:-1])
    for number in range(10):
        inside = bins == number
        assert abs(click[inside].mean() - log.probability[inside].mean()) < 0.03


def test_the_ceiling_is_high_and_needs_the_page():
    log = generate_click_log(50_000)
    click = log.table[LABEL]
    assert 0.3 < click.mean() < 0.5
    assert 0.93 < roc_auc_score(click, log.probability) < 0.96
    # No single signal says much, as each page weighs it in its own way.
    signals = [name for name in RIGHT if name != "item"]
    assert all(0.4 < roc_auc_score(click, log.table[name]) < 0.6 for name in signals)
    one_page = log.table[GATE[0]] == "page_07"
    within = [roc_auc_score(click[one_page], log.table.loc[one_page, name]) for name in signals]
    assert max(abs(auc - 0.5) for auc in within) > 0.15
    assert log.table[GATE[0]].nunique() == PAGES
