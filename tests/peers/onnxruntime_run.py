"""Runs one ONNX file in onnxruntime: MODEL INPUT OUTPUT DIMENSION...; input and output are raw little-endian f32.

Whatever the file calls them, its first input gets the numbers in these dimensions, and all its outputs are written one
behind the other, image by image.
"""

import sys

import numpy
import onnxruntime

model, source, target, *dimensions = sys.argv[1:]
image = numpy.fromfile(source, dtype="<f4").reshape([int(dimension) for dimension in dimensions])
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
outputs = session.run(None, {session.get_inputs()[0].name: image})
numpy.concatenate([output.reshape(len(image), -1) for output in outputs], axis=1).astype("<f4").tofile(target)
