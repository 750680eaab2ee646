"""What cannot be read is reported once, and is no error of the reader."""

from __future__ import annotations

import json
import logging

import pytest

from taskflow_otel.runtime.readable import Readable

logger = logging.getLogger("taskflow_otel.test")


@pytest.mark.parametrize("text", ["{", "null", "[]", "1", '{"at": {}}', '{"at": 1e400}', "[" * 100_000])
def test_what_cannot_be_read_is_reported_once(text: str, caplog: pytest.LogCaptureFixture) -> None:
    readable = Readable(logger)

    def load(text: str) -> int:
        return int(json.loads(text)["at"])

    assert readable.read("the sound one", load, '{"at": 3}') == 3
    assert [readable.read("the key x", load, text) for _ in range(3)] == [None] * 3
    [message] = caplog.messages
    assert message.startswith("the key x cannot be read and is left out: ")


def test_an_error_of_the_reader_itself_is_raised() -> None:
    def load() -> None:
        raise ConnectionError("no")

    with pytest.raises(ConnectionError):
        Readable(logger).read("x", load)
