"""What is true of every Windows process history, whoever recorded it and whatever was done.

Each pid walks through a small automaton, fed with notifications in the order of their sequence, never of their time
(docs/reference/process-notify.md section 8: time stamps put 59 of 1,577 exits before their create):

    state     create      exit        acts (is named as parent or creator)
    unseen    live        gone        unseen (older than the window)
    live      DUPLICATE   gone        live
    gone      live        DUPLICATE   contradiction

A window may begin and end anywhere, so an exit from `unseen` and an end in `live` are normal. Per pid the automaton
accepts exactly the sequences that some Windows run can produce; what it lets pass is not detectable from the pid alone.
That a pid acts and is then created without an exit between is accepted for parents: the recorded histories hold such
a case, seen by two independent witnesses (a lost exit). A creating thread is alive during the call, so with
an unbroken sequence a creator is held to it. A process that nobody is told of (a subsystem process, for a routine
registered with the Ex API) may take a gone pid over and act; ground truth tells the observer where there is some.

Memory: one entry for each live process; pids known to be gone are remembered in two generations of bounded size.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from harness.notification import Create, Exit, Gap, Notification
from harness.verdict import SPEC, Discrepancy, Findings, Kind, Verdict, show_status, show_text

_LIFE = f"{SPEC} section 4: pids are multiples of 4, reused only after the exit callback"
_PAIRS = f"{SPEC} section 8: no pid is created twice without an exit between, no exit precedes its create"
_IMAGES = f"{SPEC} section 8: create and exit name the same image"
_SEQUENCE = "procnotify.h PROCNOTIFY_RECORD: every notification takes one sequence number, in order"
_CREATOR = f"{SPEC} section 2: CreatingThreadId is the thread that really creates, so it is alive"
_DENIED = f"{SPEC} section 3: a denied process exits with the denying status"

_GENERATION = 65_536


class Sequence(enum.Enum):
    """What a witness's sequence numbers promise."""

    CONTIGUOUS = "contiguous"
    """Each notification takes the next number; only a gap explains a hole. The driver under test."""
    INCREASING = "increasing"
    """Other records lie between, so holes mean nothing. Event logs."""


