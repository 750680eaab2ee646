"""What is ignored, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from taskflow_otel.web.ignored import PREFIX, Ignored, IgnoredGroups

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Shared:
    """Shared settings in a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {"other": "1"}

    async def read(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value in self.values.items() if key.startswith(prefix)}

    async def write(self, key: str, value: str | None) -> None:
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


def by(hours: float, at: datetime = NOW) -> Ignored:
    return Ignored(by="ada", at=at, until=NOW + timedelta(hours=hours), recent=3)


async def test_a_group_is_ignored_until_its_time_and_what_is_over_is_deleted() -> None:
    shared = Shared()
    groups = IgnoredGroups(shared)
    await groups.ignore("1" * 16, by(1))
    await groups.ignore("2" * 16, by(5))
    shared.values[PREFIX + "3" * 16] = "damaged"
    assert set(await groups.read(NOW)) == {"1" * 16, "2" * 16}
    assert set(await groups.read(NOW + timedelta(hours=2))) == {"2" * 16}
    await groups.ignore("4" * 16, by(9, NOW + timedelta(hours=2)))
    assert set(shared.values) == {"other", PREFIX + "2" * 16, PREFIX + "4" * 16}
    await groups.show("2" * 16)
    assert await groups.read(NOW) == {"4" * 16: by(9, NOW + timedelta(hours=2))}
