"""Records of the security log as Windows renders them: 4688, a process was created, and 4689, one exited.

Fields as on Microsoft's pages of these events, version 2 of 4688 and version 0 of 4689.
"""

from __future__ import annotations

import datetime
from xml.sax.saxutils import escape

NAMESPACE = "http://schemas.microsoft.com/win/2004/08/events/event"
SUBJECT = {
    "SubjectUserSid": "S-1-5-18",
    "SubjectUserName": "STANDIN$",
    "SubjectDomainName": "WORKGROUP",
    "SubjectLogonId": "0x3e7",
}


def record_creation(windows, moment, result):
    """Note a creation, if process auditing is on."""
    data = {
        **SUBJECT,
        "NewProcessId": hex(result.pid),
        "NewProcessName": (result.image_name or "").removeprefix("\\??\\"),
        "TokenElevationType": "%%1936",
        "ProcessId": hex(result.parent_pid),
        "CommandLine": result.command_line or "",
        "TargetUserSid": "S-1-0-0",
        "TargetUserName": "-",
        "TargetDomainName": "-",
        "TargetLogonId": "0x0",
        "ParentProcessName": "",
        "MandatoryLabel": "S-1-16-12288",
    }
    _record(windows, moment, 4688, 2, 13312, data)


def record_exit(windows, moment, pid, image, status):
    """Note an exit, if process auditing is on."""
    data = {**SUBJECT, "Status": hex(status & 0xFFFFFFFF), "ProcessId": hex(pid), "ProcessName": image}
    _record(windows, moment, 4689, 0, 13313, data)


def _record(windows, moment, number, version, task, data):
    if not windows.auditing:
        return
    records = windows.logs["Security"]
    identity = records[-1][0] + 1 if records else 1
    seconds, rest = divmod(moment, 10_000_000)
    when = datetime.datetime(1601, 1, 1) + datetime.timedelta(seconds=seconds)  # noqa: DTZ001 - UTC, as Windows counts
    values = "".join(f"<Data Name='{name}'>{_text(value)}</Data>" for name, value in data.items())
    xml = (
        f"<Event xmlns='{NAMESPACE}'><System>"
        "<Provider Name='Microsoft-Windows-Security-Auditing' Guid='{54849625-5478-4994-a5ba-3e3b0328c30d}'/>"
        f"<EventID>{number}</EventID><Version>{version}</Version><Level>0</Level><Task>{task}</Task><Opcode>0</Opcode>"
        f"<Keywords>0x8020000000000000</Keywords><TimeCreated SystemTime='{when.isoformat()}.{rest:07}Z'/>"
        f"<EventRecordID>{identity}</EventRecordID><Correlation/><Execution ProcessID='4' ThreadID='48'/>"
        f"<Channel>Security</Channel><Computer>STANDIN</Computer><Security/></System>"
        f"<EventData>{values}</EventData></Event>"
    )
    windows.record("Security", number, xml)


def _text(value):
    """A value as Windows renders it: what XML has no place for as it is."""
    return escape(value, {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"})
