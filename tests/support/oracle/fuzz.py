"""`scripts/fuzz`: checks conversations on all processors until one differs, or all are done."""

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final

from tests.support.oracle.batch import check_many, only

#: Conversations that a process is given at a time.
_TOGETHER: Final = 500


def main() -> int:
    arguments = _arguments()
    if arguments.only:
        seed, _, number = arguments.only.partition(":")
        return only(int(seed), int(number))
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    workers = arguments.workers or os.cpu_count() or 1
    print(f"oracle: {arguments.number} conversations, seed {seed}", flush=True)
    return _run(seed, arguments.number, workers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Plays generated conversations with the fast path and without it, and compares "
        "the client's bytes, ledger rows and requests to upstreams.",
    )
    parser.add_argument("number", nargs="?", type=int, default=1_000_000, help="of conversations")
    parser.add_argument("--seed", type=int, help="of the conversations; drawn where not given")
    parser.add_argument("--workers", type=int, help="processes; one for each processor by default")
    parser.add_argument("--only", metavar="SEED:NUMBER", help="plays this one alone")
    return parser.parse_args()


def _run(seed: int, number: int, workers: int) -> int:
    begun = time.monotonic()
    done = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        starts = range(0, number, _TOGETHER)
        batches = [
            pool.submit(_check, seed, each, min(each + _TOGETHER, number)) for each in starts
        ]
        for each in as_completed(batches):
            if (error := each.exception()) is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                print(f"\n{error}", flush=True)
                return 1
            done += each.result()
            _show(done, number, time.monotonic() - begun)
    seconds = time.monotonic() - begun
    print(f"\noracle: {done} conversations in {seconds:.1f} s, seed {seed}: no difference")
    return 0


def _check(seed: int, first: int, end: int) -> int:
    check_many(seed, range(first, end))
    return end - first


def _show(done: int, number: int, seconds: float) -> None:
    rate = done / seconds if seconds else 0.0
    left = (number - done) / rate if rate else 0.0
    sys.stderr.write(f"\r{done} of {number}, {rate:.0f} a second, {left:.0f} s left   ")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
