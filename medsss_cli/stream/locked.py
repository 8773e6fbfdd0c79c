"""An output file that this process alone writes to.

The lock is flock's: it belongs to the open file and ends with the process, however that ends. Over NFS it holds between
machines where the server does (version 4, or version 3 with lockd); where a file system has none, there is a warning.
"""

from __future__ import annotations

import fcntl
import os

from .. import console
from ..errors import UsageError
from .jsonl import LineWriter


class LockedFile(LineWriter):
    """`path`, made if it was not there, open for reading and writing. A named pipe or a device is opened as it is.

    Raises UsageError where it cannot be written, or another process writes to it.
    """

    def __init__(self, path: str, option: str) -> None:
        self.made = not os.path.exists(path)
        while True:
            try:
                flags = os.O_RDWR | os.O_CREAT if self.made or os.path.isfile(path) else os.O_WRONLY
                super().__init__(path, fd=os.open(path, flags, 0o666))
            except OSError as error:
                raise UsageError(f"cannot write {option} {path}: {error.strerror}") from None
            try:
                if self.regular:
                    self._lock(option)
                # Between the two calls another process may have removed what it had made.
                if not self.regular or (os.path.exists(path) and os.path.samestat(os.fstat(self.fd), os.stat(path))):
                    return
            except BaseException:
                os.close(self.fd)
                raise
            os.close(self.fd)

    def _lock(self, option: str) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{option} {self.name} is being written by another process",
                hint="wait for it, or give each process its own file",
            ) from None
        except OSError as error:
            console.warn(f"{self.name} cannot be locked ({error.strerror}): see that no second process writes to it")

    @property
    def size(self) -> int:
        """Its bytes now."""
        return os.fstat(self.fd).st_size

    def close(self, *, whole: bool = True) -> None:
        """Bring it to the disk and let go of it. If not `whole`, a file that was made and got nothing is removed."""
        if self.regular and not whole and self.made and not self.size:
            os.unlink(os.path.realpath(self.name))
        super().close()
