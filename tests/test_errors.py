"""Other libraries' errors in one line."""

import pytest

from volpipe.errors import named, reason

SCRIPT = """
The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, serialized code (most recent call last):
  File "code/__torch__/net.py", line 9, in forward
    small = torch.max_pool2d(image, [2, 2])
    return torch.add(image, small)
           ~~~~~~~~~ <--- HERE

Traceback of TorchScript, original code (most recent call last):
/home/user/net.py(12): forward
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one line", "one line"),
        ("\n  the first line that says something\nof many", "the first line that says something"),
        ("", "ValueError"),
        ("x" * 1000, "x" * 300 + " ..."),
        (f"{SCRIPT}RuntimeError: sizes differ\n", "sizes differ"),
        (f"{SCRIPT}RuntimeError: sizes differ\nand pages of it\n", "sizes differ"),
        (f"{SCRIPT}torch.cuda.OutOfMemoryError: out of memory", "out of memory"),
        (f"{SCRIPT}in a form of its own\n", "in a form of its own"),
    ],
)
def test_the_line_that_says_what_happened(text, line):
    assert reason(ValueError(text)) == line


def test_an_error_without_words_is_its_type_once():
    assert named(ValueError()) == "ValueError"
    assert named(ValueError("too many\nof them")) == "ValueError: too many"
