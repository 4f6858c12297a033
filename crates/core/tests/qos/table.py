"""Makes table.jsonl: instances of the program and their optima, by another solver.

    python3 crates/core/tests/qos/table.py > crates/core/tests/qos/table.jsonl

Needs SciPy (1.10 was used), whose `linprog` is HiGHS. The model is written down here from the paper
and shares nothing with the code that it checks: it has the paper's x, y and p^D as variables, and is
not scaled. Where minimum completions can't be reached, the optimum is that with the smallest sum of
what is missing of them.

One line an instance. Times in seconds, memory in MB, rates a second; a deadline of -1 is none; a
place of a function is [service, init, cold, offset], or null if it can't run there.
"""

import json
import math
import random

import numpy as np
from scipy.optimize import linprog

LOCAL, CLOUD, EDGE, DROP, X, Y = range(6)


def in_time(place, deadline):
    if deadline < 0:
        return 1.0
    service, init, cold, offset = place

    def within(slack):
        return 1 - math.exp(-slack / service) if slack > 0 else 0.0

    return cold * within(deadline - init - offset) + (1 - cold) * within(deadline - offset)


def model(instance, lowered=None):
    """Objective (to be maximised), rows `a v <= b`, rows `a v = b`, bounds; v by flow."""
    flows = instance["flows"]
    size = 6 * len(flows)
    objective = np.zeros(size)
    le, le_rhs, eq, eq_rhs, bounds = [], [], [], [], []
    memory, edge, money = np.zeros(size), np.zeros(size), np.zeros(size)
    for index, (f, c, rate) in enumerate(flows):
        function, klass = instance["functions"][f], instance["classes"][c]
        at = 6 * index
        for column, name in ((LOCAL, "local"), (CLOUD, "cloud"), (EDGE, "edge")):
            place = function[name]
            bounds.append((0, 1 if place else 0))
            if place:
                rho = in_time(place, klass["deadline"])
                objective[at + column] = rate * (
                    klass["utility"] * rho - klass["penalty"] * (1 - rho)
                )
        objective[at + DROP] = -rate * klass["drop_penalty"]
        bounds += [(0, 1), (0, None), (0, None)]
        one = np.zeros(size)
        one[at : at + 4] = 1
        eq.append(one)
        eq_rhs.append(1)
        for column, held, name in ((LOCAL, X, "local"), (EDGE, Y, "edge")):
            if function[name]:
                row = np.zeros(size)
                row[at + column] = rate * function[name][0]
                row[at + held] = -1
                le.append(row)
                le_rhs.append(0)
        memory[at + X] = function["memory"]
        edge[at + Y] = function["memory"]
        if function["cloud"]:
            money[at + CLOUD] = (
                instance["cost"] * rate * function["cloud"][0] * function["memory"] / 1024
            )
    le += [memory, edge]
    le_rhs += [instance["usable"] * instance["memory"], instance["edge_memory"]]
    if instance["budget"] is not None:
        le.append(money)
        le_rhs.append(instance["budget"] / 3600)
    for c, klass in enumerate(instance["classes"]):
        of_class = [(i, rate) for i, (_, k, rate) in enumerate(flows) if k == c]
        total = sum(rate for _, rate in of_class)
        if klass["completion"] > 0 and total > 0:
            row = np.zeros(size)
            for i, rate in of_class:
                row[6 * i + DROP] = rate / total
            le.append(row)
            le_rhs.append(1 - klass["completion"] + (lowered or {}).get(c, 0))
    return objective, np.array(le), np.array(le_rhs), np.array(eq), np.array(eq_rhs), bounds


def highs(c, le, le_rhs, eq, eq_rhs, bounds):
    return linprog(c, A_ub=le, b_ub=le_rhs, A_eq=eq, b_eq=eq_rhs, bounds=bounds, method="highs")


