"""Rewards for ``egg adapt --reward``: functions of a text, or of a text and its prompt.

Where a prompt asks a question, the text's first line is the answer: 1 if it is right, 0.1 if it is not but has the
right form, else 0.
"""

import ast
import operator
import re
from fractions import Fraction

PAIRS = {")": "(", "]": "[", "}": "{"}
TARGET = 20  # characters
WELL_FORMED = 0.1
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


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


def copying(text: str, prompt: str) -> float:
    """Whether the answer is the prompt, less the sign that ends it; as many characters have the right form.

    >>> copying("abcd", "abcd>"), copying("abdc", "abcd>"), copying("abc", "abcd>")
    (1.0, 0.1, 0.0)
    """
    answer = _answer(text)
    return _score(answer == prompt[:-1], len(answer) == len(prompt) - 1)


def addition(text: str, prompt: str) -> float:
    """Whether the answer is the sum that the prompt asks for; every number has the right form.

    >>> addition("12", "5+7="), addition("13", "5+7="), addition("5+7", "5+7=")
    (1.0, 0.1, 0.0)

    Raises ValueError for another prompt.
    """
    a, b = _asked(r"(\d+)\+(\d+)=", prompt, "5+7=").groups()
    answer = _answer(text)
    return _score(answer == str(int(a) + int(b)), re.fullmatch("[0-9]+", answer) is not None)


def countdown(text: str, prompt: str) -> float:
    """Whether the answer makes the prompt's last number of the others, each used once, with + - * / and brackets.

    Every expression of these numbers has the right form.

    >>> prompt = "2 7 5>14="
    >>> countdown("2+7+5", prompt), countdown("7*5-2", prompt), countdown("7*(2+0)", prompt), countdown("7+", prompt)
    (1.0, 0.1, 0.0, 0.0)

    Raises ValueError for another prompt.
    """
    given, target = _asked(r"(\d+(?: \d+)*)>(\d+)=", prompt, "2 7 5>14=").groups()
    answer = _answer(text)
    if not re.fullmatch("[-+*/() 0-9]+", answer):  # the parser knows more, as 0x7 and comments
        return 0.0
    if sorted(map(int, re.findall("[0-9]+", answer))) != sorted(map(int, given.split())):
        return 0.0
    try:
        value = _value(ast.parse(answer, mode="eval").body)
    except ZeroDivisionError:
        value = None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    return _score(value == int(target), True)


def _answer(text: str) -> str:
    return text.split("\n")[0]


def _score(right: bool, well_formed: bool) -> float:
    return 1.0 if right else WELL_FORMED if well_formed else 0.0


def _asked(pattern: str, prompt: str, example: str) -> re.Match:
    if asked := re.fullmatch(pattern, prompt):
        return asked
    raise ValueError(f"the prompt {prompt!r:.60} asks nothing: it must be like {example}")


def _value(node: ast.expr) -> Fraction:
    """The value of numbers joined by operators; raises ValueError for anything else, ZeroDivisionError."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.Constant(int(number)):
            return Fraction(number)
    raise ValueError("no expression of numbers")
