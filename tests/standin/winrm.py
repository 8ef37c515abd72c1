"""A WinRM endpoint on 127.0.0.1: HTTPS, NTLM or Basic, WSMan, and the runspace pools of tests.standin.pipelines.

Real clients talk to it over real sockets. It can be told to misbehave: see Fault, `freeze`, `reboot`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import http.server
import re
import socket
import ssl
import struct
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import spnego
import spnego.channel_bindings
import spnego.exceptions

from tests.standin.certificates import make_certificate
from tests.standin.pipelines import Pool
from tests.standin.windows import ADMINISTRATOR, SmallWindows
from vm.windows.remoting.schema import guest_schema
from vm.windows.remoting.tls import TlsSocket

NAMESPACES = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
    "pwsh": "http://schemas.microsoft.com/powershell",
}
DECLARATIONS = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
RESOURCE = "http://schemas.microsoft.com/powershell/Microsoft.PowerShell"
COMMAND_STATE = NAMESPACES["rsp"] + "/CommandState/"
MOST_BYTES = 380_000

TIMED_OUT, SHELL_UNKNOWN, ABORTED = 2150858793, 2150858843, 995
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class WsmanFault(Exception):
    def __init__(self, code, reason):
        super().__init__(reason)
        self.code = code


@dataclass
class Fault:
    """A misbehaviour at the next requests of a kind.

    `action` is "reset before" (the request has no effect), "reset after" (it has, its answer is lost) or a number, the
    code of a WSMan fault. `skip` requests go through before it, and it happens `times` times.
    """

    verb: str
    action: str | int
    skip: int = 0
    times: int = 1

    def due(self, verb):
        if verb != self.verb or not self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class StandIn:
    """The endpoint and the Windows behind it. A context manager; `restart` of the Windows is `reboot` here."""

    def __init__(
        self,
        windows=None,
        *,
        username=ADMINISTRATOR,
        password="Passw0rd-of-a-test",
        certificate=None,
        schema=None,
        address=("127.0.0.1", 0),
    ):
        """A `password` of None leaves Basic out, and NTLM to the file of users that the caller has made known."""
        self.windows = windows or SmallWindows()
        self.schema = schema or guest_schema()
        self.username = username
        self.password = password
        self.certificate = certificate or make_certificate()
        self.faults = []
        self.requests = []
        self.logins = 0
        self.delay = 0.0
        self.pools = {}
        self.host, self.port = address
        self._awake = threading.Event()
        self._awake.set()
        self._server = None
        self._connections = set()
        self._lock = threading.Lock()
        # pyspnego's NTLM acceptor reads the users it knows from a file that this variable names.
        self._folder = tempfile.TemporaryDirectory()
        self.users_file = Path(self._folder.name) / "users"
        if password is not None:
            self.users_file.write_text(f":{self.username}:{password}\n")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.thaw()
        self.stop()
        self._folder.cleanup()

    def start(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslsocket_class = TlsSocket
        context.load_cert_chain(self.certificate.write(Path(self._folder.name)))
        self._server = _Server((self.host, self.port), self, context)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """Listen no more, reset every connection, forget every shell."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for pool in self.pools.values():
            pool.close()
        self.pools.clear()
        self.reset_connections()

    def forget(self):
        """Lose every shell and every connection, as a guest does that was put back; it listens on."""
        for pool in self.pools.values():
            pool.close()
        self.pools.clear()
        self.reset_connections()

    def reboot(self):
        """Go down and come up as a guest does; shells and what ran in them are gone."""
        self.stop()
        self.windows.restart()
        self.start()

    def reset_connections(self):
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            _reset(connection)

    def freeze(self):
        """Answer nothing until `thaw`; connections stay open, as with a paused guest."""
        self._awake.clear()

    def thaw(self):
        self._awake.set()

    def track(self, connection):
        with self._lock:
            self._connections.add(connection)

    def untrack(self, connection):
        with self._lock:
            self._connections.discard(connection)

    def wait_awake(self):
        if self.delay:
            time.sleep(self.delay)
        self._awake.wait()

    def due_fault(self, verb):
        return next((fault.action for fault in self.faults if fault.due(verb)), None)

    # WSMan

    def handle(self, verb, envelope, timeout, fault=None):
        """The body of the answer to a request."""
        if isinstance(fault, int):
            raise WsmanFault(fault, "injected")
        if verb == "Create":
            return self._create(envelope)
        shell = envelope.findtext("s:Header/w:SelectorSet/w:Selector[@Name='ShellId']", "", NAMESPACES).upper()
        pool = self.pools.get(shell)
        if pool is None:
            raise WsmanFault(SHELL_UNKNOWN, "the request contained invalid selectors for the resource")
        body = envelope.find("s:Body", NAMESPACES)
        if verb == "Command":
            line = body.find("rsp:CommandLine", NAMESPACES)
            identity = line.get("CommandId").upper()
            pool.command(identity, base64.b64decode(line.findtext("rsp:Arguments", "", NAMESPACES)))
            return f"<rsp:CommandResponse><rsp:CommandId>{identity}</rsp:CommandId></rsp:CommandResponse>"
        if verb == "Send":
            for stream in body.findall("rsp:Send/rsp:Stream", NAMESPACES):
                pool.feed(base64.b64decode(stream.text or ""), stream.get("CommandId"))
            return "<rsp:SendResponse/>"
        if verb == "Receive":
            wanted = body.find("rsp:Receive/rsp:DesiredStream", NAMESPACES).get("CommandId")
            message = envelope.findtext("s:Header/a:MessageID", "", NAMESPACES)
            return receive(pool, wanted and wanted.upper(), timeout, message)
        if verb == "Signal":
            signal = body.find("rsp:Signal", NAMESPACES)
            code = signal.findtext("rsp:Code", "", NAMESPACES)
            pool.stop(signal.get("CommandId").upper(), forget=code.lower().endswith("terminate"))
            return "<rsp:SignalResponse/>"
        if verb == "Delete":
            pool.close()
            del self.pools[shell]
            return ""
        raise WsmanFault(2150858768, f"{verb} is not supported")

    def _create(self, envelope):
        uri = envelope.findtext("s:Header/w:ResourceURI", "", NAMESPACES)
        if uri != RESOURCE:
            raise WsmanFault(2150858811, f"there is no session configuration {uri}")
        shell = envelope.find("s:Body/rsp:Shell", NAMESPACES)
        identity = shell.get("ShellId").upper()
        pool = self.pools[identity] = Pool(self.windows, self.schema, identity, MOST_BYTES)
        pool.feed(base64.b64decode(shell.findtext("pwsh:creationXml", "", NAMESPACES)))
        return (
            f"<x:ResourceCreated><a:ReferenceParameters><w:ResourceURI>{uri}</w:ResourceURI><w:SelectorSet>"
            f'<w:Selector Name="ShellId">{identity}</w:Selector></w:SelectorSet></a:ReferenceParameters>'
            f"</x:ResourceCreated><rsp:Shell><rsp:ShellId>{identity}</rsp:ShellId></rsp:Shell>"
        )


