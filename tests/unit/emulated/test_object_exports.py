"""Object and security functions as a driver calls them (fixtures/drivers/object_probe.c checks each answer)."""

from __future__ import annotations

import pytest

from tests.fixtures import guinea_pigs
from vm.emulated.kernel import Kernel
from vm.emulated.loader.image import DriverImage


@pytest.fixture
def kernel():
    built = Kernel()
    yield built
    built.close()


def test_every_answer_is_the_documented_one_and_nothing_is_left(kernel):
    image = kernel.load_image(DriverImage.parse(guinea_pigs.build("object_probe")))
    driver = kernel.io.create_driver("object_probe", image.base, image.size, image.entry, "\\Registry\\Machine")
    objects = {record.type for record in kernel.ob.state.objects.values()}
    blocks = len(kernel.pool.state.blocks)
    status = kernel.call(image.entry, driver, kernel.heap.allocate(16)) & 0xFFFFFFFF
    assert status == 0, f"object_probe.c line {status & 0xFFFF}"
    assert {record.type for record in kernel.ob.state.objects.values()} == objects
    assert len(kernel.pool.state.blocks) == blocks
    assert kernel.ob.state.tables.get(0) is None or not kernel.ob.state.tables[0].entries
