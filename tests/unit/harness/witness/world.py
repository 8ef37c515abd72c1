"""A small invented machine: its processes as a driver and as two kinds of event log tell them."""

from __future__ import annotations

from dataclasses import replace
from xml.sax.saxutils import escape, quoteattr

from hypothesis import strategies as st

from harness.notification import Create, Exit
from harness.witness.logs import Origin, WitnessLog

IMAGES = ("C:\\Windows\\System32\\cmd.exe", "C:\\Windows\\System32\\conhost.exe", "C:\\Tools\\größe.exe", "D:\\a b.exe")
COMMAND_LINES = ("cmd  /c dir ", "\\??\\C:\\x.exe -a", "%PATH% größe \U0001f600", "")
HOUR = 36_000_000_000


@st.composite
def worlds(draw, pids=6, most=60):
    """Creations and exits with much reuse of pids, as the callbacks of a driver report them."""
    events = []
    running = {}
    count = draw(st.integers(1, most))
    for sequence in range(1, count + 1):
        pid = 100 + 4 * draw(st.integers(0, pids - 1))
        if pid in running:
            events.append(Exit(sequence, sequence, pid, draw(st.sampled_from([0, 1, 0xC0000005, 0x40010004]))))
            del running[pid]
            continue
        running[pid] = draw(st.sampled_from(IMAGES))
        parent = draw(st.sampled_from([4, 60, *(other for other in running if other != pid)]))
        command_line = draw(st.sampled_from(COMMAND_LINES))
        name = f"\\??\\{running[pid]}"
        events.append(Create(sequence, sequence, pid, parent, parent, 5000, 0, name, command_line, True))
    return events


def as_log(events, origin=Origin.AUDIT, *, start=0, end=None, complete=True):
    """The part of the events from `start` to `end` as a log has it: DOS paths, other numbers, another time zone."""
    images = {}
    written = []
    for number, event in enumerate(events):
        image = None
        if isinstance(event, Create):
            images[event.pid] = image = event.image_name.removeprefix("\\??\\")
            record = replace(event, creator_pid=None, creator_tid=None, status=None, file_open_name_available=None)
            record = replace(record, image_name=image, command_line=event.command_line or None)
        else:
            record = replace(event, image_name=images.pop(event.pid, None))
            if origin is Origin.SYSMON:
                record = replace(record, status=None)
        written.append(replace(record, sequence=7000 + 3 * number, time=event.time - 4 * HOUR))
    return WitnessLog(origin, "HOST", "invented", tuple(written[start:end]), complete=complete)


def to_xml(log, *, root=True, extra=""):
    """A log as Windows renders it."""
    body = "".join(event_xml(log.origin, log.host, event) for event in log.events) + extra
    return f"<Events>{body}</Events>" if root else body


def event_xml(origin, host, event):
    creation = isinstance(event, Create)
    if origin is Origin.AUDIT:
        provider, number = "Microsoft-Windows-Security-Auditing", 4688 if creation else 4689
        data = {"SubjectUserSid": "S-1-5-18"}
        if creation:
            data |= {"NewProcessId": hex(event.pid), "NewProcessName": event.image_name, "TokenElevationType": "%%1936",
                     "ProcessId": hex(event.parent_pid), "CommandLine": event.command_line or ""}  # fmt: skip
        else:
            data |= {"Status": hex(event.status), "ProcessId": hex(event.pid), "ProcessName": event.image_name or ""}
    else:
        provider, number = "Microsoft-Windows-Sysmon", 1 if creation else 5
        data = {"RuleName": "-", "ProcessId": str(event.pid), "Image": event.image_name or "<unknown process>"}
        if creation:
            data |= {"CommandLine": event.command_line or "", "ParentProcessId": str(event.parent_pid)}
    seconds, fraction = divmod(event.time, 10_000_000)
    stamp = f"{_date(seconds)}.{fraction:07}Z"
    rows = "".join(f"<Data Name={quoteattr(name)}>{escape(value)}</Data>" for name, value in data.items())
    return (
        "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>"
        f"<Provider Name='{provider}' Guid='{{54849625-5478-4994-a5ba-3e3b0328c30d}}'/><EventID>{number}</EventID>"
        f"<Version>2</Version><TimeCreated SystemTime='{stamp}'/><EventRecordID>{event.sequence}</EventRecordID>"
        f"<Channel>x</Channel><Computer>{host}</Computer><Security/></System><EventData>{rows}</EventData>"
        "<RenderingInfo Culture='en-US'><Message>A process &lt;x&gt;</Message></RenderingInfo></Event>"
    )


def _date(seconds):
    import datetime

    moment = datetime.datetime(1601, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
