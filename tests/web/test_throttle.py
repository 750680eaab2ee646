"""Guessing becomes slow, and the owner of an account is not locked out by it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from taskflow_otel.web.throttle import LONGEST_DELAY, MAX_ENTRIES, LoginThrottle, TooManyLoginsError, network_of
from tests.clocks import HandClock

ATTACKER, OWNER = "203.0.113.7", "198.51.100.1"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def throttle(clock: HandClock) -> LoginThrottle:
    return LoginThrottle(clock=clock)


def guess(throttle: LoginThrottle, address: str, account: str | None = "ada", *, right: bool = False) -> float:
    """Try a password; returns the seconds to wait, 0 if it was checked."""
    try:
        with throttle.attempt(address, account) as attempt:
            if right:
                attempt.succeeded()
            else:
                attempt.failed()
    except TooManyLoginsError as exc:
        return exc.retry_after
    return 0.0


def insist(throttle: LoginThrottle, clock: HandClock, address: str, account: str, times: int) -> list[float]:
    """Guess as fast as it is allowed; returns the delays."""
    delays = []
    for _ in range(times):
        delay = guess(throttle, address, account)
        delays.append(delay)
        if delay:
            clock.seconds += delay
            assert guess(throttle, address, account) == 0.0
    return delays


def test_five_mistakes_are_free_and_each_further_one_doubles_the_delay(
    throttle: LoginThrottle, clock: HandClock
) -> None:
    delays = insist(throttle, clock, ATTACKER, "ada", 16)
    assert delays[:10] == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]
    assert delays[-1] == LONGEST_DELAY


def test_a_right_password_during_a_delay_is_not_looked_at(throttle: LoginThrottle, clock: HandClock) -> None:
    insist(throttle, clock, ATTACKER, "ada", 8)
    delay = guess(throttle, ATTACKER, right=True)
    assert delay > 0
    clock.seconds += delay - 0.01
    assert guess(throttle, ATTACKER, right=True) > 0
    clock.seconds += 0.01
    assert guess(throttle, ATTACKER, right=True) == 0.0


def test_the_owner_is_let_in_at_once_from_another_network_whatever_others_guess(
    throttle: LoginThrottle, clock: HandClock
) -> None:
    for number in range(500):
        guess(throttle, f"203.0.{number // 250}.{number % 250}")
    insist(throttle, clock, ATTACKER, "ada", 30)
    assert guess(throttle, ATTACKER) > 0
    assert guess(throttle, OWNER, right=True) == 0.0


def test_a_right_password_ends_the_delays_of_its_network_at_this_account_alone(
    throttle: LoginThrottle, clock: HandClock
) -> None:
    insist(throttle, clock, ATTACKER, "ada", 6)
    insist(throttle, clock, ATTACKER, "vic", 6)
    clock.seconds += 60.0
    assert guess(throttle, ATTACKER, "ada", right=True) == 0.0
    assert [guess(throttle, ATTACKER, "ada") for _ in range(5)] == [0.0] * 5
    assert guess(throttle, ATTACKER, "vic") == 0.0
    assert guess(throttle, ATTACKER, "vic") > 0


def test_one_network_may_not_guess_at_many_accounts_either(throttle: LoginThrottle) -> None:
    assert [guess(throttle, ATTACKER, f"user-{number}") for number in range(21)] == [0.0] * 20 + [1.0]
    assert guess(throttle, OWNER, "user-1") == 0.0


def test_wrong_tokens_are_slowed_down_apart_from_passwords(throttle: LoginThrottle) -> None:
    assert [guess(throttle, ATTACKER, None) for _ in range(21)] == [0.0] * 20 + [1.0]
    assert guess(throttle, ATTACKER, "ada", right=True) == 0.0
    assert [guess(throttle, ATTACKER, f"user-{number}") for number in range(21)] == [0.0] * 20 + [1.0]


def test_many_networks_at_one_account_get_longer_delays_from_their_first_mistake(throttle: LoginThrottle) -> None:
    for number in range(240):
        assert guess(throttle, f"203.0.113.{number}") == 0.0
    assert guess(throttle, OWNER) == 0.0
    assert guess(throttle, OWNER) > 100.0
    assert guess(throttle, OWNER, "vic") == 0.0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::1", "::2", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("/run/app.sock", "/run/app.sock", True),
        ("", "203.0.113.7", False),
    ],
)
def test_an_ipv4_address_and_an_ipv6_64_are_one_network(
    throttle: LoginThrottle, first: str, second: str, same: bool
) -> None:
    assert (network_of(first) == network_of(second)) is same
    for _ in range(6):
        guess(throttle, first)
    assert (guess(throttle, second) > 0) is same


def test_the_networks_of_one_ipv6_48_together_are_slowed_down_too(throttle: LoginThrottle) -> None:
    assert [guess(throttle, f"2001:db8:1:{number:x}::1", f"user-{number}") for number in range(51)] == [0.0] * 50 + [
        1.0
    ]
    assert guess(throttle, "2001:db8:2:1::1", "user-1") == 0.0


def test_mistakes_are_forgotten_with_time(throttle: LoginThrottle, clock: HandClock) -> None:
    insist(throttle, clock, ATTACKER, "ada", 30)
    clock.seconds += 16 * 600.0
    assert [guess(throttle, ATTACKER) for _ in range(5)] == [0.0] * 5


def test_parallel_guesses_do_not_all_pass_before_the_first_has_failed(throttle: LoginThrottle) -> None:
    checked: list[int] = []

    def try_at_once(left: int) -> None:
        with throttle.attempt(ATTACKER, "ada") as attempt:
            checked.append(left)
            try_at_once(left - 1)
            attempt.failed()

    with pytest.raises(TooManyLoginsError):
        try_at_once(1_000)
    assert len(checked) == 20
    for _ in range(5):
        guess(throttle, ATTACKER)
    assert guess(throttle, ATTACKER) > 0


def test_the_memory_is_bounded_and_invented_names_do_not_push_out_an_account_that_is_guessed_at(
    throttle: LoginThrottle, clock: HandClock
) -> None:
    insist(throttle, clock, ATTACKER, "ada", 12)
    for number in range(MAX_ENTRIES):
        guess(throttle, f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", f"invented-{number}")
    assert throttle.remembered <= MAX_ENTRIES
    assert guess(throttle, ATTACKER) > 0


def test_only_the_first_refusal_of_a_delay_says_so(throttle: LoginThrottle, clock: HandClock) -> None:
    for _ in range(5):
        guess(throttle, ATTACKER)
    firsts = []
    for _ in range(3):
        with pytest.raises(TooManyLoginsError) as caught, throttle.attempt(ATTACKER, "ada"):
            pass
        firsts.append(caught.value.first)
    assert firsts == [True, False, False]


def test_networks_that_guess_do_not_shut_out_the_others_nor_another_administration(throttle: LoginThrottle) -> None:
    with ExitStack() as checks:

        def begin(address: str) -> bool:
            try:
                checks.enter_context(throttle.attempt(address, f"user at {address}"))
            except TooManyLoginsError:
                return False
            return True

        # Checks that take long: a directory over the network, for example.
        assert sum(begin(f"203.0.113.{number % 5}") for number in range(500)) == 100
        assert not begin("203.0.113.1")
        assert [begin(f"198.51.100.{number}") for number in range(100)] == [True] * 100
        assert not begin("198.51.100.200"), "all of them together are bounded"
        assert guess(LoginThrottle(), "203.0.113.1", right=True) == 0.0
    assert begin("203.0.113.1")


def test_a_network_that_has_failed_waits_while_many_checks_run(throttle: LoginThrottle, clock: HandClock) -> None:
    guess(throttle, ATTACKER)
    with ExitStack() as checks:
        for number in range(100):
            checks.enter_context(throttle.attempt(f"198.51.100.{number}", "ada"))
        assert guess(throttle, ATTACKER) > 0
        assert guess(throttle, "192.0.2.1", right=True) == 0.0
        clock.seconds += 600.0
        assert guess(throttle, ATTACKER, right=True) == 0.0
