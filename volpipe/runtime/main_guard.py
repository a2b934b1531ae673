"""A script that calls `volpipe.run` outside `if __name__ == "__main__":`.

    script --run--> local workers --each imports the script (multiprocessing's spawn)--> run, again, in the worker

Run there, the job would begin its product anew under the run that started the worker, and wait for workers that cannot
start. So `run` ends such a worker before it does anything; a mark in the scratch folder tells the run why it died.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volpipe.errors import RunError

MARK = "VOLPIPE_UNGUARDED"
"""Environment of workers: the file to make where they meet `run` while they import the script."""

TEXT = (
    "the script calls volpipe.run when it is imported, and every worker process imports it; "
    'put the call under: if __name__ == "__main__":'
)


def refuse_while_imported() -> None:
    """End this process if it imports its parent's script.

    Raises:
        SystemExit: a run of volpipe started this process, and says it.
        RunError: something else did.
    """
    if not getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        return
    mark = os.environ.get(MARK)
    if mark is None:
        raise RunError(TEXT)
    Path(mark).touch()
    raise SystemExit(1)


@contextmanager
def told(scratch: str) -> Iterator[None]:
    """While workers are started: turn the death of those that met `run` into one line.

    Raises:
        RunError: a worker met `run` while it imported the script.
    """
    mark, before = Path(scratch, "unguarded"), os.environ.get(MARK)
    os.environ[MARK] = str(mark)
    try:
        yield
    except Exception:  # Dask only says that a worker did not start
        if mark.exists():
            raise RunError(TEXT) from None
        raise
    finally:
        os.environ.pop(MARK, None)
        if before is not None:
            os.environ[MARK] = before
