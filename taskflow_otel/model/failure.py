"""What failures have in common: their normalised message, the frames of the user's own code, and their fingerprint.

All of it is computed from text, so that an attempt in a child process and a row of an earlier version get the
same fingerprint as one that failed here.
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason

MAX_ATTEMPT_FAILURES = 20
"""The attempts of a task of which the failure is kept: the newest."""
MAX_SUMMARY = 500
"""Characters kept of the error of an attempt."""
MAX_FRAMES = 10
"""The frames kept of the failure of an attempt: the innermost ones of the user's own code."""
_MAX_FRAME = 300
_LENGTH = 200
_WITHOUT_FRAMES = frozenset({"TaskTimeoutError"})
"""Where a task was when its time was over says little about why."""
_INTENDED = frozenset({Reason.DUPLICATE.value, Reason.OVERLAP.value})
_BY_REASON = frozenset({TaskStatus.INTERRUPTED, TaskStatus.REJECTED})

# The order matters: an id contains numbers, a quoted value may contain either.
_PARTS = (
    (re.compile(r"""(?<!\w)(["'`])(?:(?!\1).){0,200}\1"""), "‹value›"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "‹id›"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "‹address›"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "‹address›"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{12,}\b"), "‹id›"),
    (re.compile(r"(?<![A-Za-z])\d+(?:[.,:]\d+)*"), "‹n›"),
)

_FRAME = re.compile(r'^[\s|+]*File "([^"\n]+)", line (\d+), in ([^\n]+)$', re.MULTILINE)
_HERE = str(Path(__file__).resolve().parent.parent) + os.sep
_STDLIB = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
# A trace may come from another machine.
_LIBRARY = re.compile(r"[/\\](?:site-packages|dist-packages)[/\\]|[/\\]lib[/\\]python\d[\d.]*[/\\]")
_INSTALLED = re.compile(r"[/\\](?:site-packages|dist-packages)[/\\][^/\\]+(?:[/\\]|$)")
_SEPARATOR = re.compile(r"[/\\]")
_NEXT = re.compile(
    r"^(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):$",
    re.MULTILINE,
)
_MAX_SAID = 2_000
_MAX_SHOWN = 100
_BEGIN = "\nTraceback (most recent call last):"


class Frame(Struct, frozen=True, gc=False):
    """One frame of a stack trace."""

    file: str
    line: int
    function: str
    own: bool
    """Whether it is the user's code, and not that of a library."""
    code: str | None = None
    """The line of code, where it is known."""


class Cause(Struct, frozen=True, gc=False):
    """One of the exceptions of a stack trace."""

    error: str
    """Its type and its text."""
    frames: tuple[Frame, ...]


class AttemptFailure(Struct, frozen=True, gc=False):
    """Why one attempt of a task failed, or why the task was interrupted or rejected; in short."""

    attempt: int
    fingerprint: str | None
    """See `fingerprint_of`; `None` if this is no problem, such as a cancellation or a duplicate."""
    error_type: str | None = None
    error: str | None = None
    """The beginning of its text."""
    frames: tuple[str, ...] = ()
    """The innermost frames of the user's own code, as `file:line in function`; the innermost is the last."""
    retry_at: datetime | None = None
    """When the next attempt was planned, if a retry followed."""


def normalise(error: str | None) -> str:
    """The first line of an error with quoted values, ids, addresses and numbers replaced by placeholders."""
    line = (error or "").strip().partition("\n")[0][:_LENGTH]
    for pattern, placeholder in _PARTS:
        line = pattern.sub(placeholder, line)
    return line


def frames_of(stacktrace: str | None) -> list[Frame]:
    """The frames of a formatted stack trace, in its order: those of a cause come first.

    The user's own code is what is not in a folder of libraries, and the package with the function of the task.
    """
    found = [(match.group(1), match) for match in _FRAME.finditer(stacktrace or "")]
    package = _package(stacktrace[found[0][1].start() :]) if stacktrace and found else None
    frames: list[Frame] = []
    for file, match in found:
        own = not _is_library(file) or (package is not None and file.startswith(package))
        frames.append(Frame(file, int(match.group(2)[:9]), match.group(3), own))
    return frames


def chain_of(stacktrace: str | None) -> list[Cause]:
    """The exceptions of a formatted stack trace, in its order: the first cause first, the one that was raised last."""
    if not stacktrace:
        return []
    frames = iter(frames_of(stacktrace))
    return [_cause(part, frames) for part in _NEXT.split(stacktrace) if part.strip()]


def _cause(text: str, frames: Iterator[Frame]) -> Cause:
    found: list[Frame] = []
    said: list[str] = []
    for line in text.strip("\n").split("\n"):
        if not said and _FRAME.match(line):
            found.append(next(frames))
        elif not said and (not found or line.startswith((" ", "+", "|"))):
            # Below the line of a frame is its code, and perhaps marks below that.
            if found and found[-1].code is None and line.startswith("    "):
                found[-1] = replace(found[-1], code=line.strip()[:_MAX_FRAME])
            elif not found and line.strip() and not line.lstrip(" +|").startswith("Traceback ("):
                said.append(line)
        else:
            said.append(line)
    for _ in range(sum(1 for line in said if _FRAME.match(line))):
        # The text of an error may look like frames.
        next(frames)
    return Cause("\n".join(said).strip()[:_MAX_SAID], tuple(found[-_MAX_SHOWN:]))


def _is_library(file: str) -> bool:
    # The interpreter's own folder may be above site-packages, and above the user's code in a container.
    return _is_below(file) or _LIBRARY.search(file) is not None


def _is_below(file: str) -> bool:
    """Whether it is this library's or the interpreter's: above the function of the task there is nothing else."""
    return file.startswith(("<frozen ", _HERE)) or (file.startswith(_STDLIB) and _INSTALLED.search(file) is None)


def _package(stacktrace: str) -> str | None:
    """The folder of the installed package that has the function of the task; `None` if that is not installed."""
    # The last traceback begins in the engine; the one of a cause may begin anywhere.
    raised = stacktrace[max(0, stacktrace.rfind(_BEGIN)) :]
    for match in _FRAME.finditer(raised):
        file = match.group(1)
        if not _is_below(file):
            installed = _INSTALLED.search(file)
            return None if installed is None else file[: installed.end()]
    return None


def fingerprint_of(
    func_name: str,
    status: TaskStatus,
    *,
    reason: str | None = None,
    error_type: str | None = None,
    error: str | None = None,
    stacktrace: str | None = None,
) -> str | None:
    """16 hexadecimal digits that are the same for failures of one kind; `None` for what is as intended.

    A failure is told by the task type, the error's type and normalised text, and the own frames without their lines; an
    interrupted or rejected task by its type and the reason.
    """
    if status in _BY_REASON:
        if reason in _INTENDED:
            return None
        parts = [func_name, status.value, reason or ""]
    else:
        parts = [func_name, TaskStatus.FAILED.value, error_type or "", normalise(error)]
        if error_type not in _WITHOUT_FRAMES:
            parts += _places(stacktrace)
    # Not a secret: nobody needs to be kept from finding a second text of the same fingerprint.
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _places(stacktrace: str | None) -> list[str]:
    """The own frames, without what another release or another machine changes: lines and the folders above."""
    places: list[str] = []
    for frame in frames_of(stacktrace):
        if not frame.own:
            continue
        place = f"{'/'.join(_SEPARATOR.split(frame.file)[-2:])}:{frame.function}"
        # The depth of a recursion is a number too.
        if not places or places[-1] != place:
            places.append(place)
    return places[-MAX_FRAMES:]


def summary_of(
    attempt: int,
    fingerprint: str | None,
    *,
    error_type: str | None = None,
    error: str | None = None,
    stacktrace: str | None = None,
    retry_at: datetime | None = None,
) -> AttemptFailure:
    """What is kept of the failure of one attempt."""
    own = [
        f"{frame.file}:{frame.line} in {frame.function}"[:_MAX_FRAME] for frame in frames_of(stacktrace) if frame.own
    ]
    if error is not None and len(error) > MAX_SUMMARY:
        error = f"{error[: MAX_SUMMARY - 1]}…"
    return AttemptFailure(attempt, fingerprint, error_type, error, tuple(own[-MAX_FRAMES:]), retry_at)


def with_failure(failures: tuple[AttemptFailure, ...], latest: AttemptFailure) -> tuple[AttemptFailure, ...]:
    """The failures of a task with one more; of many, the newest."""
    return (*failures[-(MAX_ATTEMPT_FAILURES - 1) :], latest)
