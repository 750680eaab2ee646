"""Passwords in URLs, and how a text is shown without them."""

from __future__ import annotations

import re

# Up to the last "@" of the word: a password in which "/" or "@" were not escaped is a password nevertheless. A password
# with white space in it ends at an "@" that is near, unless what follows the colon is a port.
_USER = re.compile(
    r"(?P<name>\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s:@]{0,300}:)"
    r"(?:\S{0,4000}@|(?<!\[:)(?!\d{0,5}(?:[/?#\s'\"`,;.)\]}>]|\Z))[\s\S]{1,200}@)"
)
_PARAMETER = re.compile(r"(?i)(?P<name>[?&;][\w.-]*(?:passw|pwd|secret|token|api_?key)[\w.-]*=)[^\s&;'\"#]*")
_QUOTED = re.compile(r"""(?P<quote>['"])(?P<url>[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^'"]{0,4000})(?P=quote)""")
_QUOTED_PARAMETER = re.compile(_PARAMETER.pattern.replace(r"\s", ""))


def without_passwords(text: str) -> str:
    """The text with `***` for the password of each URL in it, and for parameters that are secrets by their names.

    A password with white space in it is recognised if it is that of a user, or the URL is in quotes.
    """
    if "://" not in text:
        return text
    text = _USER.sub(r"\g<name>***@", text)
    return _PARAMETER.sub(r"\g<name>***", _QUOTED.sub(_without_quoted, text))


def _without_quoted(found: re.Match[str]) -> str:
    return found["quote"] + _QUOTED_PARAMETER.sub(r"\g<name>***", found["url"]) + found["quote"]
