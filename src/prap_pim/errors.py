"""The one exception that a user's mistake ends in."""


class UserError(Exception):
    """Something that the user can mend: its text is one line that says what is wrong and where.

    The command line prints the text and exits with code 2; nothing half-written is left behind.
    """
