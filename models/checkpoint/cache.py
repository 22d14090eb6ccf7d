"""What is kept on this machine about files: folders of single files' configs, and SHA-256 sums. No torch."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from models.errors import UnusableCheckpoint


def cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/darkroom/checkpoints`, else that in `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache").resolve() / "darkroom" / "checkpoints"


def write_folder(name: str, texts: Mapping[str, str], links: Mapping[str, Path]) -> Path:
    """Return a folder with these files and links. Its name follows from them, so it is written once, and whole.

    Raises:
        UnusableCheckpoint: it cannot be written.
    """
    content = json.dumps([sorted(texts.items()), sorted((link, str(target)) for link, target in links.items())])
    folder = cache_dir() / f"{name[:80]}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            for path in (*texts, *links):
                (new / path).parent.mkdir(exist_ok=True)
            for path, text in texts.items():
                (new / path).write_text(text, encoding="utf-8")
            for path, target in links.items():
                (new / path).symlink_to(target)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():  # another process was first
            return folder
        raise _unwritable(error) from error
    return folder


def recorded_sum(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file from byte `start` on, read once on this machine as long as size, times and inode
    stay.

    Raises:
        UnusableCheckpoint: it changes while it is read; or the sum cannot be written down.
    """
    target = path.resolve()
    identity = file_identity(target)
    part = f"{identity} from {start}" if start else identity
    record = cache_dir() / "sums" / hashlib.sha256(part.encode()).hexdigest()
    if record.exists():
        return record.read_text(encoding="ascii")
    with target.open("rb") as file:
        file.seek(start)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if file_identity(target) != identity:
        raise UnusableCheckpoint(f"{target}: changes while it is read; start again once it is whole.")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        new = record.with_suffix(f".{os.getpid()}")
        new.write_text(found, encoding="ascii")
        new.rename(record)
    except OSError as error:
        raise _unwritable(error) from error
    return found


def file_identity(path: Path) -> str:
    """Return what changes with a file's content, as far as its directory entry tells. Raises OSError."""
    stat = path.stat()
    return f"{path} {stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _unwritable(error: OSError) -> UnusableCheckpoint:
    return UnusableCheckpoint(
        f"{cache_dir()}: what is known of a single file cannot be written: {error}. Set XDG_CACHE_HOME to "
        "a folder that can be written to."
    )
