"""The one exception of this package."""


class DataError(Exception):
    """One line that names what is wrong, where, and what to do; the command line prints it."""

    def __init__(self, message: str) -> None:
        # Messages of other libraries, quoted in ours, may hold line breaks.
        super().__init__(" ".join(message.split()))
