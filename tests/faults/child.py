"""What tasks say in child processes."""

from __future__ import annotations

import contextlib
from typing import NoReturn

from taskflow_otel import TaskflowError, get_task_context, task_log
from tests.faults.values import NASTY_OBJECTS


class SaidError(Exception):
    """An exception whose text is whatever it was made of."""


def say(number: int) -> NoReturn:
    """Say one of the nasty objects in every way that there is."""
    said = NASTY_OBJECTS[number]
    task_log(said, extra=said, nested={"x": [said]})
    context = get_task_context()
    assert context is not None
    for progress in ((said, 1, None), (1, said, None), (1, 2, said)):
        # What is no number is refused at the call.
        with contextlib.suppress(TaskflowError):
            context.progress(*progress)
    raise SaidError(said)
