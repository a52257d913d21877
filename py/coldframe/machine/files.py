"""How files are written: beside, synced, renamed. A reader sees the old or the new one, whole; an error names it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from coldframe.errors import UserError, chain, explain

# Some file systems (FUSE, CIFS, exFAT) know no syncing of a folder: they do without.
_UNSYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yields the name beside `target` that the caller writes; at the end it takes the place of what was there.

    Raises UserError where the disk does not take it: what was there stays, and nothing of the new one.
    """
    with _naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with _naming(target):
            yield partial
            sync(partial)
            partial.replace(target)
            sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Writes a file of text (UTF-8) in this way."""
    with writing(target) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def writing_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder beside `target` to be filled; at the end, when all of it is on the disk, it takes the place
    of what was there, which is only then removed. A kill in between leaves `.partial` or `.replaced`: `recover`.

    Raises UserError as `writing` does.
    """
    partial, replaced = (target.with_name(f"{target.name}.{end}") for end in ("partial", "replaced"))
    try:
        with _naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            recover(target)
            partial.mkdir()
            yield partial
            for file in partial.iterdir():
                sync(file)
            sync_folder(partial)
            if target.exists():
                target.rename(replaced)
            partial.rename(target)
            sync_folder(target.parent)
            remove(replaced)
    finally:
        remove(partial)


def recover(target: Path) -> None:
    """Clears up after a `writing_folder` that was killed half-way; what was being replaced comes back."""
    remove(target.with_name(f"{target.name}.partial"))
    replaced = target.with_name(f"{target.name}.replaced")
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    remove(replaced)


def hash_file(file: Path | str) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hex digits."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove(folder: Path) -> None:
    """Removes a folder and what is in it, or a link to one; nothing where there is none."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def sync(file: Path) -> None:
    """Brings a file to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch.save ends a file that failed, and raises over that
        cause = next((one for one in chain(error) if isinstance(one, (OSError, SafetensorError))), None)
        if cause is None:
            raise
        if isinstance(cause, OSError):
            message = explain(OSError(cause.errno, cause.strerror, str(target)) if cause.errno else cause, target)
        else:
            message = f"{target}  cannot be written: {cause}. Free some room there; the same command goes on."
        raise UserError(message, "file_system") from error


def append(descriptor: int, file: Path, text: str) -> None:
    """Adds lines to an open file that one process writes: all of the text, or none where the disk does not take it."""
    size, data = os.fstat(descriptor).st_size, text.encode()
    with _naming(file):
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            os.ftruncate(descriptor, size)  # a torn line would take the next one with it
            raise
