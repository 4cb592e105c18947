"""Two rewards for ``egg adapt --reward``: functions of a text, or of a text and its prompt."""

PAIRS = {")": "(", "]": "[", "}": "{"}
TARGET = 20  # characters


def balanced_brackets(text: str, prompt: str) -> float:
    """Share of the brackets of prompt and text that have a partner; 0 for a text without brackets."""
    unclosed: list[str] = []
    matched = total = 0
    for character in prompt + text:
        if character in PAIRS.values():
            unclosed.append(character)
            total += 1
        elif character in PAIRS:
            total += 1
            if unclosed and unclosed[-1] == PAIRS[character]:
                unclosed.pop()
                matched += 2
    return matched / total if total else 0.0


def target_length(text: str) -> float:
    """1 for a first line of 20 characters, less 1/20 for each character missing or too many; at least 0."""
    return max(0.0, 1 - abs(len(text.split("\n")[0]) - TARGET) / TARGET)
