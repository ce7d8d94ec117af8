"""A process that dies in the middle of writing a file, without a process."""

import os

import pytest


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


def killed_at_write(patch: pytest.MonkeyPatch, number: int) -> None:
    """The write of this number, counted from 1, gets its content out and ends there."""
    left, flush = [number], os.fsync

    def die(handle: int) -> None:
        flush(handle)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    patch.setattr(os, "fsync", die)
