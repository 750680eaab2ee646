"""Which documents of bulk operations this version may work off."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskflow_otel.backends.operation_documents import Claims, decoded, encoded, unknown_fields
from taskflow_otel.model.operation import Operation
from taskflow_otel.model.vocabulary import OperationKind
from taskflow_otel.testing.backends.admin import make_operation, make_selection


def document(kind: str = OperationKind.DELETE.value) -> tuple[Operation, dict[str, Any]]:
    operation = make_operation(kind=kind, selection=make_selection())
    return operation, json.loads(encoded(operation))


def test_a_document_of_this_version_may_be_worked_off() -> None:
    for operation in (document()[0], make_operation()):
        text = encoded(operation)
        assert decoded(text) == Claims().allowed(text) == operation
        assert unknown_fields(text) == []


@pytest.mark.parametrize("place", [(), ("selection",), ("selection", "query")])
def test_what_a_later_version_has_added_keeps_this_one_from_working_it_off_unless_it_is_not_used(
    place: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    operation, stored = document()
    inner = stored
    for name in place:
        inner = inner[name]
    inner["region"] = None
    assert Claims().allowed(json.dumps(stored)) == operation
    inner["region"] = "north"
    claims, text = Claims(), json.dumps(stored)
    assert (claims.allowed(text), claims.allowed(text.encode())) == (None, None)
    [line] = caplog.messages
    assert (operation.operation_id in line, line.endswith("does not know region")) == (True, True)
    assert decoded(text) == operation, "it can be shown nevertheless"


def test_an_operation_of_a_later_kind_is_left_too(caplog: pytest.LogCaptureFixture) -> None:
    assert Claims().allowed(encoded(document("archive")[0])) is None
    assert caplog.messages[0].endswith("does not know archive")
