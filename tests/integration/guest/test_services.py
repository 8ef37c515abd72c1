"""ntguest.exe creates, starts, stops and deletes real services and sets what their drivers read.

Wine answers a start before the driver's entry point has returned, and checks no signature.
"""

from __future__ import annotations

import base64
import re
import shutil
import time
from pathlib import Path

import pytest

from harness.build.description import DriverSources
from harness.build.driver_build import build_driver
from tests.integration.guest.wine import DEADLINE, GUEST_FOLDER, Agent

ERROR_FILE_NOT_FOUND = 2
ERROR_INVALID_NAME = 123
ERROR_SERVICE_ALREADY_RUNNING = 1056
ERROR_SERVICE_DOES_NOT_EXIST = 1060
ERROR_SERVICE_NOT_ACTIVE = 1062
ERROR_SERVICE_EXISTS = 1073
ERROR_TIMEOUT = 1460
STOPPED, STOP_PENDING, RUNNING = 1, 3, 4  # winsvc.h

HERE = Path(__file__).resolve().parent
PROBE = DriverSources("probe", HERE, ("probe.c",), integrity_check=False, label="guest")
STALL = DriverSources("stall", HERE, ("stall.c",), integrity_check=False, label="guest")

REFUSED_NAMES = [
    "",
    "a\\b",
    "a/b",
    "\\",
    "..\\Tcpip",
    "probe\\Parameters",
    "probe\\..\\Tcpip",
    "\\\\?\\a",
    "x" * 257 + "\\b",
]


@pytest.fixture(scope="module")
def image(wine):
    def deploy(driver):
        built = build_driver(driver).image
        shutil.copy2(built, wine.folder / built.name)
        return f"{GUEST_FOLDER}\\{built.name}"

    return deploy


@pytest.fixture
def service(agent, image):
    """A service that is there and does not run."""
    answer = agent.do("create_service", service="ntproofservice", image=image(PROBE))
    assert answer["win32_error"] == 0
    yield "ntproofservice"
    agent.do("delete_service", service="ntproofservice")


def units_of(text):
    """UTF-16 units, two bytes each: a pair of surrogates and the character it stands for are the same."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[at : at + 2] for at in range(0, len(data), 2)]


def state_of(agent, service):
    answer = agent.do("query_service", service=service)
    assert answer["win32_error"] == 0, answer
    return answer["state"]


def wait_for(agent, service, wanted):
    end = time.monotonic() + DEADLINE
    while (state := state_of(agent, service)) != wanted:
        assert time.monotonic() < end, state


def registry_values(wine, service, below="\\Parameters"):
    """What Wine's own tool says is in a service's key: kind and text by name."""
    key = f"HKLM\\SYSTEM\\CurrentControlSet\\Services\\{service}{below}"
    lines = wine.run("reg", "query", key, check=False).stdout.decode("utf-8", "replace").splitlines()
    rows = [line.strip().split("    ") for line in lines if line.startswith("    ")]
    return {row[0]: tuple(row[1:]) for row in rows}


def parameters_on_disk(wine, service):
    """The texts of a service as the registry has them, read from its file once Wine has ended."""
    wine.close()
    found, inside = {}, False
    for line in (wine.prefix / "system.reg").read_text("ascii").splitlines():
        if line.startswith("["):
            inside = line.lower().partition("]")[0].endswith(f"services\\\\{service}\\\\parameters")
        elif inside and (match := re.fullmatch(r'"(.*?)"=(?:str\(1\):)?"(.*)"', line)):
            found[unescape(match[1])] = unescape(match[2])
    return found


def unescape(text):
    """The inverse of Wine's dump_strW (server/unicode.c): one escape for each unit that is no printable ASCII."""
    signs = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v", "0": "\0"}
    sign = r"\\(x[0-9a-f]{1,4}|[0-7]{1,3}|.)"

    def unit(match):
        code = match[1]
        if code[0] == "x":
            return chr(int(code[1:], 16))
        return chr(int(code, 8)) if code.isdigit() else signs.get(code, code)

    return re.sub(sign, unit, text)


