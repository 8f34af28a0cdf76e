"""One process that computes or takes memory, and says what it got as a line of JSON.

    work.py [--at TIME] [--compute SECONDS] [--fill MOST_MIB] [--hold SECONDS] [--fault]
"""

import argparse
import ctypes
import json
import os
import sys
import time
import traceback

import cuda


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="")
    parser.add_argument("--at", type=float, help="begin at this time, in seconds since the epoch")
    parser.add_argument("--compute", type=float)
    parser.add_argument("--fill", type=int, metavar="MIB", help="take memory, at most so much")
    parser.add_argument("--chunk", type=int, default=256, metavar="MIB")
    parser.add_argument("--hold", type=float, default=0)
    parser.add_argument("--fault", action="store_true", help="write where nothing is")
    options = parser.parse_args()
    told = {"name": options.name, "pid": os.getpid()}
    began = time.monotonic()
    try:
        device = cuda.Cuda()
        told["startSeconds"] = round(time.monotonic() - began, 2)
        told["devices"] = device.devices
        told["multiprocessors"] = device.multiprocessors()
        free, total = device.memory()
        told["freeMib"], told["totalMib"] = free >> 20, total >> 20
        if options.fill:
            chunks, error = device.fill(options.chunk * cuda.MIB, options.fill * cuda.MIB)
            told["filledMib"] = len(chunks) * options.chunk
            told["refused"] = str(error) if error else None
        if options.hold:
            print(json.dumps({**told, "state": "holding"}), flush=True)
        if options.compute:
            device.prepare(132 * 16)
            if options.at:
                time.sleep(max(0, options.at - time.time()))
            told["gflops"] = round(device.compute(options.compute))
        if options.fault:
            device.prepare(1)
            device.out = ctypes.c_uint64(0x10)
            device.launch(1)
            device.finish()
        time.sleep(options.hold)
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
        if not isinstance(error, cuda.CudaError):
            told["trace"] = traceback.format_exc().splitlines()[-3:]
    told["seconds"] = round(time.monotonic() - began, 2)
    print(json.dumps(told), flush=True)
    return 1 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main())
