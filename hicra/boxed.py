r"""The final answer of a solution: what stands in its last `\boxed{}`."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"(\\boxed[ \t\n]*\{)|\\.|\{|(\})", re.DOTALL)
_THINK = re.compile(r"<(/?)(?:think|thinking|thought)>")


def extract_boxed(completion: str, *, prefilled_think: bool = False) -> str | None:
    r"""The content of the last complete `\boxed{...}` in the answer, or None where there is none.

    The answer is what follows the last closing thinking tag (think, thinking or thought); without
    tags it is the whole completion. A block that is opened and not closed has no answer. Where the
    prompt template opens the block itself, pass `prefilled_think`: such a completion starts inside
    thinking, and has no answer before a closing tag.

    Braces must balance; `\{` and `\}` are characters, not braces. Of nested boxes the inner one opens
    last and counts. Time is linear in the length of the completion.
    """
    inside, start = prefilled_think, 0
    for tag in _THINK.finditer(completion):
        inside, start = not tag[1], tag.end()
    return None if inside else _last_box(completion[start:])


def _last_box(text: str) -> str | None:
    opened: list[int] = []  # where each open brace's box content starts, -1 for a plain brace
    best, end = -1, -1
    for token in _TOKEN.finditer(text):
        if token[2]:
            start = opened.pop() if opened else -1
            if start > best:
                best, end = start, token.start()
        elif token[1]:
            opened.append(token.end())
        elif token[0] == "{":
            opened.append(-1)
    return text[best:end] if best >= 0 else None
