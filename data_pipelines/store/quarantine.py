"""Is an exception due to one item, which is left out with its reason, or does it end the job?

Libraries raise anything for an odd file, so every exception counts as the item's, except failures
of storage (avjax/storage/failures.py), of memory, of the program itself, and of files that are not
the item's own: those would hit good items as well.
"""

import errno
import os
from collections.abc import Iterable

import av

from avjax.errors import StorageError
from avjax.storage import failures

_NONSENSE = (errno.EINVAL, errno.EOVERFLOW)  # of a place in a file that a number in it gives


def check(error: Exception, files: Iterable[os.PathLike]) -> None:
    """Returns when `error` is due to the item that is read from `files`; else raises it, or the
    StorageError that it is."""
    files = [os.fspath(file) for file in files]
    for link in failures.chain(error):
        if isinstance(link, MemoryError | StorageError | NameError | ImportError):
            raise error
        if isinstance(link, av.error.FFmpegError) and link.errno == errno.EIO:
            continue  # FFmpeg reports damaged files in the same way
        if failures.fault(link) is link:
            failures.check(link)
        of_system = (isinstance(link, OSError) and link.errno
                     and not isinstance(link, av.error.FFmpegError))
        nonsense = of_system and link.filename is None and link.errno in _NONSENSE
        if of_system and not nonsense and str(link.filename) not in files:
            raise error


def said(error: Exception) -> str:
    """The error's type and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
