"""Slows guessing down: a delay that grows with the failures of one network, and of one network at one account.

A failure delays the network that made it, never the account as such: the owner's right password counts at once from any
network that has not guessed itself. Failures of an account from everywhere make the delays of its next ones longer.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from taskflow_otel.errors import TaskflowError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock

LONGEST_DELAY = 300.0
"""Seconds until the next attempt, at most."""
MAX_ENTRIES = 10_000
"""The most networks and accounts that are remembered; those with the fewest failures are forgotten first."""
_IN_FLIGHT = 100
"""Checks at once of one administration. Beyond it, up to twice as many are for networks that have neither failed nor
another check at this moment: two networks that guess do not shut the others out."""
_EVERYONE = b""
_PRESSURE = 20
"""With each of these failures of an account, the delays of its next failures double."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """`free`: failures without a delay. `leak`: seconds after which one failure is forgotten. `at_once`: parallel
    attempts, which all count as not failed yet."""

    free: int
    leak: float
    at_once: int


_PAIR = _Rule(free=5, leak=600.0, at_once=20)
"""One network at one account."""
_NETWORK = _Rule(free=20, leak=300.0, at_once=50)
_SITE = _Rule(free=50, leak=60.0, at_once=50)
"""An IPv6 /48, which one customer often has: 65,536 networks."""
_ACCOUNT = _Rule(free=0, leak=60.0, at_once=2 * _IN_FLIGHT)
_COUNTED_BEYOND = 10
"""Failures beyond the free ones that count, so that a network is free again in a bounded time."""
_COUNTED_OF_ACCOUNT = 400


class TooManyLoginsError(TaskflowError):
    """Too many failed logins. `retry_after`: seconds. `first`: whether this refusal is the first of its delay."""

    def __init__(self, retry_after: float, *, first: bool = False) -> None:
        super().__init__(f"too many failed logins; try again in {max(1.0, retry_after):.0f} s")
        self.retry_after = retry_after
        self.first = first


@dataclass(slots=True)
class _Entry:
    level: float
    at: float
    until: float = 0.0
    refused: bool = False

    def now(self, rule: _Rule, now: float) -> float:
        """The failures that are not forgotten yet."""
        return max(0.0, self.level - (now - self.at) / rule.leak)


class Attempt:
    """One attempt that is allowed. Without a call of either method it counts as neither."""

    def __init__(self) -> None:
        self.outcome: bool | None = None

    def failed(self) -> None:
        """The secret was wrong."""
        self.outcome = False

    def succeeded(self) -> None:
        """The secret was right."""
        self.outcome = True


class LoginThrottle:
    """Counts failed attempts by network and account; memory is bounded."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._entries: dict[bytes, tuple[_Rule, _Entry]] = {}
        self._in_flight: dict[bytes, int] = {}

    @property
    def remembered(self) -> int:
        """The number of networks and accounts with failures."""
        return len(self._entries)

    @contextmanager
    def attempt(self, address: str, account: str | None = None) -> Iterator[Attempt]:
        """Count one attempt. `account=None` is for tokens, which name none. Raises `TooManyLoginsError`."""
        keys = _keys(address, account)
        self._refuse_if_too_soon(keys)
        counted = [*keys, _EVERYONE]
        for key in counted:
            self._in_flight[key] = self._in_flight.get(key, 0) + 1
        attempt = Attempt()
        try:
            yield attempt
        finally:
            for key in counted:
                self._in_flight[key] -= 1
                if not self._in_flight[key]:
                    del self._in_flight[key]
            if attempt.outcome is False:
                self._count(keys, None if account is None else _key("account", account))
            elif attempt.outcome is True and account is not None:
                self._entries.pop(_pair_key(address, account), None)

    def _refuse_if_too_soon(self, keys: dict[bytes, _Rule]) -> None:
        now = self._clock.monotonic()
        known = {key: self._entries[key][1] for key in keys if key in self._entries}
        delayed = [entry for entry in known.values() if entry.until > now]
        if delayed:
            first = not any(entry.refused for entry in delayed)
            for entry in delayed:
                entry.refused = True
            raise TooManyLoginsError(max(entry.until for entry in delayed) - now, first=first)
        # Otherwise all parallel guesses would pass before the first one has failed.
        for key, rule in keys.items():
            beyond = key in known and known[key].now(rule, now) >= rule.free
            if self._in_flight.get(key, 0) >= (1 if beyond else rule.at_once):
                raise TooManyLoginsError(1.0)
        has_failed = any(entry.now(keys[key], now) > 0.0 for key, entry in known.items())
        is_alone = not (has_failed or any(key in self._in_flight for key in keys))
        if self._in_flight.get(_EVERYONE, 0) >= (2 * _IN_FLIGHT if is_alone else _IN_FLIGHT):
            raise TooManyLoginsError(1.0)

    def _count(self, keys: dict[bytes, _Rule], account: bytes | None) -> None:
        pressure = 0
        if account is not None:
            pressure = int(self._raise(account, _ACCOUNT, _COUNTED_OF_ACCOUNT).level / _PRESSURE)
        for key, rule in keys.items():
            entry = self._raise(key, rule, rule.free + _COUNTED_BEYOND)
            beyond = round(entry.level) - rule.free + (pressure if rule is _PAIR else 0)
            if beyond >= 0:
                entry.until = entry.at + min(LONGEST_DELAY, 2.0**beyond)
                entry.refused = False
        if len(self._entries) > MAX_ENTRIES:
            self._forget_some()

    def _raise(self, key: bytes, rule: _Rule, most: float) -> _Entry:
        now = self._clock.monotonic()
        _, entry = self._entries.setdefault(key, (rule, _Entry(0.0, now)))
        entry.level, entry.at = min(most, entry.now(rule, now) + 1.0), now
        return entry

    def _forget_some(self) -> None:
        """Forget what counts least: invented names must not push out an account that is guessed at."""
        now = self._clock.monotonic()
        weights = {
            key: (max(0.0, entry.until - now), entry.now(rule, now)) for key, (rule, entry) in self._entries.items()
        }
        kept = sorted((key for key in weights if weights[key] > (0.0, 0.0)), key=weights.__getitem__, reverse=True)
        self._entries = {key: self._entries[key] for key in kept[: MAX_ENTRIES * 9 // 10]}


def network_of(address: str) -> str:
    """The network of a client: an IPv4 address, the /64 of an IPv6 address, and any other text itself."""
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(ip), 64), strict=False))
    return address if ip is None else str(ip)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None  # the path of a socket, or a test
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _keys(address: str, account: str | None) -> dict[bytes, _Rule]:
    ip = _ip(address)
    # Counted apart, so that a script with an old token does not delay the people in its network.
    kind = "token" if account is None else "password"
    keys = {_key(kind, "network", network_of(address)): _NETWORK}
    if isinstance(ip, ipaddress.IPv6Address):
        keys[_key(kind, "site", str(int(ip) >> 80))] = _SITE
    if account is not None:
        keys[_pair_key(address, account)] = _PAIR
    return keys


def _pair_key(address: str, account: str) -> bytes:
    return _key("pair", network_of(address), account)


def _key(*parts: str) -> bytes:
    # Hashed, so that long invented names need little memory.
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
