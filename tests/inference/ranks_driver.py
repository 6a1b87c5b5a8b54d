"""Loads a folder on several ranks, tells who they are, and answers once for each line of standard input."""

from __future__ import annotations

import json
import sys

import psutil

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.layout import Layout
from herdbook.inference.parallel import RanksLost

PROMPTS = [[256, 1, 2, 3], [256, 9]]

if __name__ == "__main__":
    engine = Engine.load(sys.argv[1], device="cpu", layout=Layout(**json.loads(sys.argv[2])))
    print(json.dumps([child.pid for child in psutil.Process().children()]), flush=True)
    for _ in sys.stdin:
        try:
            found = [one.token_ids for one in engine.generate(PROMPTS, Sampling(max_tokens=20))]
        except RanksLost as error:
            found = str(error)
        print(json.dumps(found), flush=True)
