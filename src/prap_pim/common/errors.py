"""The one exception that a user's mistake ends in, and its text on a terminal."""


class UserError(Exception):
    """Something that the user can mend: its text is one line that says what is wrong and where.

    The command line prints the text and exits with code 2; nothing half-written is left behind.
    """


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