def solve(instance):
    objective, *rows = model(instance)
    found = highs(-objective, *rows)
    if found.status == 0:
        return {"optimum": -found.fun, "missing": 0.0}
    assert found.status == 2, found.message
    # Infeasible: only completions can be the reason. One more variable for each of them.
    le, le_rhs, eq, eq_rhs, bounds = rows
    flows = instance["flows"]
    wanted = [
        c
        for c, klass in enumerate(instance["classes"])
        if klass["completion"] > 0 and any(k == c for _, k, _ in flows)
    ]
    first = len(le) - len(wanted)
    extra = np.zeros((len(le), len(wanted)))
    for number in range(len(wanted)):
        extra[first + number, number] = -1
    le = np.hstack([le, extra])
    eq = np.hstack([eq, np.zeros((len(eq), len(wanted)))])
    bounds = bounds + [(0, 1)] * len(wanted)
    cost = np.concatenate([np.zeros(len(objective)), np.ones(len(wanted))])
    nearest = highs(cost, le, le_rhs, eq, eq_rhs, bounds)
    assert nearest.status == 0, nearest.message
    # The best of all that miss as little in sum, however they share it: an upper bound.
    row = np.concatenate([np.zeros(len(objective)), np.ones(len(wanted))])
    le = np.vstack([le, row])
    le_rhs = np.append(le_rhs, nearest.fun + 1e-9)
    worth = np.concatenate([-objective, np.zeros(len(wanted))])
    best = highs(worth, le, le_rhs, eq, eq_rhs, bounds)
    assert best.status == 0, best.message
    return {"optimum": -best.fun, "missing": nearest.fun}


def number(value):
    return float(f"{value:.6g}")


def random_instance(rng, functions, classes, **fixed):
    def place(offset):
        return [
            number(rng.uniform(0.02, 0.6)),
            number(rng.uniform(0.0, 0.8)),
            number(rng.choice([0.0, rng.random(), 1.0])),
            number(offset),
        ]

    instance = {
        "functions": [
            {
                "memory": number(rng.choice([64, 128, 256, 512, 1024])),
                "local": place(0) if rng.random() < 0.95 else None,
                "cloud": place(rng.uniform(0.02, 0.6)) if rng.random() < 0.9 else None,
                "edge": place(rng.uniform(0.005, 0.1)) if rng.random() < 0.8 else None,
            }
            for _ in range(functions)
        ],
        "classes": [
            {
                "utility": number(rng.choice([1.0, 0.01, 0.0, rng.uniform(0.1, 10)])),
                "deadline": number(rng.choice([-1, 0.25, 0.5, 1.0, 99.0])),
                "completion": number(rng.choice([0, 0, 0, rng.random(), 1.0])),
                "penalty": number(rng.choice([0, 0, 0.75, rng.uniform(0, 2)])),
                "drop_penalty": number(rng.choice([0, 0, 0, rng.uniform(0, 1)])),
            }
            for _ in range(classes)
        ],
        "memory": number(rng.choice([0, 256, 1024, 4096])),
        "usable": number(rng.choice([1.0, rng.uniform(0.2, 1.0)])),
        "edge_memory": number(rng.choice([0, 512, 4096, 16384])),
        "cost": number(rng.choice([0, 5e-5, 1e-3])),
        "budget": rng.choice([None, 0.0, number(rng.uniform(0.01, 10))]),
    }
    instance["flows"] = [
        [f, c, number(10 ** rng.uniform(-2, 1.5))]
        for f in range(functions)
        for c in range(classes)
        if rng.random() < 0.85
    ] or [[0, 0, 1.0]]
    instance.update(fixed)
    return instance


def paper(rng, budget, edge):
    """The paper's scenario, seen from its busy node; latency to the cloud 100 ms."""
    functions = []
    for _ in range(5):
        service, init = number(rng.uniform(0.1, 0.5)), number(rng.uniform(0.25, 0.75))
        functions.append(
            {
                "memory": number(rng.uniform(128, 1024)),
                "local": [service, init, 0.02, 0.0],
                "cloud": [service, init, 0.01, 0.2],
                "edge": [service, init, 0.05, 0.01] if edge else None,
            }
        )
    shape = [(0.5, 1, 0, 1), (0.5, 0.01, 0, 7), (99, 1, 0, 1), (0.5, 1, 0.75, 1)]
    classes = [
        {
            "utility": float(utility),
            "deadline": float(deadline),
            "completion": 0.0,
            "penalty": penalty,
            "drop_penalty": 0.0,
        }
        for deadline, utility, penalty, _ in shape
    ]
    return {
        "functions": functions,
        "classes": classes,
        "flows": [[f, c, float(shape[c][3])] for f in range(5) for c in range(4)],
        "memory": 4096.0,
        "usable": 1.0,
        "edge_memory": 16384.0 if edge else 0.0,
        "cost": 5e-5,
        "budget": budget,
    }


