"""Makes `instances.jsonl`: placement problems with answers worked out without our code.

    pip install scipy
    python3 instances.py > instances.jsonl

`ilp` is the optimum of the linear program as the reference states it, solved by HiGHS. The variables
for crossings are written as a flow (for each arc, what leaves a node arrives somewhere), which at
whole numbers says the same as the reference's inequalities and is solved sooner.
`heftless` is the heuristic's placement, from the reference's steps, or null if there is none.
"""

import json
import random
import sys

import numpy
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

HUGE = 1e7


def problem(seed, shape, tasks, nodes, **change):
    """A random problem; times and sizes are of the magnitudes that workflows have."""
    chance = random.Random(seed)
    arcs = shape(chance, tasks)
    cloud = nodes > 1 and chance.random() < 0.7
    edge = nodes - cloud
    memory = [chance.choice([128, 256, 512, 1024]) for _ in range(tasks)]
    near = lambda: round(chance.uniform(0.001, 0.02), 4)
    far = lambda: round(chance.uniform(0.02, 0.1), 4)
    latency = [[0.0] * nodes for _ in range(nodes)]
    for a in range(nodes):
        for b in range(a):
            latency[a][b] = latency[b][a] = far() if cloud and a == nodes - 1 else near()
    speed = [chance.choice([0.5, 1, 2]) for _ in range(nodes)]
    base = [round(chance.uniform(0.005, 2), 3) for _ in range(tasks)]
    made = {
        "name": f"{shape.__name__}-{tasks}x{nodes}-{seed}",
        "arcs": arcs,
        "handling": 0,
        "memory": memory,
        "output": [chance.choice([0, 1000, 100000, 5000000, 20000000]) for _ in range(tasks)],
        "input": chance.choice([100, 100000, 5000000]),
        "cloud": [bool(cloud and n == nodes - 1) for n in range(nodes)],
        "available": [chance.choice([1024, 2048, 4096]) for _ in range(nodes)],
        "free": [chance.choice([0, 128, 512, 1024]) for _ in range(nodes)],
        "bandwidth": [chance.choice([20, 40, 1000]) for _ in range(nodes)],
        "store_latency": [0.001 if n >= edge else far() for n in range(nodes)],
        "latency": latency,
        "execution": [[round(base[t] * speed[n], 4) for n in range(nodes)] for t in range(tasks)],
        "init": [
            [chance.choice([0, 0, round(chance.uniform(0.05, 0.5), 3)]) for _ in range(nodes)]
            for _ in range(tasks)
        ],
        "cost": [chance.choice([0, 0.0001, 0.001]) for _ in range(nodes)],
        "deadline": chance.choice([0, -1, 1, round(sum(base) / 2, 3), 1000]),
        "weights": chance.choice([[0.3, 0.3, 0.3, 0.1], [1, 0.01, 0.1, 0.001], [0.5, 0.05, 1, 0]]),
    }
    made.update(change)
    return made


def chain(chance, tasks):
    return [[t, t + 1, 1.0] for t in range(tasks - 1)]


def choices(chance, tasks):
    """Diamonds of a choice, two branches and a join, with tasks between."""
    arcs, last, t = [], 0, 1
    while t + 2 < tasks:
        p = chance.choice([0.5, 0.25, 0.9])
        arcs += [[last, t, p], [last, t + 1, round(1 - p, 2)], [t, t + 2, 1.0], [t + 1, t + 2, 1.0]]
        last, t = t + 2, t + 3
    arcs += [[a, a + 1, 1.0] for a in range(last, tasks - 1)]
    return arcs


def fan(chance, tasks):
    """Branches that run side by side from one task to another."""
    return [[0, t, 1.0] for t in range(1, tasks - 1)] + [[t, tasks - 1, 1.0] for t in range(1, tasks - 1)]


def mesh(chance, tasks):
    """Any acyclic graph, of several sources and sinks."""
    arcs = []
    for t in range(1, tasks):
        for s in chance.sample(range(t), min(t, chance.choice([0, 1, 1, 2]))):
            arcs.append([s, t, chance.choice([1.0, 1.0, 0.5])])
    return arcs


