"""What must not go on unnoticed: updates that are not finite, and an arm that changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

SKIPS_IN_A_ROW = 10  # updates that a loss scale may skip


class UpdateGuard:
    """Tells which of a step's numbers must end the run.

    In float16 an overflow is met by a smaller loss scale and no update. That is normal now and then, but not
    SKIPS_IN_A_ROW times.
    """

    def __init__(self) -> None:
        self.skips = 0

    def wrong(self, trained: Mapping[str, float], *, skipped: bool) -> list[str]:
        """Names of the numbers that are not finite, where the update was made or skipped too often."""
        self.skips = self.skips + 1 if skipped else 0
        if 0 < self.skips < SKIPS_IN_A_ROW:
            return []
        return [name for name, value in trained.items() if not math.isfinite(value)]


def unchanged(row: Mapping, arm: str) -> str:
    """A notice where an arm that should change advantages changed none: it would be plain GRPO. Else ""."""
    if row["n_credit_changed"]:
        return ""
    return (
        f"{arm} changed no advantage in step {row['step']}: {row['n_planning']} planning tokens, "
        f"{row['n_zero_variance_groups']} of {row['n_groups']} groups without variance. "
        "Check the lexicon and the problems' difficulty"
    )
