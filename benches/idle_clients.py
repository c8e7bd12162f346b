"""Holds idle clients and prints what they cost.

    idle_clients.py PORT PID COUNT [COUNT ...]

Opens up to each COUNT connections to 127.0.0.1:PORT, each of which runs one tenant's SELECT on table bench, and prints
the resident memory of process PID then: one line for each COUNT, "COUNT KILOBYTES".
"""

import resource
import sys

from wire_client import Connection, query


def resident_kilobytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def main():
    port, pid, *counts = map(int, sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = []
    for count in counts:
        while len(held) < count:
            connection = Connection(port)
            tenant = len(held) % 1000 + 1
            connection.run(query(f"SELECT value, filler FROM bench WHERE tenant_id = {tenant} AND id = 1"))
            held.append(connection)
        print(count, resident_kilobytes(pid), flush=True)


main()
