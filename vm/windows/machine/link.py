"""Every connection to one guest: PowerShell Remoting, SSH, and the agents that run over it.

Each is made when it is first needed and kept. The link can be cut from another thread, which ends whatever waits for
the guest; `drop` makes it usable again after the guest was put back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from vm.errors import UnsupportedByMachine
from vm.machine import Account
from vm.windows.agent.client import AgentClient
from vm.windows.agent.operations import Agent
from vm.windows.agent.psrp_channel import PsrpChannel
from vm.windows.agent.ssh_channel import SshChannel
from vm.windows.leased_domain import LeasedDomain
from vm.windows.machine.access import REMOTING_PORT, SSH_PORT, GuestAccess, Patience
from vm.windows.machine.programs import NTGUEST
from vm.windows.remoting.deadline import Deadline
from vm.windows.remoting.endpoint import Credentials
from vm.windows.remoting.errors import ConnectionFailed, ConnectionLost, RequestRefused
from vm.windows.remoting.guest import Guest
from vm.windows.remoting.session import GuestSession
from vm.windows.remoting.ssh import SftpConnection, SshConnection
from vm.windows.remoting.transfer import GuestFiles

logger = logging.getLogger(__name__)

_RETRY: Final = 0.1
"""Seconds between two attempts to reach a guest: nothing announces that its server listens."""


class GuestLink:
    """The connections.

    Args:
        domain: says where the guest's ports are.
        access: how they are used.
        patience: for how long.
    """

    def __init__(self, domain: LeasedDomain, access: GuestAccess, patience: Patience) -> None:
        self._domain = domain
        self._access = access
        self._patience = patience
        self._lock = threading.Lock()
        self._cut = threading.Event()
        self._session: GuestSession | None = None
        self._logins: dict[Account, SshConnection] = {}
        self._agents: dict[Account, Agent] = {}
        self._earlier: list[str] = []

    @property
    def is_cut(self) -> bool:
        """Whether `cut` was called since the link was dropped last."""
        return self._cut.is_set()

    def session(self) -> GuestSession:
        """The PowerShell Remoting session, connected. Raises as GuestSession.connect."""
        self._check()
        if self._session is None or not self._session.connected:
            self._new_session().connect(self._patience.connect)
            self._check()
        assert self._session is not None
        return self._session

    def session_when_ready(self, deadline: float) -> GuestSession:
        """The session with a guest that is starting, waiting for it. Raises as GuestSession.connect_when_ready."""
        self._check()
        made = self._new_session()
        made.connect_when_ready(deadline, alive=self._check)
        return made

    def _new_session(self) -> GuestSession:
        made = GuestSession(self._access.remoting(self._domain.address_of(REMOTING_PORT)), self._access.administrator)
        with self._lock:
            before, self._session = self._session, made
        if before is not None:
            before.close()
        return made

    def guest(self) -> Guest:
        """The guest's administrative commands. Raises as `session`."""
        return Guest(self.session())

    def files(self) -> GuestFiles:
        """Files to and from the guest; they share the administrator's SSH connection. Raises as `session`."""
        return GuestFiles(self.session(), (lambda _deadline: self.sftp()) if self.has_ssh else None)

    @property
    def has_ssh(self) -> bool:
        """Whether the guest has an SSH server, as far as its image says."""
        return self._access.host_key is not None

    def sftp(self) -> SftpConnection:
        """A channel for files over the administrator's SSH connection, of a guest that has an SSH server.

        Raises:
            ConnectionFailed, IdentityChanged, CredentialsRefused: as SshConnection.
        """
        return SftpConnection(self._login(Account.ADMINISTRATOR))

    def agent(self, account: Account = Account.ADMINISTRATOR) -> Agent:
        """The agent that runs as an account.

        Raises:
            UnsupportedByMachine: the guest has no SSH server, without which programs run as the administrator only.
            Others: see vm.windows.remoting.errors.
        """
        known = self._agents.get(account)
        if known is None:
            self._check()
            known = Agent(AgentClient(self._channel(account)), patience=self._patience.call, slack=self._patience.slack)
            with self._lock:
                self._agents[account] = known
            self._check()
        return known

    def agents(self) -> list[Agent]:
        """The agents that were started."""
        with self._lock:
            return list(self._agents.values())

    def release_others(self) -> tuple[Agent, ...]:
        """The agents beside the administrator's, which are no longer this link's; whoever asks closes them."""
        with self._lock:
            found = [account for account in self._agents if account is not Account.ADMINISTRATOR]
            return tuple(self._agents.pop(account) for account in found)

    def wait_ready(self, deadline: float, alive: Callable[[], None]) -> Agent:
        """The administrator's agent of a guest that is just coming up.

        Args:
            deadline: seconds.
            alive: called between attempts; raises when there is no use in waiting any longer.

        Raises:
            ConnectionFailed, ConnectionLost, RequestRefused: of the last attempt.
            IdentityChanged, CredentialsRefused: at once.
        """
        limit = Deadline(deadline, cancelled=self._cut)
        while True:
            alive()
            try:
                return self.agent()
            except (ConnectionFailed, ConnectionLost, RequestRefused):
                if limit.passed:
                    raise
                limit.pause(_RETRY)

    def cut(self) -> None:
        """Break every connection, from any thread and without waiting."""
        self._cut.set()
        with self._lock:
            for login in self._logins.values():
                login.abort()
            if self._session is not None:
                self._session.abort()

    def transcript(self) -> list[str]:
        """The last lines to and from the agents."""
        return [*self._earlier, *(line for agent in self.agents() for line in agent.client.transcript())]

    def drop(self, *, keep_lines: bool = False) -> None:
        """Forget every connection, of a guest that is not there any more; new ones may be made.

        Args:
            keep_lines: whether what was said over them still belongs to the transcript.
        """
        self._earlier = self.transcript() if keep_lines else []
        self.cut()
        self.close()
        self._cut.clear()

    def close(self) -> None:
        """End every connection, and with them the agents and what they launched."""
        with self._lock:
            agents, self._agents = list(self._agents.values()), {}
            logins, self._logins = list(self._logins.values()), {}
            session, self._session = self._session, None
        for agent in agents:
            agent.client.close()
        for login in logins:
            login.close()
        if session is not None:
            session.close()

    def _channel(self, account: Account) -> SshChannel | PsrpChannel:
        if self.has_ssh:
            return SshChannel(self._login(account), NTGUEST)
        if account is not Account.ADMINISTRATOR:
            raise UnsupportedByMachine(
                "the guest has no SSH server, over which alone calls as a standard user can be made"
            )
        return PsrpChannel(self.session(), NTGUEST)

    def _login(self, account: Account) -> SshConnection:
        known = self._logins.get(account)
        if known is not None and known.alive:
            return known
        self._check()
        endpoint = self._access.ssh(self._domain.address_of(SSH_PORT))
        made = SshConnection(endpoint, self._credentials(account), Deadline(self._patience.connect))
        with self._lock:
            self._logins[account] = made
        self._check()
        return made

    def _credentials(self, account: Account) -> Credentials:
        return self._access.administrator if account is Account.ADMINISTRATOR else self._access.standard_user

    def _check(self) -> None:
        """A link that was cut stays so: what was made meanwhile is broken too."""
        if self._cut.is_set():
            self.cut()
            raise ConnectionLost("the guest is gone", endpoint=self._domain.name)