def expanded(p):
    """Adds START (index n) and END (index n + 1); arcs get the bytes that they move."""
    n = len(p["memory"])
    arcs = [(t, u, q, p["output"][t]) for t, u, q in p["arcs"]]
    targets, origins = {u for _, u, _ in p["arcs"]}, {t for t, _, _ in p["arcs"]}
    arcs += [(n, t, 1.0, p["input"]) for t in range(n) if t not in targets]
    arcs += [(t, n + 1, 1.0, p["output"][t]) for t in range(n) if t not in origins]
    return n + 2, arcs


def sorted_tasks(count, arcs):
    """Topological order: of what may come next, START first, then by index, END last."""
    rank = lambda t: {count - 2: -1, count - 1: count}.get(t, t)
    left, order = set(range(count)), []
    while left:
        free = [t for t in left if not any(u == t and s in left for s, u, _, _ in arcs)]
        order.append(min(free, key=rank))
        left.remove(order[-1])
    return order


def optimum(p):
    count, arcs = expanded(p)
    tasks, nodes = count - 2, len(p["cost"])
    chance_of = [1.0] * count
    for t in sorted_tasks(count, arcs):
        into = [chance_of[s] * q for s, u, q, _ in arcs if u == t]
        if into:
            chance_of[t] = min(1.0, sum(into))
    # x[t][n], z[arc][n][k], start[t], completion[t], violation, reclaimed[n]
    x = lambda t, n: t * nodes + n
    z = lambda a, n, k: count * nodes + (a * nodes + n) * nodes + k
    start = lambda t: count * nodes + len(arcs) * nodes * nodes + t
    done = lambda t: start(count) + t
    violation = done(count)
    reclaimed = lambda n: violation + 1 + n
    size = reclaimed(nodes)

    w = p["weights"]
    objective = numpy.zeros(size)
    objective[violation] = w[0]
    low, high = numpy.zeros(size), numpy.full(size, numpy.inf)
    whole = numpy.zeros(size)
    whole[: count * nodes] = 1
    high[: count * nodes] = 1
    rows, lows, highs = [], [], []

    def row(terms, least, most):
        rows.append(terms)
        lows.append(least)
        highs.append(most)

    busy = lambda t, n: 0.0 if t >= tasks else p["execution"][t][n] + p["init"][t][n]
    for t in range(count):
        row([(x(t, n), 1) for n in range(nodes)], 1, 1)
        for n in range(nodes):
            if t >= tasks:
                low[x(t, n)] = high[x(t, n)] = float(n == p["handling"])
            else:
                objective[x(t, n)] += w[2] * p["memory"][t] * busy(t, n) * p["cost"][n]
                if not p["cloud"][n] and p["memory"][t] > p["available"][n]:
                    high[x(t, n)] = 0
        terms = [(done(t), 1), (start(t), -1)]
        terms += [(x(t, n), -chance_of[t] * busy(t, n)) for n in range(nodes)]
        row(terms, 0, numpy.inf)
        row([(done(t), 1), (violation, -1)], -numpy.inf, p["deadline"])
    for a, (t, u, q, size_moved) in enumerate(arcs):
        terms = [(start(u), 1), (done(t), -1)]
        for n in range(nodes):
            row([(z(a, n, k), 1) for k in range(nodes)] + [(x(t, n), -1)], 0, 0)
            row([(z(a, k, n), 1) for k in range(nodes)] + [(x(u, n), -1)], 0, 0)
            for k in range(nodes):
                if n != k:
                    objective[z(a, n, k)] += w[1]
                    seconds = size_moved / (1e6 * p["bandwidth"][n]) + size_moved / (1e6 * p["bandwidth"][k])
                    seconds += p["store_latency"][n] + p["store_latency"][k] + 2 * p["latency"][n][k]
                    terms.append((z(a, n, k), -q * seconds))
        row(terms, 0, numpy.inf)
    for n in range(nodes):
        if not p["cloud"][n]:
            objective[reclaimed(n)] = w[3]
            started = [(x(t, n), -p["memory"][t]) for t in range(tasks) if p["init"][t][n] > 0]
            row([(reclaimed(n), 1)] + started, -p["free"][n], numpy.inf)

    matrix = lil_matrix((len(rows), size))
    for index, terms in enumerate(rows):
        for column, factor in terms:
            matrix[index, column] += factor
    solved = milp(
        objective,
        constraints=LinearConstraint(matrix.tocsr(), lows, highs),
        integrality=whole,
        bounds=Bounds(low, high),
        options={"time_limit": 300, "mip_rel_gap": 0},
    )
    if solved.status == 2:
        return None
    assert solved.status == 0, (p["name"], solved.message)
    return round(float(solved.fun), 9)