def receive(pool, command, timeout, message):
    """The next output of a pipeline; the same request again gets the same answer again."""
    end = time.monotonic() + timeout
    with pool.changed:
        pipe = pool.pipes.get(command) if command else pool.own
        if pipe is None:
            raise WsmanFault(SHELL_UNKNOWN, f"there is no command {command}")
        if pipe.last[0] == message:
            return pipe.last[1]
        pipe.waiting += 1
        mine = pipe.waiting
        pool.changed.notify_all()
        while not pipe.chunks and not pipe.done and not pool.closed:
            if pipe.waiting != mine:
                raise WsmanFault(ABORTED, "another Receive took over")
            if (left := end - time.monotonic()) <= 0:
                raise WsmanFault(TIMED_OUT, "the operation timed out")
            pool.changed.wait(left)
        if pool.closed:
            raise WsmanFault(ABORTED, "the shell was closed")
        if pipe.waiting != mine:
            raise WsmanFault(ABORTED, "another Receive took over")
        taken = []
        while pipe.chunks and (not taken or sum(map(len, taken)) + len(pipe.chunks[0]) <= MOST_BYTES):
            taken.append(pipe.chunks.pop(0))
        named = f' CommandId="{command}"' if command else ""
        answer = "".join(
            f'<rsp:Stream Name="stdout"{named}>{base64.b64encode(chunk).decode()}</rsp:Stream>' for chunk in taken
        )
        if command:
            state = "Done" if pipe.done and not pipe.chunks else "Running"
            answer += f'<rsp:CommandState{named} State="{COMMAND_STATE}{state}"/>'
        pipe.last = (message, f"<rsp:ReceiveResponse>{answer}</rsp:ReceiveResponse>")
        return pipe.last[1]


