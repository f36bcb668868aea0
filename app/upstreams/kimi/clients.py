"""The connections to Kimi's sites: one pool for each site and proxy, made when it is first needed.

Accounts come and go while the gateway runs, and may live at sites that no account lived at before. Must never know
what is asked.
"""

from collections.abc import Callable, Iterable

from app.settings.sites import Site
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp

# Makes the connections to an address, through a proxy; see ``Account.proxy``.
Connect = Callable[[str, str], KimiHttp]


class KimiClients:
    """Safe for threads."""

    def __init__(self, sites: Iterable[Site], connect: Connect) -> None:
        """``sites``: those that are known from the start."""
        self._connect = connect
        # By their names.
        self._base_urls = {site.name: site.base_url for site in sites}
        # By site and proxy.
        self._clients: dict[tuple[str, str], KimiHttp] = {}

    def of(self, account: Account) -> KimiHttp:
        """The connections for requests of this account."""
        client = self._clients.get((account.site, account.proxy))
        if client is None:
            base_url = account.base_url or self._base_urls[account.site]
            # Another thread may have made one at the same moment: the first one stays.
            client = self._clients.setdefault((account.site, account.proxy), self._connect(base_url, account.proxy))
        return client

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
