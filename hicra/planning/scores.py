"""How well a lexicon finds planning tokens, against a mask that is known to be true.

By hand, where scikit-learn has `precision_recall_fscore_support`: masks are scored with the extra `trl` alone
too, which brings no scikit-learn. tests/test_planning.py compares both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class TokenScore(NamedTuple):
    """Per-token precision, recall and F1, and the counts behind them."""

    precision: float
    recall: float
    f1: float
    marked: int
    true: int


def token_scores(marked: Tensor, true: Tensor) -> TokenScore:
    """Compare two bool masks (B, T) token by token; NaN where a ratio is over nothing.

    Raises ValueError for masks of different shapes.
    """
    if marked.shape != true.shape:
        raise ValueError(f"masks differ in shape: {tuple(marked.shape)} and {tuple(true.shape)}")
    both, n_marked, n_true = (int(m.sum()) for m in (marked & true, marked, true))
    precision = both / n_marked if n_marked else float("nan")
    recall = both / n_true if n_true else float("nan")
    f1 = 2 * both / (n_marked + n_true) if n_marked + n_true else float("nan")
    return TokenScore(precision, recall, f1, n_marked, n_true)
