"""Times ONNX files in onnxruntime, one image at a time on one thread: prints each file's median in milliseconds.

The files take turns, and of several sweeps the quietest counts, as the study times the agents' own engine.
"""

import sys
import time

import numpy
import onnxruntime

SWEEPS, PER_SWEEP = 7, 0.2

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[1:]]
quietest = [float("inf")] * len(sessions)
for sweep in range(SWEEPS + 1):
    for index, session in enumerate(sessions):
        source = session.get_inputs()[0]
        shape = [side if isinstance(side, int) else 1 for side in source.shape]
        feed = {source.name: numpy.full(shape, 0.5, "f4")}
        times, began = [], time.perf_counter()
        while time.perf_counter() - began < PER_SWEEP or len(times) < 5:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(1e3 * (time.perf_counter() - start))
        # The first sweep warms up.
        if sweep > 0:
            quietest[index] = min(quietest[index], sorted(times)[len(times) // 2])
print(*quietest)
