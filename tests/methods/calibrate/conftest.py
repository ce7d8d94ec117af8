"""Networks that several files compress; nothing changes them."""

import pytest

from prap_pim.frontend import Captured
from tests.methods.calibrate.networks import Normed, Odd, captured_of


@pytest.fixture(scope="module")
def odd() -> Captured:
    return captured_of(Odd)


@pytest.fixture(scope="module")
def normed() -> Captured:
    return captured_of(Normed)
