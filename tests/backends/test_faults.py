"""What a fault means for the writer: try again, try the parts, or give up."""

from __future__ import annotations

import pytest

from taskflow_otel.backends.faults import Fault, backend_error
from taskflow_otel.errors import BackendUnavailableError


@pytest.mark.parametrize(
    ("fault", "opening", "transient", "divisible"),
    [
        (Fault.PASSING, False, True, False),
        (Fault.CONNECTION, False, True, False),
        (Fault.CONFLICT, False, True, False),
        (Fault.HELD, False, True, True),
        (Fault.CHANGE, False, False, True),
        (Fault.SETUP, False, True, False),
        (Fault.SETUP, True, False, True),
        (Fault.PASSING, True, True, False),
        (Fault.CHANGE, True, False, True),
    ],
)
def test_a_fault_says_whether_the_changes_or_a_part_of_them_may_succeed_later(
    fault: Fault, opening: bool, transient: bool, divisible: bool
) -> None:
    error = backend_error(fault, "what happened", opening=opening, reason="why")
    assert error.reason == ("why" if fault is Fault.CHANGE else None)
    assert (error.transient, error.divisible, str(error)) == (transient, divisible, "what happened")
    assert isinstance(error, BackendUnavailableError) is transient
