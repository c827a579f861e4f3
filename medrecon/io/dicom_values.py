"""Attribute values between Python and DICOM: facts out of a data set, facts made to fit their value representation, UIDs."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from medrecon.errors import BadInput
from medrecon.io.pixels import decimal_string

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "medrecon.uid")

IMPLEMENTATION_UID = "2.25." + str(uuid.uuid5(uuid.NAMESPACE_DNS, "medrecon.implementation").int)

_LENGTHS = {"LO": 64, "SH": 16, "PN": 64, "ST": 1024, "LT": 10240}
_PATTERNS = {
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
    "DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "UI": re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+"),
    "AS": re.compile(r"\d{3}[DWMY]"),
}
_SEXES = {"MALE": "M", "FEMALE": "F", "OTHER": "O"}


def uid(*parts: object) -> str:
    """The UID of these parts: 2.25.<UUIDv5 as a number>, at most 44 characters, the same on every machine."""
    return "2.25." + str(uuid.uuid5(_NAMESPACE, "\x1f".join(map(str, parts))).int)


def digest(facts: Any) -> str:
    """SHA-256 of facts as canonical JSON: equal facts in another order have equal digests."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def item(attributes: Mapping[str, Any]) -> Any:
    """A sequence item of these attributes by keyword."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> list[Any]:
    """A code sequence of one item."""
    return [item({"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})]


def conformed(keyword: str, value: Any) -> Any:
    """The value as DICOM takes it for this keyword (ISO dates and times lose their marks), or None where it cannot fit."""
    from pydicom.datadict import dictionary_VM, dictionary_VR

    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) > 1 and dictionary_VM(keyword) == "1":
        return None
    fitted = [_fitted(dictionary_VR(keyword), keyword, one) for one in values]
    if any(one is None for one in fitted):
        return None
    return fitted if len(fitted) > 1 else (fitted[0] if fitted else None)


def _fitted(representation: str, keyword: str, value: Any) -> str | None:
    try:
        if representation == "DS":
            return decimal_string(float(value))
        if representation == "IS":
            return str(round(float(value)))
    except (TypeError, ValueError, OverflowError, BadInput):
        return None
    text = str(value).strip()
    if representation == "DA":
        text = text[:10].replace("-", "")
    elif representation == "TM":
        text = text.replace(":", "")
    elif representation == "CS":
        text = text.upper()
        text = _SEXES.get(text, text) if keyword == "PatientSex" else text
    if representation in _PATTERNS:
        return text if _PATTERNS[representation].fullmatch(text) else None
    if len(text) > _LENGTHS.get(representation, 64) or "\\" in text or not text.isprintable():
        return None
    return text


def facts_of(dataset: Any, keywords: Iterable[str]) -> dict[str, Any]:
    """The non-empty attributes of a data set as plain strings, numbers and lists; values that cannot be read are left out."""
    facts = {}
    for keyword in keywords:
        try:
            value = _plain(dataset.get(keyword))
        except (ValueError, TypeError, OverflowError):
            continue
        if value not in (None, "", []):
            facts[keyword] = value
    return facts


def _plain(value: Any) -> Any:
    from pydicom.multival import MultiValue
    from pydicom.valuerep import IS, DSfloat

    if isinstance(value, MultiValue | list):
        return [_plain(one) for one in value]
    if isinstance(value, DSfloat):
        return float(value)
    if isinstance(value, IS):
        return int(value)
    if value is None or isinstance(value, int | float):
        return value
    return str(value)
