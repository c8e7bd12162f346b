"""Tables and bars of a run of compare.sh.

    report.py RESULTS

RESULTS has a line for each measurement: script mode clients round target tps mean_ms p99_ms cpu_us servers_cpu_us sleeps
idle_us, the last four per statement; and for idle clients: idle - count - target resident_kilobytes.
"""

import sys
from collections import defaultdict
from statistics import median

# Most of PgBouncer's CPU time per statement, by script and mode; and for all: its throughput, its p99.
CPU_BARS = {
    ("select", "simple"): 1.3,
    ("select", "extended"): 1.1,
    ("select", "prepared"): 1.0,
    ("transaction", "simple"): 1.1,
    ("transaction", "extended"): 1.1,
    ("transaction", "prepared"): 1.1,
}
THROUGHPUT_BAR = 1.0
P99_BAR = 1.2
IDLE_CLIENT_BAR_KILOBYTES = 15.0


def read(path):
    cells, idle = defaultdict(dict), defaultdict(dict)
    with open(path) as file:
        for line in file:
            script, mode, clients, number, target, *figures = line.split()
            if script == "idle":
                idle[target][int(clients)] = int(figures[0])
            else:
                names = ("tps", "mean", "p99", "cpu", "servers", "sleeps", "idle")
                cells[script, mode, int(clients)][target, int(number)] = dict(zip(names, map(float, figures)))
    return cells, idle


def table(head, rows):
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    line = lambda row: "| " + " | ".join(str(v).rjust(w) for v, w in zip(row, widths)) + " |"
    print(line(head))
    print("|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    for row in rows:
        print(line(row))
    print()


def targets_of(rounds):
    return list(dict.fromkeys(target for target, _ in rounds))


def ratio(rounds, figure, above, below):
    """Median over the rounds that have both; each round's two were measured side by side."""
    pairs = [
        (values[figure], rounds[below, number][figure])
        for (target, number), values in rounds.items()
        if target == above and (below, number) in rounds
    ]
    ratios = [a / b for a, b in pairs if b]
    return median(ratios) if ratios else None


def shown(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def print_measurements(cells):
    rows = []
    for (script, mode, clients), rounds in cells.items():
        for target in sorted(targets_of(rounds), key=["direct", "floor", "pgbouncer", "tenantry"].index):
            of = lambda figure: median(v[figure] for (t, _), v in rounds.items() if t == target)
            cpu = "" if target == "direct" else shown(of("cpu"), 1)
            floor = None if target == "direct" else ratio(rounds, "cpu", target, "floor")
            rows.append(
                (script, mode, clients, target, shown(of("tps"), 0), shown(ratio(rounds, "tps", target, "direct")),
                 shown(of("mean"), 3), shown(of("p99"), 3), cpu, shown(floor), "" if target == "direct" else shown(of("sleeps")),
                 shown(of("servers"), 1), shown(of("idle"), 1))
            )
    table(("script", "mode", "clients", "through", "tps", "of direct", "mean ms", "p99 ms", "CPU us/stmt", "of floor",
           "sleeps/stmt", "servers us/stmt", "idle us/stmt"), rows)


def print_idle(idle):
    rows = []
    for target, sizes in idle.items():
        (fewest, least), (most, largest) = min(sizes.items()), max(sizes.items())
        each = (largest - least) / (most - fewest) if most > fewest else None
        rows += [(target, count, size, shown(each, 1) if count == most else "") for count, size in sizes.items()]
    if rows:
        table(("program", "idle clients", "resident kB", "kB each"), rows)


def print_bars(cells, idle):
    rows = []

    def bar(what, value, limit, is_reached):
        if value is not None:
            rows.append((what, limit, shown(value), "reached" if is_reached(value) else "not reached"))

    for (script, mode, clients), rounds in cells.items():
        cell = f"{script} {mode} {clients}"
        if (script, mode) in CPU_BARS:
            limit = CPU_BARS[script, mode]
            value = ratio(rounds, "cpu", "tenantry", "pgbouncer")
            bar(f"{cell}: CPU per statement", value, f"<= {limit} x PgBouncer", lambda v: v <= limit)
        value = ratio(rounds, "tps", "tenantry", "pgbouncer")
        bar(f"{cell}: throughput", value, f">= {THROUGHPUT_BAR} x PgBouncer", lambda v: v >= THROUGHPUT_BAR)
        value = ratio(rounds, "p99", "tenantry", "pgbouncer")
        bar(f"{cell}: p99 latency", value, f"<= {P99_BAR} x PgBouncer", lambda v: v <= P99_BAR)
    sizes = idle.get("tenantry", {})
    if len(sizes) > 1:
        each = (sizes[max(sizes)] - sizes[min(sizes)]) / (max(sizes) - min(sizes))
        limit = IDLE_CLIENT_BAR_KILOBYTES
        bar(f"an idle client of {max(sizes)}: kB", each, f"<= {limit}", lambda v: v <= limit)
    table(("bar", "limit", "measured", "verdict"), rows)


def main():
    cells, idle = read(sys.argv[1])
    print()
    print_measurements(cells)
    print_idle(idle)
    print_bars(cells, idle)


main()
