"""The ledger: what is done, written beside the product while a run goes on, and read by the next one.

    OUT.ome.zarr.ledger/key.json              what the product is made of: weights, settings, input, geometry
    OUT.ome.zarr.ledger/receipts-00000001     lines of JSON, one receipt each; a segment is written once, whole
    OUT.ome.zarr.ledger/receipts-00000002     ...

Object stores have no append, no rename and no lock, so a segment is numbered, immutable and put in one piece; the
interval between segments grows with the run (1 % of it, at most a minute), so a killed run loses little and a long
one leaves few. A line that does not parse (a torn one) is taken for not written: its block is computed again.
One driver writes; a second one on the same product is noticed because its segment's number is taken.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from volpipe.errors import ProductError, RunError
from volpipe.volume.folder import Folder, open_folder

_KEY = "key.json"
_SEGMENT = "receipts-"
PYRAMID = "1/pyramid"
"""The product, within a volume, of the job that adds levels to it: its ledger goes when level 1 goes."""


Receipt = Mapping[str, Any]  # JSON: the runtime knows what is in it


class Ledger:
    """The receipts of one product."""

    def __init__(self, location: str) -> None:
        self.location = f"{location.rstrip('/')}.ledger"
        self._folder: Folder = open_folder(self.location)
        self._pending: list[Receipt] = []
        self._next = 1 + max((int(name.removeprefix(_SEGMENT)) for name in self._segments()), default=0)
        self._begun = self._folder.get(_KEY)
        self._started = self._flushed = time.monotonic()

    def key(self) -> dict[str, Any] | None:
        """What the product is made of, or None if no run has begun."""
        stored = self._folder.get(_KEY)
        return None if stored is None else {k: v for k, v in json.loads(stored).items() if k != "run"}

    def begin(self, key: Mapping[str, Any]) -> None:
        """Start an empty ledger for a product made of `key`."""
        self.clear()
        self._begun = json.dumps({"run": uuid.uuid4().hex, **key}, indent=1, default=str).encode()
        self._folder.put(_KEY, self._begun)

    def clear(self) -> None:
        """Forget everything; the key first, since receipts without one stand for nothing."""
        for name in (_KEY, *self._segments()):
            self._folder.delete(name)
        self._next = 1

    def receipts(self) -> Iterator[Receipt]:
        """Every receipt written so far, in the order of writing."""
        for name in self._segments():
            for line in (self._folder.get(name) or b"").splitlines():
                receipt = _parse(line)
                if receipt is not None:
                    yield receipt

    def append(self, receipt: Receipt) -> None:
        """Take a receipt; it is stored with the next segment."""
        self._pending.append(receipt)
        now = time.monotonic()
        if now - self._flushed >= min(60.0, max(1.0, (now - self._started) / 100)):
            self.flush()

    def flush(self) -> None:
        """Store what is pending.

        Raises:
            RunError: another run writes to the same ledger.
        """
        self._flushed = time.monotonic()
        if not self._pending:
            return
        if self._folder.get(_KEY) != self._begun:  # begun anew under us: our receipts are of a product that is gone
            raise RunError(f"{self.location}: another run has begun this product anew; stop one of them")
        lines = "".join(json.dumps(dict(receipt)) + "\n" for receipt in self._pending)
        try:
            self._folder.put_new(f"{_SEGMENT}{self._next:08d}", lines.encode())
        except ProductError:
            raise RunError(f"{self.location}: another run writes to this product; stop one of them") from None
        self._pending, self._next = [], self._next + 1

    def _segments(self) -> list[str]:
        return self._folder.keys(_SEGMENT)


def changes(stored: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> list[str]:
    """What differs between two keys: `geometry.tile: [64, 64, 64] -> [32, 32, 32]`, one line each."""
    stored, wanted = (json.loads(json.dumps(key, default=str)) for key in (stored, wanted))  # as it is read back
    found: list[str] = []
    for name in sorted({*stored, *wanted}):
        old, new, here = stored.get(name), wanted.get(name), f"{path}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changes(old, new, f"{here}.")
        elif old != new:
            found.append(f"{here}: {old} -> {new}")
    return found


def _parse(line: bytes) -> Receipt | None:
    try:
        receipt = json.loads(line)
    except ValueError:
        return None
    return receipt if isinstance(receipt, dict) else None
