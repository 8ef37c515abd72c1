"""A plan's operations on services and files."""

from __future__ import annotations

from tests.standin.plan_lines import WAIT_MAXIMUM, BadRequest
from tests.standin.windows import Refused
from vm import win32
from vm.machine import Account


class ServiceOperations:
    """What a Plan does with services and files."""

    def create_service(self, request):
        service, image = request.text("service"), request.text("image")
        request.seconds(WAIT_MAXIMUM)
        request.complete()
        with self.using() as machine:
            self._administrator("OpenSCManagerW")
            self._system.create_service(machine, service, image)
        return {"win32_error": 0}

    def _on_service(self, request, act):
        service = request.text("service")
        request.seconds(WAIT_MAXIMUM)
        request.complete()
        with self.using() as machine:
            self._administrator("OpenSCManagerW")
            return {"win32_error": 0, **(act(machine, service) or {})}

    def _administrator(self, call):
        if self._account is not Account.ADMINISTRATOR:
            raise Refused(win32.ERROR_ACCESS_DENIED, call)

    def delete_service(self, request):
        return self._on_service(request, self._system.delete_service)

    def start_service(self, request):
        return self._on_service(request, self._system.start_service)

    def stop_service(self, request):
        return self._on_service(request, lambda machine, name: {"state": self._system.stop_service(machine, name)})

    def query_service(self, request):
        def query(machine, name):
            state, code = self._system.query_service(machine, name)
            return {"state": state, "exit_code": code}

        return self._on_service(request, query)

    def clear_parameters(self, request):
        return self._on_service(request, self._system.clear_parameters)

    def set_parameter(self, request):
        value = request.text("value")
        given = [
            request.number(key, 0xFFFF_FFFF) if key == "number" else
            request.optional_text(key) if key == "text" else request.octets(key)
            for key in ("number", "text", "data") if request.member(key) is not None
        ]  # fmt: skip
        if len(given) != 1:
            raise BadRequest("expected exactly one of 'number', 'text' and 'data'")
        return self._on_service(
            request, lambda machine, name: self._system.set_parameter(machine, name, value, given[0])
        )

    # Files

    def provide(self, request):
        source, path = request.text("source"), request.text("path")
        request.complete()
        with self.using() as machine:
            self._administrator("CopyFileW")
            self._system.provide(machine, source, path)
        return {"win32_error": 0}

    def remove(self, request):
        path = request.text("path")
        request.complete()
        with self.using() as machine:
            self._administrator("DeleteFileW")
            self._system.remove(machine, path)
        return {"win32_error": 0}
