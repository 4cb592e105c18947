"""The error of bad input."""


class EggError(Exception):
    """Bad input; its message is one line that names what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # Messages of other libraries, quoted in ours, may hold line breaks.
        super().__init__(" ".join(str(message).split()))
