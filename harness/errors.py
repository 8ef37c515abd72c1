"""Errors of the harness, by owner.

    HarnessError                 base of everything the harness raises
    |- ConfigurationError        the user asked for something that cannot be: owner user
    |  `- InputError             a scenario or capture file is malformed; names the file and the place in it
    |- BuildError                the driver's sources do not compile or link; carries the compiler's diagnostics
    |- SigningFailed             a token, signing command or time stamp authority did not do its work: infrastructure
    |- ImageError                a file cannot be read as a driver image: not a PE, truncated, another architecture
    `- SignatureError            an image's signature is absent, malformed or does not match the image
       `- UnverifiedSignature    it has a part that is not verified here, which says nothing of what Windows makes of it

What goes wrong on a machine has a tree of its own in `vm.errors`.
"""

from __future__ import annotations


class HarnessError(Exception):
    """Base class of every error that the harness raises."""


class ConfigurationError(HarnessError):
    """The user asked for something that cannot be; the message names it and the remedy."""


class InputError(ConfigurationError):
    """A file given by the user is malformed; the message names the file, the place and what was expected."""


class BuildError(HarnessError):
    """The driver's sources could not be turned into an image.

    The message is fit to print: the first error's ``file:line`` comes first, then the compiler's own diagnostics with
    paths relative to the source tree.
    """


class SigningFailed(HarnessError):
    """A token, a signing command or a time stamp authority did not do its work; says which, and what to try."""


class ImageError(HarnessError):
    """A file cannot be read as an x64 driver image; the message says what is wrong with it and where."""


class SignatureError(HarnessError):
    """An image is unsigned, or its signature is malformed or does not match it; the message says which."""


class UnverifiedSignature(SignatureError):
    """A signature has a part that cannot be verified here; what Windows makes of it is not known."""
