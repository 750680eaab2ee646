"""The settings of one mounted administration, checked where they are given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import seconds

_PATH = re.compile(r"(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._~-]+)+")


def is_text(value: object) -> bool:
    """Whether a setting is a text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """The path and the contents of the administration; raises `ConfigurationError`.

    `poll_interval` (seconds): how often the page reloads what the stream does not contain: totals, queues and
    instances. `trace_url`: the URL of a trace, with the placeholder `{trace_id}`. `log_url`: the URL of the log of a
    task elsewhere, with `{task_id}` or `{trace_id}`, and where it is wanted `{from}` and `{to}`.
    """

    path: str = "/tasks"
    title: str = "Tasks"
    display_func_args: bool = False
    poll_interval: float = 5.0
    trace_url: str | None = None
    log_url: str | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if not is_text(self.path) or not _PATH.fullmatch(self.path):
            raise ConfigurationError(
                "path must begin with a slash and not end with one, such as '/tasks' or '/internal/tasks'. Its parts "
                "consist of letters, digits and .-_~, are not empty, and are not '.' or '..', which browsers resolve; "
                f"it is {self.path!r}"
            )
        if not is_text(self.title):
            raise ConfigurationError(f"title must be a text to show above the page, not {self.title!r}")
        seconds("poll_interval", self.poll_interval, minimum=0.5)
        _check_link("trace_url", self.trace_url, ["{trace_id}"], "http://localhost:16686/trace/{trace_id}")
        _check_link(
            "log_url",
            self.log_url,
            ["{task_id}", "{trace_id}"],
            "https://logs.example.com/search?q={task_id}&from={from}",
        )


def _check_link(name: str, link: str | None, needs: Sequence[str], example: str) -> None:
    """Refuse an address that the page must not lead to, or that leads to the same place for each task."""
    if link is None:
        return
    if not isinstance(link, str) or urlsplit(link).scheme not in {"http", "https"} or not any(map(link.count, needs)):
        raise ConfigurationError(
            f"{name} must be an http(s) address that contains {' or '.join(needs)}, such as {example!r}; it is {link!r}"
        )
