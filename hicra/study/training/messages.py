"""Prompts and completions as plain text: a conversation's messages become what a record can hold."""

from __future__ import annotations

from hashlib import sha256

Messages = str | list[dict]  # plain text, or TRL's conversational form


def plain_text(messages: Messages, role: str = "") -> str:
    """The text of `messages`, one line a message, of those of `role` alone where it is given.

    A picture is `<image HASH>`, by the first 12 digits of the SHA256 of its pixels: equal pictures have
    equal text, wherever they lie in memory.
    """
    if isinstance(messages, str):
        return messages
    return "\n".join(_content(m["content"]) for m in messages if role in ("", m["role"]))


def _content(parts: Messages | None) -> str:
    if parts is None or isinstance(parts, str):  # a message may hold nothing but a call of a tool
        return parts or ""
    return "".join(part["text"] if part["type"] == "text" else _picture(part.get("image")) for part in parts)


def _picture(image) -> str:
    pixels = image.tobytes() if hasattr(image, "tobytes") else str(image).encode()
    shape = f"{getattr(image, 'mode', '')}{getattr(image, 'size', '')}"
    return f"<image {sha256(shape.encode() + pixels).hexdigest()[:12]}>"
