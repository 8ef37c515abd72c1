"""What the set-up scripts in the guest are told: values of the profile, in a file beside them. It holds no secret."""

from __future__ import annotations

from typing import Final

from vm.windows.profiles.profile import Family, Profile

FILE_NAME: Final = "data.json"
RESULT_PORT: Final = "COM1"
CERTIFICATE_DAYS: Final = 3650
CERTIFICATE_KEY_BITS: Final = 3072


def setup_data(profile: Profile, *, openssh_package: str = "", guest_module: str = "") -> dict[str, object]:
    """The content of the file.

    Args:
        profile: the profile.
        openssh_package: name of the OpenSSH package beside the scripts; empty for none.
        guest_module: name of the PowerShell module in the folder ``guest`` beside the scripts; empty for none.
    """
    features = profile.features
    return {
        "administrator": profile.answers.administrator,
        "build": profile.media.build,
        "certificate": {
            "subject": profile.answers.computer_name,
            "days": CERTIFICATE_DAYS,
            "key_bits": CERTIFICATE_KEY_BITS,
        },
        "crash_dump": features.crash_dump.value,
        "defender": features.defender,
        "disable_builtin_administrator": profile.media.family is Family.SERVER,
        "guest_module": guest_module,
        "memory_integrity": features.memory_integrity,
        "openssh_package": openssh_package,
        "page_file_mib": profile.page_file_mib,
        "process_audit": features.process_audit,
        "result_port": RESULT_PORT,
        "standard_user": profile.answers.standard_user,
        "test_signing": features.test_signing,
        "updates": features.updates,
    }
