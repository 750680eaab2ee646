"""Passwords in URLs, and how a text is shown without them."""

from __future__ import annotations

import re

# Up to the last "@" of the word: a password in which "/" or "@" were not escaped is a password nevertheless.
_USER = re.compile(r"(?P<name>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:@]*:)\S*@")
_PARAMETER = re.compile(r"(?i)(?P<name>[?&;][\w.-]*(?:passw|pwd|secret|token|api_?key)[\w.-]*=)[^\s&;'\"#]*")


def without_passwords(text: str) -> str:
    """The text with `***` for the password of each URL in it, and for parameters that are secrets by their names."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(r"\g<name>***", _USER.sub(r"\g<name>***@", text))
