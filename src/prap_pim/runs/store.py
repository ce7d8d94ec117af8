"""One store for all that is computed once: stages of runs and studies, trials of studies, simulated devices.

A value stands under the digest of all that it depends on (``key_of``), in a JSON file of its own, with large parts in
files beside it. Each file is written whole, the JSON last: it holds the digests of the others and of itself. They are
checked whenever the value is read, so what is damaged is found, and computed anew where that can be done.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prap_pim.common.errors import UserError
from prap_pim.common.files import file_digest, key_of, write_json, write_whole
from prap_pim.results.entries import read_entry

Value = TypeVar("Value", bound=BaseModel)


@dataclass(frozen=True)
class Entry:
    """The place of one value.

    Attributes:
        path: of its JSON file; its other files are in the same folder.
        depends_on: all that it depends on, as plain values.
    """

    path: Path
    depends_on: Any

    def read(self, kind: type[Value]) -> Value:
        """The value.

        Raises:
            UserError: it is missing, or of an earlier version; a file is damaged, which is named.
        """
        saved = read_entry(self.path)
        if key_of(saved["depends_on"]) != key_of(self.depends_on):
            raise UserError(f"{self.path} is damaged: what it holds belongs elsewhere")
        try:
            return kind.model_validate(saved["value"])
        except ValidationError as error:
            raise UserError(f"{self.path} was written by another version") from error

    def load(self, kind: type[Value]) -> Value | None:
        """The value; None if it is missing or damaged, and to be computed anew."""
        with suppress(UserError):
            return self.read(kind)
        return None

    def save(self, value: BaseModel, files: Mapping[str, bytes] | None = None) -> None:
        """Keep a value.

        Args:
            value: it is read back as the same kind.
            files: its large parts, by the names of their files.

        Raises:
            UserError: a file cannot be written; a value that was there before is whole or counts as missing.
        """
        for name, part in (files or {}).items():
            write_whole(self.path.parent / name, part)
        digests = {name: file_digest(self.path.parent / name) for name in files or {}}
        content = {"depends_on": self.depends_on, "value": value.model_dump(), "files": digests}
        write_json(self.path, {**content, "sha256": key_of(content)})


@dataclass(frozen=True)
class Store:
    """Values in a folder.

    Attributes:
        path: of the folder; made when something is kept.
        lock: the right to compute the value with this key, until the block ends. None is needed where the whole folder
            is held already.
    """

    path: Path
    lock: Callable[[str], AbstractContextManager[None]] = lambda key: nullcontext()

    def entry(self, name: str, depends_on: Any) -> Entry:
        """Where the value of this name is that depends on these plain values."""
        return Entry(self.path / f"{name}-{key_of(depends_on)}.json", depends_on)

    def get(
        self, name: str, depends_on: Any, kind: type[Value], compute: Callable[[], tuple[Value, Mapping[str, bytes]]]
    ) -> Value:
        """The value that is kept; if there is none, or it is damaged, ``compute`` gives it and its files.

        Raises:
            UserError: it cannot be computed or kept.
        """
        entry = self.entry(name, depends_on)
        if (value := entry.load(kind)) is None:
            with self.lock(key_of(depends_on)):
                if (value := entry.load(kind)) is None:  # nobody was faster
                    value, files = compute()
                    entry.save(value, files)
        return value