class Observer:
    """Holds a stream of notifications against the invariants of every history.

    Feed it in order; ask for the verdict at any time.
    """

    __slots__ = (
        "_acting",
        "_contiguous",
        "_denied",
        "_findings",
        "_gone",
        "_gone_before",
        "_live",
        "_next",
        "_unreported",
        "creates",
        "exits",
        "gaps",
        "lost",
    )

    def __init__(self, sequence: Sequence = Sequence.CONTIGUOUS, findings: Findings | None = None) -> None:
        self._contiguous = sequence is Sequence.CONTIGUOUS
        self._findings = findings if findings is not None else Findings()
        self._live: dict[int, str | None] = {}
        self._denied: dict[int, int] = {}
        self._acting: set[int] = set()
        self._gone: set[int] = set()
        self._gone_before: set[int] = set()
        self._unreported: set[int] = set()
        self._next = 0
        self.creates = 0
        self.exits = 0
        self.gaps = 0
        self.lost = 0

    def is_live(self, pid: int) -> bool:
        """Whether the process was created and has not exited since."""
        return pid in self._live

    def is_gone(self, pid: int) -> bool:
        """Whether the process exited and none was created under its pid since."""
        return pid in self._gone or pid in self._gone_before

    def allow_unreported(self, pid: int) -> None:
        """A process that no notification tells of has this pid (a subsystem process), so the pid may act when gone.

        It holds until `keep_unreported` says otherwise: notifications that are still queued may be older than it.
        """
        self._unreported.add(pid)

    @property
    def has_unreported(self) -> bool:
        """Whether some pid may act although it is gone."""
        return bool(self._unreported)

    def keep_unreported(self, pids: set[int]) -> None:
        """Of the pids allowed so far only these still belong to a process that no notification tells of."""
        self._unreported &= pids

    def begin(self, next_sequence: int) -> None:
        """A driver was started or found running: nothing is known of any pid, the next number is `next_sequence`.

        0 leaves the next number open.
        """
        self._lose_track()
        self._next = next_sequence

    def feed_all(self, notifications: Iterable[Notification]) -> None:
        """Feed many notifications."""
        feed = self.feed
        for notification in notifications:
            feed(notification)

    def feed(self, notification: Notification) -> None:
        """Feed the next notification."""
        sequence = notification.sequence
        if sequence != self._next:
            self._check_sequence(sequence)
        kind = type(notification)
        if kind is Create:
            self._next = sequence + 1
            self._create(notification)  # type: ignore[arg-type]
        elif kind is Exit:
            self._next = sequence + 1
            self._exit(notification)  # type: ignore[arg-type]
        else:
            self._gap(notification)  # type: ignore[arg-type]

    def verdict(self, subject: str = "") -> Verdict:
        """The judgement so far."""
        return self._findings.verdict(self.statistics(), subject)

    def statistics(self) -> dict[str, int]:
        """Counts of what was fed."""
        return {"creates": self.creates, "exits": self.exits, "gaps": self.gaps, "lost": self.lost}

    def _create(self, create: Create) -> None:
        self.creates += 1
        pid = create.pid
        live = self._live
        if pid & 3 or pid <= 4:
            self._report(Kind.PID, "a pid that is a multiple of 4 and above 4", str(pid), create, _LIFE)
        if pid in live:
            seen = "a second one without an exit between"
            self._report(Kind.DUPLICATE_CREATE, f"one creation of pid {pid}", seen, create, _PAIRS)
        elif pid in self._acting:
            self._acting.discard(pid)
            seen = "a creation with no exit between"
            self._report(Kind.MISSING_EXIT, f"an exit of pid {pid}, which created processes", seen, create, _PAIRS)
        parent = create.parent_pid
        gone, gone_before = self._gone, self._gone_before
        if (parent not in live and (parent in gone or parent in gone_before)) or parent == pid or parent & 3:
            self._check_parent(create)
        if create.creator_pid is not None:
            self._check_creator(create, create.creator_pid)
        gone.discard(pid)
        if gone_before:
            gone_before.discard(pid)
        live[pid] = create.image_name
        status = create.status
        if status is not None and status & 0x80000000:
            self._denied[pid] = status

    def _exit(self, exit_: Exit) -> None:
        self.exits += 1
        pid = exit_.pid
        live = self._live
        if pid in live:
            image = live.pop(pid)
            named = exit_.image_name
            if named != image and named is not None and image is not None:
                self._report(Kind.IMAGE_NAME, show_text(image), show_text(named), exit_, _IMAGES)
            if self._denied:
                self._check_denied(exit_)
        else:
            if pid in self._gone or pid in self._gone_before:
                seen = "a second one without a creation between"
                self._report(Kind.DUPLICATE_EXIT, f"one exit of pid {pid}", seen, exit_, _PAIRS)
            if pid & 3 or pid <= 4:
                self._report(Kind.PID, "a pid that is a multiple of 4 and above 4", str(pid), exit_, _LIFE)
        if self._acting:
            self._acting.discard(pid)
        gone = self._gone
        gone.add(pid)
        if len(gone) > _GENERATION:
            self._gone_before = gone
            self._gone = set()

    def _gap(self, gap: Gap) -> None:
        self.gaps += 1
        self.lost += gap.count
        self._next = gap.sequence + gap.count
        if not self._contiguous:
            what = "a gap record from a witness whose numbers promise nothing"
            self._report(Kind.GAP, "no gap", what, gap, _SEQUENCE)
        self._lose_track()

    def _lose_track(self) -> None:
        """Whatever was known of a pid may have changed unseen."""
        self._live.clear()
        self._denied.clear()
        self._acting.clear()
        self._gone.clear()
        self._gone_before.clear()

    def _check_sequence(self, sequence: int) -> None:
        due = self._next
        if due == 0:
            return
        if sequence < due:
            expected, seen = f"sequence number {due} or later", f"{sequence}"
        elif self._contiguous:
            expected, seen = f"sequence number {due}", f"{sequence}, and no gap record for {sequence - due} lost ones"
        else:
            return
        self._findings.add(Discrepancy(Kind.SEQUENCE, expected, seen, sequence=sequence, source=_SEQUENCE))

    def _check_parent(self, create: Create) -> None:
        parent = create.parent_pid
        if parent & 3:
            self._report(Kind.PARENT, "a parent pid that is a multiple of 4", str(parent), create, _LIFE)
        elif parent == create.pid:
            self._report(Kind.PARENT, "a parent other than the process itself", str(parent), create, _PAIRS)
        elif parent not in self._unreported:
            self._report(Kind.PARENT, "a parent that runs", f"pid {parent}, which has exited", create, _LIFE)

    def _check_creator(self, create: Create, creator: int) -> None:
        """Hold the creating thread to be alive and no process; only called where the witness reports it."""
        live = self._live
        tid = create.creator_tid
        if creator not in live:
            gone = creator in self._gone or creator in self._gone_before
            if gone and creator not in self._unreported:
                seen = f"pid {creator}, which has exited"
                self._report(Kind.CREATOR, "a creating process that runs", seen, create, _CREATOR)
            elif self._contiguous and not gone and creator not in self._unreported:
                self._acting.add(creator)
        elif creator in self._denied:
            self._report(Kind.CREATOR, "a creating process that runs", f"pid {creator}, denied", create, _CREATOR)
        if creator & 3 or creator in (0, create.pid):
            self._report(Kind.CREATOR, "a pid of another process, multiple of 4", str(creator), create, _CREATOR)
        if tid is not None and (tid & 3 or tid == 0 or tid in live):
            seen = f"{tid}, a running process" if tid in live else f"{tid}"
            self._report(Kind.CREATOR, "a thread id, multiple of 4 and no pid in use", seen, create, _CREATOR)

    def _check_denied(self, exit_: Exit) -> None:
        denied = self._denied.pop(exit_.pid, None)
        if denied is not None and exit_.status is not None and exit_.status != denied:
            self._report(Kind.EXIT_STATUS, show_status(denied), show_status(exit_.status), exit_, _DENIED)

    def _report(self, kind: Kind, expected: str, seen: str, about: Notification, source: str) -> None:
        process = "" if isinstance(about, Gap) else f"pid {about.pid}"
        found = Discrepancy(kind, expected, seen, process=process, sequence=about.sequence, source=source)
        self._findings.add(found)
