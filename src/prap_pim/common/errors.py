"""The one exception that a user's mistake ends in, and its text on a terminal."""

_LONGEST = 500  # characters of a message
_LONGEST_WORD = 200  # and of what has no blank in it, such as a path


class UserError(Exception):
    """Something that the user can mend: its text is one line that says what is wrong and where.

    The command line prints the text and exits with code 2; nothing half-written is left behind. What it repeats of the
    user's input is cut.
    """

    def __init__(self, text: object) -> None:
        words = (shown(word, _LONGEST_WORD) for word in str(text)[: 1 << 16].split())
        super().__init__(shown(" ".join(words), _LONGEST))


def printable(text: str) -> str:
    """Text out of a file, or a user's name, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: object) -> str:
    """A complaint as one line of printable characters."""
    return printable(" ".join(str(text).split()))


def shown(text: str, most: int = 120) -> str:
    """A text out of a file without characters that a terminal would obey, with its middle left out if it is long."""
    plain = printable(text)
    return plain if len(plain) <= most else plain[: most // 2 - 3] + "..." + plain[-(most - most // 2) :]
