"""Two rewards for ``egg adapt --reward``: functions of a text, and of its prompt if they take two arguments."""

PAIRS = {")": "(", "]": "[", "}": "{"}
TARGET = 20  # characters


def balanced_brackets(text: str, prompt: str) -> float:
    """Share of the brackets of prompt and text that have their partner; 0 for a text without any."""
    waiting: list[str] = []
    matched = seen = 0
    for character in prompt + text:
        if character in PAIRS.values():
            waiting.append(character)
            seen += 1
        elif character in PAIRS:
            seen += 1
            if waiting and waiting[-1] == PAIRS[character]:
                waiting.pop()
                matched += 2
    return matched / seen if seen else 0.0


def target_length(text: str) -> float:
    """1 for a first line of 20 characters, less by 1/20 for each that is missing or too many, at least 0."""
    return max(0.0, 1 - abs(len(text.split("\n")[0]) - TARGET) / TARGET)