def heftless(p):
    count, arcs = expanded(p)
    tasks, nodes, here = count - 2, len(p["cost"]), p["handling"]
    execution = lambda t, n: 0.0 if t >= tasks else p["execution"][t][n]
    init = lambda t, n: 0.0 if t >= tasks else p["init"][t][n]
    order = sorted_tasks(count, arcs)
    rank = {}
    for t in reversed(order):
        after = [rank[u] for s, u, _, _ in arcs if s == t]
        rank[t] = sum(execution(t, n) for n in range(nodes)) / nodes + max(after, default=0.0)
    longest = sum(max(p["execution"][t]) + max(p["init"][t]) for t in range(tasks))
    dearest = longest * max(p["cost"])
    deadline = p["deadline"] if p["deadline"] > 0 else 99999
    left = list(p["available"])
    finish, place = {}, {}
    for t in sorted(order, key=lambda t: (-rank[t], order.index(t))):
        options = []
        before = [(s, size) for s, u, _, size in arcs if u == t]
        for n in [here] if t >= tasks else range(nodes):
            if t < tasks and not p["cloud"][n] and p["memory"][t] > left[n]:
                continue
            end = max((finish[s] for s, _ in before), default=0.0)
            end += sum(size for _, size in before) / (1e6 * p["bandwidth"][n])
            end += execution(t, n) + init(t, n)
            if end > deadline:
                continue
            score = p["weights"][0] * end / longest if longest else 0.0
            if dearest:
                score += p["weights"][2] * (execution(t, n) + init(t, n)) * p["cost"][n] / dearest
            options.append((score, n, end))
        if not options:
            return None
        least = min(score for score, _, _ in options)
        near = [option for option in options if option[0] - least <= 1e-9]
        data = {place[s] for s, _ in before}
        near.sort(key=lambda o: (o[1] not in data, o[1] != here, o[1]))
        _, place[t], finish[t] = near[0]
        if t < tasks:
            left[place[t]] -= p["memory"][t]
    return [place[t] for t in range(tasks)]


def instances():
    seed = 0
    for shape in (chain, choices, fan, mesh):
        for tasks, nodes, repeat in ((1, 1, 1), (2, 3, 3), (5, 3, 8), (8, 4, 8), (14, 5, 5), (24, 6, 2)):
            for _ in range(repeat):
                seed += 1
                yield problem(seed, shape, max(tasks, 3) if shape is fan else tasks, nodes)
    # What the defaults of a fresh fleet look like: everything equal, nothing known.
    yield problem(
        900, chain, 4, 3, execution=[[0.01] * 3] * 4, init=[[0.01, 0.01, 0]] * 4, cost=[0] * 3,
        deadline=5, memory=[128] * 4, output=[0] * 4, weights=[0.3, 0.3, 0.3, 0.1],
    )
    yield problem(901, chain, 2, 2, available=[64, 64], cloud=[False, False])
    yield problem(902, chain, 3, 2, free=[-100, -100])


for made in instances():
    made["ilp"] = optimum(made)
    made["heftless"] = heftless(made)
    print(json.dumps(made, separators=(",", ":")))
    print(made["name"], made["ilp"], made["heftless"], file=sys.stderr)
