"""A module of reward functions, written to a folder by the tests."""

SOURCE = '''
import asyncio
import os
import subprocess
import sys
import time

CALLS = []


def right(completions, gold, **columns):
    """1 where the completion is the gold answer."""
    CALLS.append(len(completions))
    return [float(text == answer) for text, answer in zip(completions, gold, strict=True)]


def length(completion_ids, **columns):
    return [-float(len(ids)) for ids in completion_ids]


async def later(completions, **columns):
    await asyncio.sleep(0)
    return [len(text) for text in completions]


def picky(completions, **columns):
    """Fails for a completion that holds an x, has no opinion of an empty one."""
    if any("x" in text for text in completions):
        raise ValueError("an x\\nin the text")
    return [None if not text else 1.0 for text in completions]


def moody(completions, **columns):
    """What the completion says."""
    acts = {"hang": lambda: time.sleep(60), "die": lambda: os._exit(3), "exit": lambda: sys.exit("bye")}
    acts["child"] = lambda: subprocess.run(["sleep", "61"])
    for text in completions:
        print("noise", flush=True)
        os.system("echo more noise")
        acts.get(text, lambda: None)()
    return [1.0 for _ in completions]


class Judge:
    def __call__(self, completions, **columns):
        return [0.5] * len(completions)


judge = Judge()
NUMBER = 3
'''


def write(folder, name="rewards_of_tests", text=SOURCE):
    """The module as a file; its folder."""
    (folder / f"{name}.py").write_text(text, "utf-8")
    return str(folder)
