"""Results as the XML that CI systems read (JUnit)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from tidefleet.conformance.case import Outcome, Result

_NOT_XML = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF), "\ufffd")


def junit(results: Sequence[Result], *, target: str) -> str:
    """A document of one test suite; the part of a case's name before the dot is its class."""
    failed = sum(one.outcome is Outcome.FAILED for one in results)
    skipped = sum(one.outcome is Outcome.SKIPPED for one in results)
    numbers = {"tests": str(len(results)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    total = f"{sum(one.seconds for one in results):.3f}"
    root = ET.Element("testsuites", numbers | {"time": total})
    suite = ET.SubElement(root, "testsuite", {"name": f"endpoint picker {target}", **numbers, "time": total})
    for one in results:
        group, _, name = one.case.name.partition(".")
        attributes = {"classname": f"{group}.{one.case.level}", "name": name, "time": f"{one.seconds:.3f}"}
        element = ET.SubElement(suite, "testcase", attributes)
        if one.outcome is Outcome.FAILED:
            failure = ET.SubElement(element, "failure", {"message": _clean(one.message), "type": str(one.case.level)})
            failure.text = _clean(f"{one.case.clause}\n{one.message}")
        elif one.outcome is Outcome.SKIPPED:
            ET.SubElement(element, "skipped", {"message": _clean(one.message)})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Without what XML has no place for; a picker's own words may be in it."""
    return text.translate(_NOT_XML).encode("utf-8", "replace").decode()
