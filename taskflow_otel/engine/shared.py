"""Small values that all instances share, for the parts above the engine."""

from __future__ import annotations

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.life import Life, at_home


class SharedValues:
    """Reads and writes settings of the backend; raises its errors, and `NotStartedError` unless the engine runs."""

    def __init__(self, backend: Backend, life: Life) -> None:
        self._backend = backend
        self.life = life

    @at_home
    async def read(self, prefix: str) -> dict[str, str]:
        """The values whose keys begin with `prefix`."""
        self.life.require_running()
        return await self._backend.settings(prefix)

    @at_home
    async def write(self, key: str, value: str | None) -> None:
        """Write one value, or delete it (`None`). A key has 1 to 255 characters."""
        self.life.require_running()
        await self._backend.put_setting(key, value)
