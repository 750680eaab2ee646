"""The resource of a process. Imports the SDK, so only `configure_telemetry` imports it."""

from __future__ import annotations

import os
import uuid
from typing import Any

from opentelemetry.sdk.resources import Resource

INSTANCE_ID = "service.instance.id"


class ProcessResource(Resource):
    """A resource with a `service.instance.id` of this process, and another one in each forked child.

    Workers that were forked after `configure_telemetry` would otherwise export their metrics as one instance, and a
    collector would take the counters of one for those of another.
    """

    def __init__(self, described: Resource) -> None:
        attributes = {**described.attributes, INSTANCE_ID: str(uuid.uuid4())}
        super().__init__(attributes, described.schema_url)
        self._process = os.getpid()
        self._here: dict[str, Any] = attributes

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes, as they are in this process."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._here = {**self._here, INSTANCE_ID: str(uuid.uuid4())}
        return self._here
