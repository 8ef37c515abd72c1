"""Builds with the public Windows Driver Kit on Linux: clang-cl and lld-link over kits that the user has added.

A kit stays where it is. What is kept of it is an index of where its parts are and a VFS overlay, because the kit's
headers name each other without regard to case.

    contents    what a folder, a package or a disc image holds, by name
    discovery   which kits these names make, and what is missing of each
    kit         a kit as it is indexed
    extraction  unpacking what a compiler cannot read in place
    overlay     the VFS overlay
    registry    the kits of this user
    selection   the kit that a build takes
    cookie      where the /GS cookie lies
    programs    compiler and linker
    toolchain   compiling and linking
"""

from __future__ import annotations

from harness.build.wdk.kit import Kit
from harness.build.wdk.toolchain import Wdk

__all__ = ["Kit", "Wdk"]
