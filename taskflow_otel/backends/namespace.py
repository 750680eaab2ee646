"""The name that separates applications in one database."""

from __future__ import annotations

import re

from taskflow_otel.errors import ConfigurationError

_NAMESPACE = re.compile(r"[a-z][a-z0-9_]{0,29}")


def check_namespace(namespace: object) -> None:
    """Raise `ConfigurationError` unless this is a name of up to 30 lower-case letters, digits and underscores."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"namespace must be a lower-case letter followed by up to 29 lower-case letters, digits and underscores, "
            f"not {namespace!r}"
        )