def _reset(connection):
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    with contextlib.suppress(OSError):
        # Wakes the thread that reads from it; that thread closes it, which sends the reset.
        socket.socket.shutdown(connection, socket.SHUT_RD)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address, owner, context):
        self.owner = owner
        self._context = context
        super().__init__(address, _Handler)

    def finish_request(self, request, client_address):
        """Runs in the connection's thread: the handshake must not hold up others."""
        request.settimeout(15)
        self.owner.track(request)
        try:
            secured = self._context.wrap_socket(request, server_side=True)
        except OSError:
            self.owner.untrack(request)
            return
        self.owner.untrack(request)
        self.owner.track(secured)
        secured.settimeout(60)
        try:
            _Handler(secured, client_address, self)
        except (OSError, ValueError):
            pass
        finally:
            self.owner.untrack(secured)
            secured.close()

    def handle_error(self, request, client_address):
        pass


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.owner = self.server.owner
        self.authenticated = False
        self.acceptor = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.wait_awake()
        token = self._authenticate()
        headers = [("WWW-Authenticate", token)] if token else []
        if not self.authenticated:
            self._answer(401, b"", headers or self._offers())
        elif body:
            self._dispatch(body, headers)
        else:
            self._answer(200, b"", headers)

    def _authenticate(self):
        """Take the request's credentials; the token to answer with, if any. NTLM holds for the connection."""
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        try:
            token = base64.b64decode(value)
        except binascii.Error:
            return None
        if scheme == "Basic" and self.owner.password is not None:
            self.authenticated = token.decode() == f"{self.owner.username}:{self.owner.password}"
        elif scheme in {"Negotiate", "NTLM"}:
            return self._negotiate(scheme, token)
        return None

    def _offers(self):
        kinds = ["Negotiate"] if self.owner.password is None else ["Negotiate", "Basic"]
        return [("WWW-Authenticate", kind) for kind in kinds]

    def _negotiate(self, scheme, token):
        if self.acceptor is None or self.acceptor.complete:
            digest = hashlib.sha256(self.owner.certificate.der).digest()
            bindings = spnego.channel_bindings.GssChannelBindings(application_data=b"tls-server-end-point:" + digest)
            self.acceptor = spnego.server(protocol=scheme.lower(), channel_bindings=bindings)
        try:
            answer = self.acceptor.step(token)
        except spnego.exceptions.SpnegoError:
            self.acceptor = None
            return None
        if self.acceptor.complete:
            self.authenticated = True
            self.owner.logins += 1
        return f"{scheme} {base64.b64encode(answer).decode()}" if answer else None

    def _dispatch(self, body, headers):
        envelope = ElementTree.fromstring(body)
        action = envelope.findtext("s:Header/a:Action", "", NAMESPACES)
        verb = action.rpartition("/")[2]
        self.owner.requests.append(verb)
        fault = self.owner.due_fault(verb)
        if fault == "reset before":
            return self._reset()
        seconds = re.match(r"PT([\d.]+)S", envelope.findtext("s:Header/w:OperationTimeout", "", NAMESPACES))
        try:
            answer, status = self.owner.handle(verb, envelope, float(seconds[1]) if seconds else 60.0, fault), 200
            action += "Response"
        except WsmanFault as error:
            answer, status, action = fault_body(error), 500, NAMESPACES["a"] + "/fault"
        if fault == "reset after":
            return self._reset()
        relates = envelope.findtext("s:Header/a:MessageID", "", NAMESPACES)
        self._answer(
            status,
            f'<s:Envelope xml:lang="en-US" {DECLARATIONS}><s:Header><a:Action>{action}</a:Action><a:MessageID>uuid:'
            f"{str(uuid.uuid4()).upper()}</a:MessageID><a:RelatesTo>{relates}</a:RelatesTo></s:Header>"
            f"<s:Body>{answer}</s:Body></s:Envelope>".encode(),
            headers,
        )
        return None

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.close_connection = True

    def _answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def fault_body(error):
    reason = escape(str(error))
    return (
        "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:InternalError</s:Value></s:Subcode></s:Code>"
        f'<s:Reason><s:Text xml:lang="en-US">{reason}</s:Text></s:Reason><s:Detail><f:WSManFault Code="{error.code}" '
        f'Machine="standin"><f:Message>{reason}</f:Message></f:WSManFault></s:Detail></s:Fault>'
    )
