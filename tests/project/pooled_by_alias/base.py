"""Connections that are closed wait in the pool of their alias, wherever they lead."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.db.backends.postgresql import base

pools: defaultdict[str, list[Any]] = defaultdict(list)


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: Any) -> Any:
        waiting = pools[self.alias]
        return waiting.pop() if waiting else super().get_new_connection(conn_params)

    def _close(self) -> None:
        if self.connection is not None:
            pools[self.alias].append(self.connection)


def close_pools() -> None:
    for waiting in pools.values():
        for connection in waiting:
            connection.close()
    pools.clear()
