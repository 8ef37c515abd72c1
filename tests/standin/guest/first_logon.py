"""Second phase of the installation, at the first start from the disk: accounts, then the command of the first logon.

The command is followed as cmd.exe and PowerShell would follow it, down to the script's own order of things: its steps
in the order of their names, an event at the begin and end of each, the facts at last.
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from pathlib import Path

from tests.standin.guest.answers import WrongAnswers, read_answers
from tests.standin.guest.media import mount_media, path_in
from tests.standin.guest.report import SerialReport
from tests.standin.guest.settings import FOLDER, Settings
from tests.standin.guest.steps import STEPS, SetUp, StepFailed

ANSWERS = FOLDER / "unattend.xml"
DATA = "data.json"
_COMMAND = re.compile(
    r"cmd\.exe /c for %d in \((?P<letters>[A-Z ]+)\) do @if exist (?P<looked_for>%d:\S+)"
    r" powershell\.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File (?P<script>%d:\S+)"
)


def scripts_of(command, media):
    """The scripts that the command runs: one for each letter under which it is."""
    match = _COMMAND.fullmatch(command)
    if match is None:
        raise WrongAnswers(f"{command!r} is no command that is known here")
    found = []
    for letter in match["letters"].split():
        if path_in(media, match["looked_for"].replace("%d", letter)) is None:
            continue
        script = path_in(media, match["script"].replace("%d", letter))
        if script is None:
            raise WrongAnswers(f"{match['script'].replace('%d', letter)} does not exist")
        found.append(script)
    return found


def set_up(report, scripts, kept, passwords):
    """What setup.ps1 does. Tells whether all steps were done."""
    setup = SetUp(json.loads((scripts / DATA).read_text()), kept, scripts, passwords)
    facts = {}
    for path in sorted((scripts / "steps").glob("*.ps1"), key=lambda path: path.name):
        name = path.stem
        report.send("started", step=name)
        start = time.monotonic()
        try:
            facts |= STEPS.get(name, _unknown)(setup)
        except Exception as error:  # noqa: BLE001 - the script reports whatever fails
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            report.send("failed", step=name, message=str(error) or repr(error), where=f"{path.name}:{line}")
            return False
        report.send("ended", step=name, seconds=round(time.monotonic() - start, 3))
    report.send("result", facts=facts)
    return True


def _unknown(_setup):
    raise StepFailed("this guest does not know the step")


def kept_of(answers):
    """The settings that the answers alone decide."""
    if not any(one.name == answers.auto_logon and one.group == "Administrators" for one in answers.accounts):
        raise WrongAnswers("who is logged on is no administrator")
    return Settings(computer_name=answers.computer_name, registry=answers.registry)


def main():
    report = SerialReport()
    try:
        answers = read_answers(ANSWERS.read_bytes())
        kept = kept_of(answers)
        passwords = {account.name: account.password for account in answers.accounts}
        media = mount_media()
        for command in answers.first_logon:
            for script in scripts_of(command, media):
                if not set_up(report, script.parent, kept, passwords):
                    return 1
    except WrongAnswers as error:
        report.send("failed", step="first-logon", message=str(error), where=ANSWERS.name)
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the host must hear of it
        where = traceback.extract_tb(error.__traceback__)[-1]
        report.send(
            "failed",
            step="first-logon",
            message=f"{type(error).__name__}: {error}",
            where=f"{Path(where.filename).name}:{where.lineno}",
        )
        return 1
    # The answers hold passwords.
    ANSWERS.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