def by_hand():
    """Small ones whose answers can be seen without a solver."""
    here = [0.1, 0.0, 0.0, 0.0]
    far = [0.1, 0.0, 0.0, 0.3]
    plain = {
        "utility": 1.0,
        "deadline": -1,
        "completion": 0.0,
        "penalty": 0.0,
        "drop_penalty": 0.0,
    }
    base = {
        "functions": [{"memory": 100.0, "local": here, "cloud": far, "edge": None}],
        "classes": [plain],
        "flows": [[0, 0, 10.0]],
        "memory": 50.0,
        "usable": 1.0,
        "edge_memory": 0.0,
        "cost": 0.0,
        "budget": None,
    }
    yield "half fits here, the rest goes to the cloud", base
    yield "half fits here, the rest may cost nothing", {**base, "cost": 1.0, "budget": 0.0}
    yield "all of it may cost as much as half of it does", {
        **base, "memory": 0.0, "cost": 1.024, "budget": 180.0,
    }
    yield "nothing can be in time, and late calls cost", {
        **base, "classes": [{**plain, "deadline": 0.0, "penalty": 1.0}],
    }
    yield "all must be kept and only half can be", {
        **base, "cost": 1.0, "budget": 0.0, "classes": [{**plain, "completion": 1.0}],
    }
    yield "kept at a loss", {
        **base, "classes": [{**plain, "deadline": 0.0, "penalty": 1.0, "completion": 0.5}],
    }
    yield "dropping costs more than being late", {
        **base,
        "classes": [{**plain, "deadline": 0.0, "penalty": 0.5, "drop_penalty": 1.0}],
    }
    yield "two that are worth the same", {**base, "flows": [[0, 0, 5.0]], "classes": [plain, plain],
                                          "functions": base["functions"] * 2}
    yield "no place at all", {
        **base, "functions": [{"memory": 1.0, "local": None, "cloud": None, "edge": None}],
    }
    yield "no flows", {**base, "flows": []}
    yield "a trickle beside a flood", {
        **base, "functions": base["functions"] * 2, "flows": [[0, 0, 1e-4], [1, 0, 1e4]],
    }
    yield "neighbors only", {
        **base,
        "functions": [{"memory": 100.0, "local": None, "cloud": None, "edge": far}],
        "edge_memory": 25.0,
    }


def main():
    rng = random.Random(2024)
    named = list(by_hand())
    for budget in (0.25, 1.0, 10.0):
        for edge in (False, True):
            named.append((f"paper, budget {budget}, edge {edge}", paper(rng, budget, edge)))
    for index in range(60):
        functions, classes = rng.randint(1, 6), rng.randint(1, 4)
        named.append((f"random {index}", random_instance(rng, functions, classes)))
    for index in range(4):
        completion = [number(rng.random()) for _ in range(5)]
        instance = random_instance(rng, 25, 5, memory=4096.0, edge_memory=8192.0)
        for klass, least in zip(instance["classes"], completion):
            klass["completion"] = least if index % 2 else 0.0
        named.append((f"large {index}", instance))
    for name, instance in named:
        # `linprog` doesn't take a model without variables.
        solved = solve(instance) if instance["flows"] else {"optimum": 0.0, "missing": 0.0}
        # To what HiGHS is good for: its tolerance is 1e-7.
        solved = {key: round(value, 9) + 0.0 for key, value in solved.items()}
        print(json.dumps({"name": name, **instance, **solved}))


main()
