# SPDX-License-Identifier: Apache-2.0
"""A generated click log: what counts about an item depends on the page it is shown on.

Users have tastes and items have traits, as in any factor model. On top, an item has sixteen signals
(price, discount, rating ...), and each page weighs them in its own way, some even the other way
round. That is a product of page and signal for which a gated tower has the form; a plain MLP can
approximate it, the better the wider it is. Nothing but page, signals and ids is shown to either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

SIGNALS = (
    "price", "discount", "rating", "reviews", "distance", "delivery", "freshness", "popularity",
    "similarity", "novelty", "length", "season", "stock", "returns", "seller_score", "seller_age",
)  # fmt: skip
LEFT: tuple[str, ...] = ("user",)
RIGHT: tuple[str, ...] = ("item", *SIGNALS)
GATE: tuple[str, ...] = ("page",)
LABEL = "click"
USERS, ITEMS, PAGES, TRAITS = 200, 150, 60, 3


@dataclass(frozen=True)
class ClickLog:
    """The rows, and the true probability of a click in each: the best any model could predict."""

    table: pd.DataFrame
    probability: np.ndarray


def generate_click_log(rows: int, seed: int = 0) -> ClickLog:
    """Draws `rows` impressions; the same seed gives the same log.

    The log odds of a click are a constant, the user's and the item's own level,
    0.4 · Σ_t taste[user, t] · trait[item, t], and Σ_k weight[page, k] · signal[impression, k].
    """
    rng = np.random.default_rng(seed)
    level_u, taste_ut = 0.3 * rng.normal(size=USERS), rng.normal(size=(USERS, TRAITS))
    level_i, trait_it = 0.5 * rng.normal(size=ITEMS), rng.normal(size=(ITEMS, TRAITS))
    weight_pk = rng.normal(size=(PAGES, len(SIGNALS)))

    user_b = rng.integers(USERS, size=rows)
    item_b = rng.integers(ITEMS, size=rows)
    page_b = rng.integers(PAGES, size=rows)
    signal_bk = rng.normal(size=(rows, len(SIGNALS)))
    match_b = np.einsum("bt,bt->b", taste_ut[user_b], trait_it[item_b])
    counts_b = np.einsum("bk,bk->b", weight_pk[page_b], signal_bk)
    logit_b = level_u[user_b] + level_i[item_b] + 0.4 * match_b + counts_b - 0.8
    probability_b = 1.0 / (1.0 + np.exp(-logit_b))
    table = pd.DataFrame(
        {"user": user_b, "item": item_b, "page": [f"page_{page:02d}" for page in page_b]}
        | dict(zip(SIGNALS, signal_bk.T, strict=True))
        | {LABEL: (rng.random(rows) < probability_b).astype(int)}
    )
    return ClickLog(table, probability_b)
