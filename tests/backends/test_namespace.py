"""The names by which applications that share a database keep apart."""

from __future__ import annotations

import pytest

from taskflow_otel.backends.namespace import check_namespace
from taskflow_otel.errors import ConfigurationError


@pytest.mark.parametrize("name", ["a", "shop", "shop_2", "a" * 30])
def test_a_short_lower_case_name_is_taken(name: str) -> None:
    check_namespace(name)


@pytest.mark.parametrize("name", ["", "Shop", "2nd", "_shop", "shop-2", "a" * 31, "shop\n", "ü", "a;drop", None, 7])
def test_any_other_is_refused_by_its_value(name: object) -> None:
    with pytest.raises(ConfigurationError, match="namespace must be a lower-case letter") as caught:
        check_namespace(name)
    assert str(caught.value).endswith(f"not {name!r}")
