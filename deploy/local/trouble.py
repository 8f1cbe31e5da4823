"""The one exception that a person is meant to read."""


class Trouble(Exception):
    """Something that the user can mend: the text says what is wrong and what to do about it."""
