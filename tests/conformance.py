#!/usr/bin/env python3
"""Prints each case of docs/conformance.md with what its tests came to. Usage: conformance.py LOG-OF-THE-RUNNER"""

import re
import sys
from pathlib import Path

ROW = re.compile(r"^\| ([A-Z]+\d+(?:-\d+)?(?: [A-Z]+\d+(?:-\d+)?)*) \|(.*)\|$")
LINE = re.compile(r"^ +(PASS|FAIL|TIMEOUT|SIG\w+) .*?([\w:]+)$|^test ([\w:]+) \.\.\. (ok|FAILED)$")

came = {}
for line in Path(sys.argv[1]).read_text(errors="replace").splitlines():
    if found := LINE.match(line):
        name, fine = found[2] or found[3], (found[1] or found[4]) in ("PASS", "ok")
        came.setdefault(name.split("::")[-1], []).append(fine)

count = {}
for line in Path(__file__).parent.with_name("docs").joinpath("conformance.md").read_text().splitlines():
    if not (row := ROW.match(line)):
        continue
    cells = [cell.strip() for cell in row[2].split("|")]
    state, tests = cells[-2], re.findall(r"`(\w+)`", cells[-1])
    run = [fine for test in tests for fine in came.get(test, [])]
    verdict = "FAIL" if not all(run) else "pass" if run else "not run" if tests else state.split(";")[0].split(",")[0]
    for case in row[1].split():
        count[verdict] = count.get(verdict, 0) + 1
        print(f"{case:7} {verdict:8} {', '.join(tests)}")
print("conformance: " + ", ".join(f"{number} {verdict}" for verdict, number in sorted(count.items())))
