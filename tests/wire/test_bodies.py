"""The bodies of the API, as a client reads them, which may be older or newer than the server."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from pydantic import BaseModel

from taskflow_otel import wire
from taskflow_otel.testing.backends.samples import full_task
from taskflow_otel.web.answers import task_out
from taskflow_otel.wire.tasks import TaskOut

MODULES = [importlib.import_module(found.name) for found in pkgutil.iter_modules(wire.__path__, f"{wire.__name__}.")]
MODELS = [
    model
    for module in MODULES
    for _, model in inspect.getmembers(module, inspect.isclass)
    if issubclass(model, BaseModel) and model.__module__ == module.__name__
]


@pytest.mark.parametrize("field", ["reason", "source", "executor"])
def test_a_word_of_a_later_version_is_read(field: str) -> None:
    sent = task_out(full_task(), with_args=True).model_dump(mode="json")
    assert getattr(TaskOut.model_validate({**sent, field: "a later word"}), field) == "a later word"


def test_a_field_of_a_later_version_is_ignored_in_an_answer_and_refused_in_a_request() -> None:
    requests = {model.__name__ for model in MODELS if model.model_config.get("extra") == "forbid"}
    assert requests == {model.__name__ for model in MODELS if model.__name__.endswith("In")}
    sent = task_out(full_task(), with_args=True).model_dump(mode="json")
    assert TaskOut.model_validate({**sent, "later": 1}) == TaskOut.model_validate(sent)


def test_every_body_says_what_it_is() -> None:
    assert [model.__name__ for model in MODELS if not model.__doc__] == []
