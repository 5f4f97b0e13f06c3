"""What an error is due to, by its causes."""

import errno

import pytest

from avjax.errors import StorageError
from avjax.storage import failures


def test_an_error_raised_from_itself_has_one_cause():
    error = ValueError("of the item's own")
    error.__cause__ = error
    assert list(failures.chain(error)) == [error]
    failures.check(error)


def test_a_fault_of_storage_is_found_behind_others():
    error, cause = ValueError("wrapped"), OSError(errno.ENOSPC, "No space left on device")
    error.__cause__ = cause
    cause.__context__ = error
    with pytest.raises(StorageError, match="disk is full"):
        failures.check(error)
