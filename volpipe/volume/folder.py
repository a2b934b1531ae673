"""Raw bytes under keys, beside a volume, on local disk and on object stores: where ledger and statistics live.

Laws: what `get` returns was put in one piece, and a killed `put` leaves nothing under its key; `put_new`
succeeds for one writer only. Keys are relative, with "/" between parts. A local `put` writes a temporary
file, syncs it and renames it; an object store puts whole objects anyway. Listing is for starting and ending a
run, never for every block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from volpipe.errors import ProductError, VolumeError, WriteError, reason

PARTIAL = ".partial"  # the ending of files that are being written; zarr-python's LocalStore uses the same one
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
_REFUSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.ENOENT: "there is no such folder, and none can be made",  # parents are made first; not in /proc
}
_DENIED = {"PermissionDeniedError", "UnauthenticatedError"}  # obstore's, by name: obstore is an extra


class Folder(Protocol):
    """Bytes under keys; picklable."""

    @property
    def location(self) -> str:
        """Path or address."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, whole or not at all, in place of what was there."""

    def put_new(self, key: str, data: bytes) -> None:
        """Store `data` under a key that nothing is stored under; raises ProductError if something is."""

    def get(self, key: str) -> bytes | None:
        """What is stored under `key`, or None."""

    def keys(self, prefix: str = "") -> list[str]:
        """Every key that begins with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Forget `key`; nothing happens if it is not there."""


def open_folder(location: str) -> Folder:
    """The folder at a local path, or at `s3://bucket/prefix` and the like; it need not exist yet."""
    return ObjectFolder(location.rstrip("/")) if is_remote(location) else LocalFolder(local_path(location))


def is_remote(location: str) -> bool:
    """True for an object store's address."""
    return "://" in location and not location.startswith("file://")


def local_path(location: str) -> str:
    """A local location as a path."""
    return location.removeprefix("file://")


def absolute(location: str) -> str:
    """The location as workers in other folders find it, without a trailing slash."""
    return location.rstrip("/") if is_remote(location) else os.path.abspath(local_path(location))


def occupied(location: str) -> bool:
    """True if anything is stored there: a file, a folder that is not empty, an object below the prefix."""
    if is_remote(location):
        return any(page for page in object_store(location.rstrip("/")).list(chunk_size=1))
    path = Path(local_path(location))
    return any(path.iterdir()) if path.is_dir() else path.exists()


@contextlib.contextmanager
def writing(location: str) -> Iterator[None]:
    """Turn a full disk or a store that refuses into one line.

    Raises:
        WriteError: no space, no quota, no permission, or no folder can be made. Other failures pass: they may go away
        when tried again.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise WriteError(f"{location}: {_FULL[error.errno]}; make room and give the same command again") from error
        if error.errno in _REFUSED or isinstance(error, PermissionError):
            why = _REFUSED.get(error.errno or 0, "permission denied")
            raise WriteError(f"{location}: {why}; give an output where you may write") from error
        raise
    except Exception as error:
        if type(error).__name__ in _DENIED:
            raise WriteError(f"{location}: {reason(error)}; give credentials that may write") from error
        raise


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a file system with atomic rename and hard links (all local ones, NFS, Lustre, GPFS)."""

    location: str

    def put(self, key: str, data: bytes) -> None:
        """See `Folder.put`."""
        target = self._path(key)
        with writing(self.location), _temporary(target, data) as partial:
            os.replace(partial, target)

    def put_new(self, key: str, data: bytes) -> None:
        """See `Folder.put_new`."""
        target = self._path(key)
        try:
            with writing(self.location), _temporary(target, data) as partial:
                os.link(partial, target)  # unlike rename, it fails if the target exists
        except FileExistsError:
            raise _taken(self.location, key) from None

    def get(self, key: str) -> bytes | None:
        """See `Folder.get`."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def keys(self, prefix: str = "") -> list[str]:
        """See `Folder.keys`."""
        root = Path(self.location)
        below = root / prefix.rpartition("/")[0]
        keys = (path.relative_to(root).as_posix() for path in below.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix) and not key.endswith(PARTIAL))

    def delete(self, key: str) -> None:
        """See `Folder.delete`."""
        with writing(self.location):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return Path(self.location, key)


@dataclass(frozen=True)
class ObjectFolder:
    """A prefix in an object store; credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*)."""

    location: str

    def put(self, key: str, data: bytes) -> None:
        """See `Folder.put`."""
        with writing(self.location):
            self._store.put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        """See `Folder.put_new`; a conditional put (If-None-Match), so one of two writers wins."""
        store, exists = self._store, _obstore_error("AlreadyExistsError")
        try:
            with writing(self.location):
                store.put(key, data, mode="create")
        except (FileExistsError, exists):
            raise _taken(self.location, key) from None

    def get(self, key: str) -> bytes | None:
        """See `Folder.get`."""
        store, missing = self._store, _obstore_error("NotFoundError")
        try:
            return bytes(store.get(key).bytes())
        except (FileNotFoundError, missing):
            return None

    def keys(self, prefix: str = "") -> list[str]:
        """See `Folder.keys`."""
        parent = prefix.rpartition("/")[0] or None  # stores list whole path segments, not string prefixes
        found = (entry["path"] for page in self._store.list(parent) for entry in page)
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """See `Folder.delete`."""
        with writing(self.location), contextlib.suppress(FileNotFoundError):
            self._store.delete(key)

    @property
    def _store(self) -> Any:
        return object_store(self.location)


@lru_cache(maxsize=64)
def object_store(location: str) -> Any:
    """The obstore store at an address; one per address and process.

    Raises:
        VolumeError: obstore is not installed, or the address is not one that it knows.
    """
    try:
        from obstore.store import from_url
    except ImportError:
        raise VolumeError(f"{location}: object stores need obstore; pip install 'volpipe[remote]'") from None
    try:
        return from_url(location)
    except Exception as error:  # obstore raises its own errors and ValueError
        raise VolumeError(f"{location}: {reason(error)}; give an address such as s3://bucket/prefix") from None


def _obstore_error(name: str) -> type[Exception]:
    import obstore.exceptions

    return getattr(obstore.exceptions, name)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _temporary(target: Path, data: bytes) -> Iterator[Path]:
    """A synced file beside `target` that holds `data`; gone afterwards unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _taken(location: str, key: str) -> ProductError:
    return ProductError(f"{location}/{key} exists already; another run writes here, stop one of the two")
