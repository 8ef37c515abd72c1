"""Mutates driver images and inspects them until time is up, or until one leads to anything but a finding or an error.

    python -m tests.fuzzing.inspect_images --seconds 60 [--seed NUMBER] [IMAGE...]

Without images it mutates the reference driver. An input that breaks `inspect` is kept, and its seed is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
import traceback
from pathlib import Path

from harness.build import build_driver, pe
from harness.errors import ImageError
from harness.inspection.inspect import inspect
from harness.inspection.report import lines, to_json

SLOWEST_S = 5.0
VALUES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutated(images, seed):
    """One of some images with a few changes where its structures are; the same seed gives the same bytes."""
    choose = random.Random(seed)
    original = choose.choice(images)
    data = bytearray(original)
    places = _places(pe.parse(original))
    for _ in range(choose.randint(1, 6)):
        start, end = choose.choice(places)
        position = choose.randrange(start, end)
        width = choose.choice((1, 2, 4))
        value = choose.choice((*VALUES, choose.getrandbits(32), position, len(data)))
        data[position : position + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    if choose.random() < 0.1:
        del data[choose.randrange(len(data)) :]
    if choose.random() < 0.1 and len(data) > 1:
        position = choose.randrange(len(data))
        del data[position : position + choose.randint(1, 64)]
    if choose.random() < 0.1:
        position = choose.randrange(len(data) + 1)
        data[position:position] = choose.randbytes(choose.randint(1, 64))
    return bytes(data)


def _places(image):
    """Headers, signature and every section: most code has little to parse, so it counts once."""
    offset, size = image.certificate_table
    headers = [(0, image.size_of_headers)] * 4
    signature = [(offset, offset + size)] * 3 if size else []
    return headers + signature + [(s.raw_offset, s.raw_offset + s.raw_size) for s in image.sections if s.raw_size]


def broken_by(data, path, inspect=inspect):
    """What goes wrong when an image is inspected, None when nothing does."""
    path.write_bytes(data)
    started = time.monotonic()
    try:
        found = inspect(path)
        json.dumps(to_json(found))
        if not all(line.isprintable() for line in lines(found)):
            return "a line that a terminal would act on"
    except ImageError:
        pass
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        return traceback.format_exc()
    took = time.monotonic() - started
    return f"took {took:.1f} s" if took > SLOWEST_S else None


def main(arguments=None):
    """Mutate and inspect."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("images", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    images = [path.read_bytes() for path in options.images or [build_driver("procnotify").image]]
    print(f"seed {options.seed}")
    end = time.monotonic() + options.seconds
    seed = options.seed
    with tempfile.TemporaryDirectory(prefix="ntproof-fuzzing-") as folder:
        path = Path(folder) / "mutated.sys"
        while time.monotonic() < end:
            data = mutated(images, seed)
            broken = broken_by(data, path)
            if broken is not None:
                kept = Path(tempfile.gettempdir()) / f"ntproof-inspect-{seed}.sys"
                kept.write_bytes(data)
                print(f"{broken}\nseed {seed}: kept as {kept}")
                return 1
            seed += 1
    print(f"{seed - options.seed} images, each told or refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
