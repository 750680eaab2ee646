"""When rules fire: compared with a plain computation of five years, and what happens to missed firings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from taskflow_otel.errors import ConfigurationError, MissingExtraError
from taskflow_otel.model.schedule import Cron, Every, Rule, Schedule, due, grace, make_rule, newest_first

Fields = tuple[set[int], set[int], set[int] | None, set[int], set[int] | None, int]
"""Minutes, hours, days of the month, months, days of the week (Monday is 0), second; `None`: any day."""

ALL_MONTHS = set(range(1, 13))
EXPRESSIONS: dict[str, Fields] = {
    "30 2 * * *": ({30}, {2}, None, ALL_MONTHS, None, 0),
    "15 1,2,3 * 3,4,9-11 *": ({15}, {1, 2, 3}, None, {3, 4, 9, 10, 11}, None, 0),
    "*/10 0-3 * 3,4,10,11,12 0": (set(range(0, 60, 10)), {0, 1, 2, 3}, None, {3, 4, 10, 11, 12}, {6}, 0),
    "0 0 29 2 *": ({0}, {0}, {29}, {2}, None, 0),
    "59 23 31 * *": ({59}, {23}, {31}, ALL_MONTHS, None, 0),
    "0 12 1,15 * 1": ({0}, {12}, {1, 15}, ALL_MONTHS, {0}, 0),
    "0 */12 * * mon-fri": ({0}, {0, 12}, None, ALL_MONTHS, {0, 1, 2, 3, 4}, 0),
    # A step from a start that leaves room for nothing further.
    "59/5 2 * * *": ({59}, {2}, None, ALL_MONTHS, None, 0),
    "50/5 1 * 3,11 *": ({50, 55}, {1}, None, {3, 11}, None, 0),
    "45 1 * * 0 30": ({45}, {1}, None, ALL_MONTHS, {6}, 30),
}
SPANS = {
    "America/New_York": (2022, 2027),
    "Europe/London": (2022, 2027),
    "Australia/Lord_Howe": (2022, 2027),
    "Asia/Kolkata": (2022, 2027),
    "Pacific/Apia": (2009, 2014),  # in which it has skipped a day
}


def walls(fields: Fields, years: tuple[int, int]) -> Iterator[datetime]:
    """The wall times that an expression names, read off the calendar day by day."""
    minutes, hours, days, months, weekdays, second = fields
    day = date(years[0], 1, 1) - timedelta(days=1)
    while day.year < years[1]:
        day += timedelta(days=1)
        if day.month not in months:
            continue
        in_month, in_week = days is None or day.day in days, weekdays is None or day.weekday() in weekdays
        # Where cron is given both kinds of days, either will do.
        if (in_month or in_week) if days is not None and weekdays is not None else (in_month and in_week):
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    yield datetime(day.year, day.month, day.day, hour, minute, second)


def moment_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which the clock of a zone shows this time or, having leapt over it, a later one."""
    around = [(wall + timedelta(hours=hours)).replace(tzinfo=zone).utcoffset() for hours in (-30, 0, 30)]
    candidates = sorted({(wall - offset).replace(tzinfo=UTC) for offset in around if offset is not None})
    for moment in candidates:
        if moment.astimezone(zone).replace(tzinfo=None) == wall:
            return moment
    moment = candidates[0].replace(second=0)
    while moment.astimezone(zone).replace(tzinfo=None) < wall:
        moment += timedelta(minutes=1)
    return moment


