"""One rank of gloo groups: takes calls on its standard input, answers on its standard output, until that closes.

A process is started once and joins a fresh group for each call, which takes milliseconds instead of seconds.
"""

import importlib.util
import os
import pickle
import sys
import traceback
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch.distributed as dist


@cache
def module_at(path):
    spec = importlib.util.spec_from_file_location(f"ranked_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(call):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{call['store']}",
        rank=call["rank"],
        world_size=call["world_size"],
        timeout=timedelta(seconds=call["timeout"]),
    )
    try:
        return "returned", getattr(module_at(call["file"]), call["name"])(**call["arguments"])
    except BaseException as error:
        traceback.print_exc()
        return "raised", f"{type(error).__name__}: {error}"
    finally:
        dist.destroy_process_group()


def main():
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not write into the answers
    while True:
        try:
            call = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(answer(call), answers)
        answers.flush()


if __name__ == "__main__":
    main()
