"""Which creations a rule set denies: procnotify.h's words on rules, implemented a second time and differently.

Names are compared after upcasing each UTF-16 unit. The table: a character of the Basic Multilingual Plane is replaced
by what Unicode calls its upper case (`str.upper`, from UnicodeData.txt and SpecialCasing.txt) where that is one
character of the plane, and is left alone otherwise; so are characters beyond the plane, whose units are surrogates.
NT's own table (RtlUpcaseUnicodeChar, wdm.h) is of the same kind and fixed at an older Unicode version; a few characters
whose upper case does not lower to them again (U+00B5, U+0131, U+017F) may differ there, so scenarios should not hang on
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.abi import Match, Rule
from harness.notification import canonical_text

STATUS_ACCESS_DENIED: Final = 0xC0000022
MAXIMUM_RULES: Final = 1024
MAXIMUM_PATTERN_BYTES: Final = 65_534


def upcase(text: str) -> str:
    """A text with each UTF-16 unit upcased; its length does not change."""
    if text.isascii():
        return text.upper()
    return "".join(map(_upcase_character, text))


def _upcase_character(character: str) -> str:
    upper = character.upper()
    return upper if len(upper) == 1 and character <= "\uffff" and upper <= "\uffff" else character


def is_valid(rules: Sequence[Rule]) -> bool:
    """Whether procnotify.h lets the driver accept the set."""
    return len(rules) <= MAXIMUM_RULES and all(map(_is_valid_rule, rules))


def _is_valid_rule(rule: Rule) -> bool:
    length = len(rule.pattern.encode("utf-16-le", "surrogatepass"))
    return 0 < length <= MAXIMUM_PATTERN_BYTES and (rule.status == 0 or bool(rule.status & 0x80000000))


class RuleSet:
    """A valid rule set, ready for lookup: the cost grows with the components of a name, not with the rules."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = tuple(Rule(rule.match, rule.pattern, rule.status or STATUS_ACCESS_DENIED) for rule in rules)
        self._exact: dict[str, int] = {}
        self._subtree: dict[str, int] = {}
        self._suffix: dict[str, int] = {}
        tables = {Match.EXACT: self._exact, Match.SUBTREE: self._subtree, Match.SUFFIX: self._suffix}
        for index, rule in enumerate(self.rules):
            pattern = upcase(canonical_text(rule.pattern))
            if rule.match is Match.SUBTREE:
                pattern = pattern.removesuffix("\\")
            tables[rule.match].setdefault(pattern, index)

    def status_for(self, image_name: str | None) -> int | None:
        """The status with which a creation of this image is denied, None when no rule matches."""
        if image_name is None or not self.rules:
            return None
        name = upcase(image_name)
        none = len(self.rules)
        first = min(self._exact.get(name, none), self._suffix.get(name, none))
        for index, unit in enumerate(name):
            if unit == "\\":
                first = min(first, self._subtree.get(name[:index], none), self._suffix.get(name[index + 1 :], none))
        return self.rules[first].status if first < none else None
