"""How many cases a fuzz test tries: as written in `make test`, HICRA_FUZZ times as many in `make soak`."""

import os

import pytest
from hypothesis import settings

SCALE = int(os.environ.get("HICRA_FUZZ", "1"))


def fuzz(cases):
    """Mark a hypothesis test as a fuzz test of `cases` cases; goes above `given`."""

    def decorate(test):
        limits = settings(max_examples=cases * SCALE, deadline=None)
        return pytest.mark.timeout(600 * SCALE)(pytest.mark.fuzz(limits(test)))

    return decorate
