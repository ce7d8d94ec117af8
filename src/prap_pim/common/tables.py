"""Tables for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from prap_pim.common.errors import UserError


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame with a row each.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError("to_pandas needs one more package: pip install 'prap-pim[pandas]'") from error
    return pandas.DataFrame(list(rows))
