"""The conformance suite finds the defect of every mutant: a run with a survivor fails."""

from __future__ import annotations

import pytest

from harness.errors import BuildError
from harness.machines import find_driver_image
from tests.mutants.building import build_mutant
from tests.mutants.catalogue import MANIFEST, PATCHES, Mutant, load_mutants
from tests.mutants.judging import Outcome, run_suite
from tests.mutants.patching import PatchError

MUTANTS = load_mutants()
FEWEST = 26
"""The sample and twenty-five variants are the least that the suite is held to."""


@pytest.fixture
def toolchain(pytestconfig) -> str | None:
    """What builds the mutants: `--toolchain`, else the project's."""
    return pytestconfig.getoption("--toolchain")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_named_for_a_mutant_fail_on_it(mutant: Mutant, tmp_path, toolchain):
    try:
        built = build_mutant(mutant, toolchain)
    except (PatchError, BuildError) as error:
        pytest.fail(f"{mutant.patch or mutant.driver} cannot be built: {error}", pytrace=False)

    judgement = run_suite(built.image, mutant.killed_by, tmp_path)

    survived = [f"{test}: {end.value}" for test, end in judgement.outcomes.items() if end is not Outcome.FAILED]
    if survived or judgement.status != pytest.ExitCode.TESTS_FAILED:
        pytest.fail(
            f"{mutant.name}: {mutant.defect}\nEach of its tests must fail as a test; exit status {judgement.status}\n"
            + "\n".join(survived)
            + f"\n\n{judgement.output}",
            pytrace=False,
        )


def test_every_test_named_for_a_mutant_passes_on_the_driver_itself(tmp_path, toolchain):
    tests = dict.fromkeys(test for mutant in MUTANTS for test in mutant.killed_by)

    judgement = run_suite(find_driver_image(None, toolchain).path, tests, tmp_path)

    wrong = [f"{test}: {end.value}" for test, end in judgement.outcomes.items() if end is not Outcome.PASSED]
    assert not wrong, "\n".join([*wrong, judgement.output])
    assert judgement.status == pytest.ExitCode.OK


def test_every_patch_has_its_entry():
    named = [mutant.patch for mutant in MUTANTS if mutant.patch is not None]
    assert sorted(named) == sorted(PATCHES.iterdir()), f"{PATCHES} and {MANIFEST} must name the same patches"


def test_there_are_as_many_mutants_as_the_suite_is_held_to():
    assert len(MUTANTS) >= FEWEST
    assert any(mutant.driver == "mission" for mutant in MUTANTS)
