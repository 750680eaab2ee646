"""Text for a terminal or a file of lines: text from elsewhere cannot forge a line or control the terminal."""

from __future__ import annotations

from typing import TextIO

from taskflow_otel.runtime.passwords import without_passwords

# Characters that end a line, control a terminal or reorder what it shows: C0, DEL, C1, the Unicode separators, and the
# bidirectional marks, embeddings and isolates.
UNSAFE = (
    *range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)  # fmt: skip
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in UNSAFE}
_ESCAPES |= {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}


def escape(text: str) -> str:
    """`text` on one line, with the characters that control a terminal escaped."""
    return text if text.isprintable() else text.translate(_ESCAPES)


def writable(text: str, stream: TextIO) -> str:
    """`text` with escapes for the characters that the encoding of the stream lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(line: str, stream: TextIO) -> None:
    """Write one escaped line, without the passwords of URLs in it."""
    stream.write(writable(escape(without_passwords(line)), stream) + "\n")