@pytest.mark.parametrize("zone", SPANS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_five_years_of_firings_agree_with_a_walk_through_the_calendar(expression: str, zone: str) -> None:
    years = SPANS[zone]
    clock, rule = ZoneInfo(zone), Cron(expression, zone)
    start, end = (datetime(year, 1, 1, tzinfo=clock).astimezone(UTC) for year in years)
    expected = sorted({moment_of(wall, clock) for wall in walls(EXPRESSIONS[expression], years)})
    expected = [moment for moment in expected if start <= moment < end]
    found = []
    moment = start - timedelta(seconds=1)
    while (moment := rule.after(moment)) < end:
        found.append(moment)
    assert found == expected
    for earlier, later in list(pairwise(found))[::29]:
        assert rule.until(later) == later
        assert rule.until(later - timedelta(microseconds=1)) == earlier
        assert rule.after(earlier + (later - earlier) / 2) == later


@pytest.mark.parametrize(
    ("zone", "expression", "start", "fired"),
    [
        # Northern spring: 02:00 to 03:00 does not exist on 8 March 2026.
        ("America/New_York", "30 2 * * *", "2026-03-07T12:00Z", ["2026-03-08T07:00Z", "2026-03-09T06:30Z"]),
        ("America/New_York", "*/30 2-3 * * *", "2026-03-08T06:00Z", ["2026-03-08T07:00Z", "2026-03-08T07:30Z"]),
        # Northern autumn: 01:00 to 02:00 happens twice on 1 November 2026.
        ("America/New_York", "30 1 * * *", "2026-10-31T12:00Z", ["2026-11-01T05:30Z", "2026-11-02T06:30Z"]),
        ("America/New_York", "30 1 * * *", "2026-11-01T06:10Z", ["2026-11-02T06:30Z"]),
        ("Europe/London", "30 1 * * *", "2026-03-28T12:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]),
        ("Europe/London", "30 1 * * *", "2026-10-24T12:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
        # Southern edges; Lord Howe shifts by half an hour.
        ("Australia/Sydney", "30 2 * * *", "2026-10-03T12:00Z", ["2026-10-03T16:00Z", "2026-10-04T15:30Z"]),
        ("Australia/Sydney", "30 2 * * *", "2026-04-04T12:00Z", ["2026-04-04T15:30Z", "2026-04-05T16:30Z"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00Z", ["2026-10-03T15:30Z", "2026-10-04T15:15Z"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00Z", ["2026-04-04T14:45Z", "2026-04-05T15:15Z"]),
        # A day that Samoa never had.
        ("Pacific/Apia", "0 12 * * *", "2011-12-29T12:00Z", ["2011-12-29T22:00Z", "2011-12-30T10:00Z"]),
        ("UTC", "0 0 29 2 *", "2026-01-01T00:00Z", ["2028-02-29T00:00Z", "2032-02-29T00:00Z"]),
        ("UTC", "0 0 31 * *", "2026-01-31T00:00Z", ["2026-03-31T00:00Z", "2026-05-31T00:00Z"]),
        ("UTC", "0 0 L * *", "2028-01-31T12:00Z", ["2028-02-29T00:00Z", "2028-03-31T00:00Z"]),
        ("UTC", "@daily", "2026-01-01T00:00Z", ["2026-01-02T00:00Z", "2026-01-03T00:00Z"]),
        ("UTC", "0 0 * * * */20", "2026-01-01T00:00Z", ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]),
    ],
)
def test_the_edges_of_the_clock_and_the_calendar(zone: str, expression: str, start: str, fired: list[str]) -> None:
    rule, moment = Cron(expression, zone), datetime.fromisoformat(start)
    for expected in fired:
        moment = rule.after(moment)
        assert moment == datetime.fromisoformat(expected)
        assert rule.until(moment) == moment


def test_looking_back_from_a_repeated_hour_sees_what_fired_in_its_first_run() -> None:
    rule = Cron("*/30 * * * *", "America/New_York")
    second_run = datetime.fromisoformat("2026-11-01T06:10Z")
    assert rule.until(second_run) == datetime.fromisoformat("2026-11-01T05:30Z")
    assert rule.after(second_run) == datetime.fromisoformat("2026-11-01T07:00Z")


@pytest.mark.parametrize(
    ("every", "step"), [(0.2, 200), (timedelta(minutes=1), 60_000), (86_400, 86_400_000), (1 / 8, 125)]
)
def test_an_interval_is_counted_from_one_origin_for_all(every: float | timedelta, step: int) -> None:
    rule, now = Every(every), datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
    first = rule.after(now)
    assert (first - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(milliseconds=step) == timedelta()
    assert first - timedelta(milliseconds=step) <= now < first
    assert rule.until(first) == first
    assert rule.after(first) - first == timedelta(milliseconds=step)
    assert rule.count(first, first + 9 * timedelta(milliseconds=step)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either every="),
        ({"every": 5, "cron": "* * * * *"}, "and not both"),
        ({"every": 0}, "more than 0"),
        ({"every": -1}, "more than 0"),
        ({"every": timedelta(0)}, "more than 0"),
        ({"every": 0.0001}, "at least 0.001"),
        ({"every": float("nan")}, "number of seconds"),
        ({"every": "5m"}, "number of seconds"),
        ({"every": True}, "number of seconds"),
        ({"every": 5, "timezone": "Europe/London"}, "no effect on every="),
        ({"cron": ""}, "not a cron expression"),
        ({"cron": "* * * *"}, "not a cron expression"),
        ({"cron": "61 * * * *"}, "not a cron expression"),
        ({"cron": "@every 5m"}, "not a cron expression"),
        ({"cron": "@reboot"}, "not a cron expression"),
        ({"cron": "* * * * * * 2027"}, "field for years"),
        ({"cron": "H * * * *"}, "random field"),
        ({"cron": "0 R(1-5) * * *"}, "random field"),
        ({"cron": "0 0 30 2 *"}, "never fires"),
        ({"cron": 5}, "must be a text"),
        ({"cron": "@daily", "timezone": "Nowhere/City"}, "no time zone 'Nowhere/City'"),
        ({"cron": "@daily", "timezone": "Europe"}, "no time zone"),
        ({"cron": "@daily", "timezone": ""}, "no time zone"),
        ({"cron": "@daily", "timezone": "../../etc/passwd"}, "no time zone"),
        ({"cron": "@daily", "timezone": None}, "no time zone"),
    ],
)
def test_a_wrong_rule_is_refused_with_what_to_do(options: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"every": None, "cron": None, "timezone": "UTC", **options}
    with pytest.raises(ConfigurationError, match=message):
        make_rule(**given)  # type: ignore[arg-type]  # this is the test


def test_names_of_months_and_days_are_no_random_fields() -> None:
    rule = Cron("0 9 * mar,oct thu,fri")
    assert rule.after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 3, 5, 9, tzinfo=UTC)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "croniter", None)
    with pytest.raises(MissingExtraError, match=r"taskflow-otel\[scheduler\]"):
        Cron("@daily")
    assert isinstance(make_rule(5, None, "UTC"), Every)


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "x" * 201}, {"name": "a\nb"}, {"catch_up": "some"}, {"overlap": True}]
)
def test_a_wrong_policy_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Schedule(**{"name": "x", "rule": Every(1), **wrong})  # type: ignore[arg-type]  # this is the test


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("rule", [Every(60), Cron("* * * * *")], ids=["every", "cron"])
@pytest.mark.parametrize(
    ("catch_up", "late", "fired", "missed"),
    [
        ("skip", timedelta(seconds=10), [10], 10),
        ("skip", timedelta(seconds=30), [], 11),
        ("latest", timedelta(seconds=30), [10], 10),
        ("all", timedelta(seconds=30), list(range(11)), 0),
    ],
)
def test_missed_firings_follow_the_policy(
    rule: Rule, catch_up: str, late: timedelta, fired: list[int], missed: int
) -> None:
    found = due(rule, catch_up, NOON, NOON + 10 * MINUTE + late)  # type: ignore[arg-type]
    assert found == ([NOON + minute * MINUTE for minute in fired], missed)


def test_catching_up_has_an_end() -> None:
    moments, missed = due(Every(0.2), "all", NOON, NOON + timedelta(days=1))
    assert (len(moments), missed) == (1_000, 432_001 - 1_000)
    assert moments[-1] == NOON + timedelta(days=1)
    _, missed = due(Cron("* * * * *"), "latest", NOON, NOON + timedelta(days=30))
    assert missed == 1_999


def test_a_fast_schedule_fires_what_is_a_second_late() -> None:
    moments, missed = due(Every(0.2), "skip", NOON, NOON + timedelta(seconds=3))
    assert (len(moments), missed) == (6, 10)


@pytest.mark.parametrize(("gap", "expected"), [(0.2, 1), (20, 5), (3_600, 60), (86_400, 60)])
def test_the_time_of_grace_grows_with_the_interval(gap: float, expected: float) -> None:
    assert grace(timedelta(seconds=gap)) == timedelta(seconds=expected)


def test_looking_back_ends_at_the_first() -> None:
    assert list(newest_first(Every(60), NOON + 2 * MINUTE, NOON)) == [NOON + n * MINUTE for n in (2, 1, 0)]
    assert list(newest_first(Every(60), NOON - MINUTE, NOON)) == []