def test_a_driver_is_created_started_stopped_and_deleted(agent, image):
    named = {"service": "life"}

    assert agent.do("create_service", **named, image=image(PROBE))["win32_error"] == 0
    assert state_of(agent, "life") == STOPPED
    assert agent.do("start_service", **named)["win32_error"] == 0
    wait_for(agent, "life", RUNNING)
    opened = agent.do("open", device="d", path="\\\\.\\GuestProbe", read=True, write=True)
    assert opened["win32_error"] == 0
    agent.do("close", device="d")
    assert agent.do("start_service", **named)["win32_error"] == ERROR_SERVICE_ALREADY_RUNNING
    stopped = agent.do("stop_service", **named)
    assert (stopped["win32_error"], stopped["exit_code"]) == (0, 0)
    assert stopped["state"] in (STOPPED, STOP_PENDING)
    wait_for(agent, "life", STOPPED)
    assert agent.do("delete_service", **named)["win32_error"] == 0

    assert agent.do("query_service", **named)["win32_error"] == ERROR_SERVICE_DOES_NOT_EXIST
    assert agent.do("open", device="d", path="\\\\.\\GuestProbe")["win32_error"] == ERROR_FILE_NOT_FOUND


def test_the_service_is_a_demand_started_kernel_driver_with_that_image(wine, agent, service):
    stored = registry_values(wine, service, "")

    assert (stored["Type"], stored["Start"]) == (("REG_DWORD", "0x1"), ("REG_DWORD", "0x3"))
    assert stored["ImagePath"][1].lower().endswith("c:\\ntproof\\probe.sys")


def test_errors_of_the_service_control_manager_come_as_they_are(agent, service):
    refused = {
        op: agent.do(op, service=name, **more)["win32_error"]
        for op, name, more in [
            ("create_service", service.upper(), {"image": "C:\\x.sys"}),
            ("stop_service", service, {}),
            ("start_service", "no such service", {}),
            ("delete_service", "no such service", {}),
            ("query_service", "no such service", {}),
            ("clear_parameters", "no such service", {}),
            ("set_parameter", "no such service", {"value": "v", "number": 1}),
        ]
    }

    assert refused == {
        "create_service": ERROR_SERVICE_EXISTS,
        "stop_service": ERROR_SERVICE_NOT_ACTIVE,
        "start_service": ERROR_SERVICE_DOES_NOT_EXIST,
        "delete_service": ERROR_SERVICE_DOES_NOT_EXIST,
        "query_service": ERROR_SERVICE_DOES_NOT_EXIST,
        "clear_parameters": ERROR_SERVICE_DOES_NOT_EXIST,
        "set_parameter": ERROR_SERVICE_DOES_NOT_EXIST,
    }


def test_a_driver_whose_file_is_missing_does_not_start_and_says_so(agent):
    # Windows says ERROR_FILE_NOT_FOUND, Wine another error.
    agent.do("create_service", service="missing", image=f"{GUEST_FOLDER}\\missing.sys")

    started = agent.do("start_service", service="missing")

    assert started["win32_error"] != 0
    assert state_of(agent, "missing") == STOPPED
    assert agent.do("delete_service", service="missing")["win32_error"] == 0


@pytest.mark.parametrize("name", REFUSED_NAMES, ids=ascii)
def test_a_name_that_is_none_reaches_neither_services_nor_registry(wine, agent, service, name):
    before = registry_values(wine, service)

    errors = {
        agent.do("create_service", service=name, image="C:\\x.sys")["win32_error"],
        agent.do("clear_parameters", service=name)["win32_error"],
        agent.do("set_parameter", service=name, value="v", number=1)["win32_error"],
    }

    assert errors == {ERROR_INVALID_NAME}
    assert registry_values(wine, service) == before


def test_each_kind_of_parameter_is_stored_as_what_it_is(wine, agent, service):
    for value, given in [
        ("Budget", {"number": 0xFFFFFFFF}),
        ("None", {"number": 0}),
        ("Text", {"text": "caf\u00e9 %PATH% \u5b57"}),
        ("Empty", {"text": ""}),
        ("Data", {"data": base64.b64encode(bytes(range(8))).decode()}),
        ("NoData", {"data": ""}),
    ]:
        answer = agent.do("set_parameter", service=service, value=value, **given)
        assert answer["win32_error"] == 0

    stored = registry_values(wine, service)

    assert stored["Budget"] == ("REG_DWORD", "0xffffffff")
    assert stored["None"] == ("REG_DWORD", "0x0")
    assert stored["Text"][0] == stored["Empty"][0] == "REG_SZ"
    assert stored["Data"] == ("REG_BINARY", "0001020304050607")
    assert stored["NoData"][0] == "REG_BINARY"


