"""The class of a document by likelihood, where the first line of every document is its class."""

import numpy as np

from egg.errors import EggError
from egg.model.endings import score_endings
from egg.model.network import Network

MOST = 64  # classes


class Classification:
    """Documents with their classes.

    text : (n,) uint8, a NUL before each document
    Raises EggError for fewer than two classes, or so many that first lines can be none.

    >>> Classification(np.frombuffer(b"\\0c\\nint x;\\0py\\nx = 1\\0c\\n/* */", np.uint8)).classes
    [b'c', b'py']
    """

    def __init__(self, text: np.ndarray):
        parts = [document.partition(b"\n") for document in text.tobytes().split(b"\0")[1:]]
        self.documents = [(name, body) for name, _, body in parts if body]
        self.classes = sorted({name for name, _ in self.documents})
        if not 2 <= len(self.classes) <= MOST:
            raise EggError(
                f"--classify: the first lines of the held-out documents are {len(self.classes):,} classes, not 2 to "
                f"{MOST}: begin every document with a line that is its class"
            )

    def accuracy(self, network: Network) -> float:
        """Share of the documents that cost fewer bits after their own class than after any other."""
        texts = [(name + b"\n", body) for _, body in self.documents for name in self.classes]
        bits = np.array([ending.bits for ending in score_endings(network, texts)]).reshape(-1, len(self.classes))
        found = bits.argmin(1)  # of equals the first
        right = sum(self.classes[i] == name for i, (name, _) in zip(found.tolist(), self.documents, strict=True))
        return right / len(self.documents)
