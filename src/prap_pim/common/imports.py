"""A user's own code, named as "module:function" in a configuration."""

import contextlib
import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from prap_pim.common.errors import UserError, one_line
from prap_pim.common.files import digest_of
from prap_pim.common.settings import Settings, nearest
from prap_pim.common.texts import shown_value

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _by_key(value: Any) -> Any:
    """``{import: ...}`` and others of its kind say by their key what they are, not by a name."""
    if isinstance(value, dict) and "name" not in value:
        for key in _KINDS:
            if key in value:
                return {"name": key} | _of_import(value)
        for key in value:
            if isinstance(key, str) and difflib.get_close_matches(key[:40], _KINDS, n=1, cutoff=0.7):
                hint = {"key": shown_value(key), "hint": nearest(key, _KINDS)}
                raise PydanticCustomError("unknown_key", "unknown key {key} ({hint})", hint)
    return value


def _of_import(value: Any) -> Any:
    """``import`` is a word of Python, so the setting has another name."""
    if isinstance(value, dict) and "import" in value:
        return {"function" if key == "import" else key: kept for key, kept in value.items()}
    return value


_KINDS = ("import", "onnx", "transformers", "timm", "torchvision")
named_by_key = BeforeValidator(_by_key)


class Import(Settings):
    """What ``{import: "module:function", arguments: {...}}`` says.

    Attributes:
        function: "module:function".
        arguments: that it is called with, by name.
    """

    written: ClassVar[dict[str, str]] = {"function": "import"}

    function: str
    arguments: dict[str, Any] = Field(default={})

    @model_validator(mode="wrap")
    @classmethod
    def _named(cls, value: Any, handler: Any) -> Any:
        return handler(_of_import(value))

    def load(self, what: str) -> Callable[..., Any]:
        """The function, with ``arguments`` given.

        Args:
            what: it is for, for messages.

        Raises:
            UserError: the module or the function is missing, or its code fails.
        """
        return Imported(f"{what}: import {self.function}", self.function, self.arguments)


@dataclass(frozen=True)
class Imported:
    """A function of a module, found when it is first called: it can be sent to other processes by name."""

    what: str
    reference: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def __name__(self) -> str:  # as a function has
        return self.reference.rpartition(":")[2]

    def __call__(self, *given: Any) -> Any:
        with running(self.what):
            return self.found(*given, **self.arguments)

    @property
    def found(self) -> Callable[..., Any]:
        """The function itself.

        Raises:
            UserError: it is not there, or its module's code fails.
        """
        if not _REFERENCE.fullmatch(self.reference):
            raise UserError(f"{self.what}: expected module:function, such as mynet:build")
        module_name, _, path = self.reference.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)  # behind all packages
        with running(self.what):
            try:
                value: Any = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                where = f"looked in {here} and on PYTHONPATH"
                raise UserError(f"{self.what}: there is no module {error.name} ({where})") from error
        for part in path.split("."):
            if not hasattr(value, part):
                known = [name for name in vars(value) if not name.startswith("_")]
                raise UserError(f"{self.what}: {module_name} has no {part} ({nearest(part, known)})")
            value = getattr(value, part)
        if not callable(value):
            raise UserError(f"{self.what}: it is no function, but of type {type(value).__name__}")
        function: Callable[..., Any] = value
        return function

    @property
    def digest(self) -> str:
        """SHA-256 over the file of its module, and its arguments."""
        file = getattr(sys.modules[self.found.__module__], "__file__", None)
        content = Path(file).read_bytes() if file is not None and Path(file).exists() else b""
        return digest_of(content, self.reference, repr(sorted(self.arguments.items())))


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """A user's code: what it prints goes to stderr, and what it raises becomes one line.

    Raises:
        UserError: it raised an error, or ended the program.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"{what}: the code ended the program (exit {error.code})") from error
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {one_line(error)}{place_of(error)}") from error


def place_of(error: BaseException) -> str:
    """File and line of the innermost frame of the user's code; of a SyntaxError nothing, which says its own."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return ""
    frame, found = error.__traceback__, ""
    while frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename)
        if "site-packages" not in file.parts and "prap_pim" not in file.parts and file.exists():
            found = f" ({file.name}, line {frame.tb_lineno})"
        frame = frame.tb_next
    return found
