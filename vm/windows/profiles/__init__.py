"""Profiles: which Windows, on what virtual machine, set up how."""

from vm.windows.profiles.profile import Profile
from vm.windows.profiles.registry import Profiles, load, names, shipped

__all__ = ["Profile", "Profiles", "load", "names", "shipped"]
