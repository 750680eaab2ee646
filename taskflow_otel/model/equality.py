"""Whether a value is the same after it was stored and read back.

Stricter than `==`, for which `1`, `1.0` and `True` are equal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel


def equal(before: Any, after: Any, *, strict: bool) -> bool:
    """Whether the two are of the same types throughout and hold the same values, in the same order.

    If not `strict`, two things may differ: the object of a time zone (its offset must be the same), and which fields
    of a pydantic model were set explicitly.
    """
    if type(before) is not type(after):
        return False
    if isinstance(before, BaseModel):
        return _same_model(before, after, strict)
    if dataclasses.is_dataclass(before):
        # A field that is computed by its class and excluded from comparisons is not part of the value.
        return all(
            equal(getattr(before, field.name), getattr(after, field.name), strict=strict)
            for field in dataclasses.fields(before)
            if field.init or field.compare
        )
    if isinstance(before, float):
        if math.isnan(before):
            return math.isnan(after)
        return bool(before == after) and math.copysign(1.0, before) == math.copysign(1.0, after)
    if isinstance(before, complex):
        return equal(before.real, after.real, strict=strict) and equal(before.imag, after.imag, strict=strict)
    if isinstance(before, Decimal):
        return bool(before.as_tuple() == after.as_tuple())  # 1.0 and 1.00 are equal, but print differently
    if isinstance(before, (datetime, time)):
        return _same_moment(before, after, strict)
    if isinstance(before, Mapping):
        return len(before) == len(after) and all(
            equal(one, other, strict=strict) and equal(before[one], after[other], strict=strict)
            for one, other in zip(before, after, strict=True)
        )
    if isinstance(before, AbstractSet):
        found = {item: item for item in after}
        return len(before) == len(found) and all(
            item in found and equal(item, found[item], strict=strict) for item in before
        )
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(
            equal(one, other, strict=strict) for one, other in zip(before, after, strict=True)
        )
    return bool(before == after)


def _same_model(before: BaseModel, after: BaseModel, strict: bool) -> bool:
    names = type(before).model_fields
    return (
        all(equal(getattr(before, name), getattr(after, name), strict=strict) for name in names)
        and equal(before.model_extra, after.model_extra, strict=strict)
        and before.__pydantic_private__ == after.__pydantic_private__
        and (not strict or before.model_fields_set == after.model_fields_set)
    )


def _same_moment(before: datetime | time, after: Any, strict: bool) -> bool:
    if before != after or before.utcoffset() != after.utcoffset():
        return False
    if not strict:
        return True
    one, other = before.tzinfo, after.tzinfo
    if isinstance(one, ZoneInfo) and isinstance(other, ZoneInfo):
        return one.key == other.key and before.fold == after.fold
    return type(one) is type(other) and before.fold == after.fold
