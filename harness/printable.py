"""Texts of others on their way to a terminal: what a hostile file or driver says there is seen, never acted on."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with what a terminal might act on, and what has no shape or no encoding, written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode("ascii")
        for character in text.encode("utf-8", "backslashreplace").decode("utf-8")
    )
