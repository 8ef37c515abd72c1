"""The /GS cookie of a driver: where it lies decides whether the driver can be loaded at all.

Windows sets the cookie when it loads an image whose load configuration names it, and GsDriverEntry ends the system with
FAST_FAIL_GS_COOKIE_INIT when the cookie still has its initial value. lld-link may place the kit's own cookie in a
read-only section. An object of our own is therefore linked first: it defines the cookie, as the kit's library does, in
plain writable data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness.build import pe
from harness.errors import BuildError

SOURCE: Final = """\
__declspec(selectany) unsigned __int64 __security_cookie = 0x00002B992DDFA232;
__declspec(selectany) unsigned __int64 __security_cookie_complement = ~0x00002B992DDFA232ull;
"""
"""The names and the initial value are those of the compiler's /GS documentation and of gs_cookie.c in Visual C++."""


def require_writable_cookie(image: Path, kit: str) -> None:
    """Hold a linked image to have a cookie that can be initialised.

    Args:
        image: the image.
        kit: the kit's version, for messages.

    Raises:
        BuildError: the load configuration names no cookie, or one that is not in writable data.
    """
    loaded = pe.load(image, pe.ALL_64_BIT)
    rva = loaded.security_cookie_rva()
    if rva is None:
        raise BuildError(
            f"{image.name}: its load configuration names no /GS cookie, so Windows would not initialise it and "
            f"GsDriverEntry would stop the system; the bufferoverflowfastfailk.lib of kit {kit} is not the kit's own"
        )
    section = loaded.section_at(rva)
    if section is None or not section.writable:
        where = "no section" if section is None else f"the section {section.name}, which is not writable"
        raise BuildError(f"{image.name}: the /GS cookie lies in {where}; no source may define __security_cookie")
