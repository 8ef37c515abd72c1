"""Independent witnesses of what a driver reports: event logs, read strictly and held against the driver's capture."""

from __future__ import annotations

from harness.witness.cross_check import cross_check
from harness.witness.event_xml import read_event_texts, read_event_xml
from harness.witness.logs import Origin, WitnessLog, read_witness

__all__ = ["Origin", "WitnessLog", "cross_check", "read_event_texts", "read_event_xml", "read_witness"]