def test_a_name_that_is_too_long_becomes_no_registry_path(agent):
    # Wine makes such a service, Windows does not.
    name = "x" * 257

    assert agent.do("clear_parameters", service=name)["win32_error"] == ERROR_INVALID_NAME
    assert agent.do("set_parameter", service=name, value="v", number=1)["win32_error"] == ERROR_INVALID_NAME


def test_texts_and_names_of_parameters_are_kept_to_the_last_unit(own_wine):
    texts = [
        "",
        "a",
        "\ud800",
        "\udc00\ud800",
        "a\0b\0",
        "\0",
        "\uffff\r\n\t\"'$(`\\",
        "caf\u00e9 \U0001f980",
        "x" * 40_000,
    ]
    wanted = {f"{index} \ud800\u00e9": text for index, text in enumerate(texts)} | {"C:\\x\\": "path"}
    agent = Agent(own_wine)
    agent.do("create_service", service="texts", image="C:\\x.sys")

    for name, text in wanted.items():
        given = "".join(chr(unit[0] | unit[1] << 8) for unit in units_of(text))
        assert agent.do("set_parameter", service="texts", value=name, text=given)["win32_error"] == 0
    agent.close()

    assert {name: units_of(text) for name, text in parameters_on_disk(own_wine, "texts").items()} == {
        name: units_of(text) for name, text in wanted.items()
    }


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"number": 1, "text": "x"},
        {"text": "x", "data": "AA=="},
        {"number": 1, "text": "x", "data": ""},
        {"number": 1 << 32},
        {"number": -1},
        {"number": "1"},
        {"number": None},
        {"text": 1},
        {"text": "x" * (1 << 19) + "x"},
        {"data": "A"},
        {"data": 7},
        {"number": 1, "value": None},
        {"number": 1, "value": "a\0b"},
        {"number": 1, "service": "a\0b"},
        {"number": 1, "service": 7},
        {"number": 1, "colour": "red"},
        {"number": 1, "deadline_ms": 600_001},
    ],
    ids=lambda members: ascii(members)[:40],
)
def test_a_malformed_parameter_is_refused_and_stored_nowhere(wine, agent, service, members):
    answer = agent.ask("set_parameter", **{"service": service, "value": "v", **members})

    assert (answer["ok"], answer["error"]) == (False, "bad-request")
    assert registry_values(wine, service) == {}


def test_a_call_that_hangs_is_left_to_itself_and_the_program_reads_on(own_wine, image):
    agent = Agent(own_wine)
    shutil.copy2(build_driver(STALL).image, own_wine.folder / "stall.sys")
    agent.do("create_service", service="stall", image=f"{GUEST_FOLDER}\\stall.sys")
    agent.do("start_service", service="stall")
    wait_for(agent, "stall", RUNNING)

    before = time.monotonic()
    stuck = agent.ask("stop_service", service="stall", deadline_ms=500)

    assert (stuck["ok"], stuck["error"], stuck["win32_error"]) == (False, "stuck", ERROR_TIMEOUT)
    assert 0.5 <= time.monotonic() - before < DEADLINE
    assert agent.launch("a")["pid"]
    assert agent.do("exit", process="a", status=3)["exit_code"] == 3
    assert agent.close() == 0


def test_parameters_are_replaced_and_cleared_with_all_that_is_below_them(wine, agent, service):
    agent.do("set_parameter", service=service, value="v", number=1)
    agent.do("set_parameter", service=service, value="V", text="two")
    assert len(registry_values(wine, service)) == 1
    wine.run("reg", "add", f"HKLM\\SYSTEM\\CurrentControlSet\\Services\\{service}\\Parameters\\Deeper", "/v", "x")

    assert agent.do("clear_parameters", service=service)["win32_error"] == 0
    assert agent.do("clear_parameters", service=service)["win32_error"] == 0

    assert registry_values(wine, service) == {}
    assert state_of(agent, service) == STOPPED
