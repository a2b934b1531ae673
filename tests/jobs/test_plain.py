"""How the jobs say bytes."""

import re

import pytest

from volpipe.jobs import plain
from volpipe.plan import Budget
from volpipe.runtime.settings import parse_bytes


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (640, "640 bytes"),
        (15360, "15.00 KiB"),
        (3.5 * 2**20, "3.50 MiB"),
        (1.25 * 2**30, "1.25 GiB"),
        (2.5 * 2**40, "2.50 TiB"),
    ],
)
def test_bytes_come_in_the_unit_that_fits(nbytes, text):
    assert plain.size(nbytes) == text


@pytest.mark.parametrize("item", [1, 2**20 + 7, 3 * 2**30 + 1, 5 * 2**40 + 1])
def test_the_memory_that_a_refusal_names_is_enough(item):
    budget = Budget(worker_bytes=2**20, slots=3)
    named = re.search(r"or (.*)$", str(plain.too_large("this", item, budget, "less")))[1]
    assert plain.fits(item, Budget(parse_bytes(named), slots=3))
