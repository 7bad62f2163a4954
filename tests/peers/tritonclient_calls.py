"""Calls an agent with Triton's own clients: ADDRESS SOCKET MODEL VERSION IMAGE C H W; the image is raw little-endian f32.

Every call that the clients have and the agent serves, over gRPC and HTTP, unchanged. Prints one JSON object: the answers to
one image, which the test compares, and what the server says of itself.
"""

import json
import os
import queue
import sys

import numpy
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

address, socket, model, version, path, *shape = sys.argv[1:]
image = numpy.fromfile(path, dtype="<f4").reshape([1, *map(int, shape)])
answers = {}


def inputs(module, batch, **how):
    tensor = module.InferInput("input", list(batch.shape), "FP32")
    tensor.set_data_from_numpy(batch, **how)
    return [tensor]


def logits(result):
    return result.as_numpy("logits").tolist()


def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    raise SystemExit("it was not refused")


with over_grpc.InferenceServerClient(address) as client:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and client.is_model_ready(model, version)
    assert not client.is_model_ready(model, "999")
    answers["server"] = client.get_server_metadata(as_json=True)
    answers["model"] = client.get_model_metadata(model, as_json=True)
    batch = numpy.concatenate([image, image, image])
    result = client.infer(model, inputs(over_grpc, batch), request_id="7")
    assert result.get_response().id == "7"
    answers["grpc"] = logits(result)
    named = [over_grpc.InferRequestedOutput("logits")]
    answers["grpc_named"] = logits(client.infer(model, inputs(over_grpc, image), outputs=named, model_version=version))
    answered = queue.Queue()
    client.start_stream(lambda result, error: answered.put((result, error)))
    for number in range(3):
        client.async_stream_infer(model, inputs(over_grpc, image), request_id=str(number))
    client.async_stream_infer("other", inputs(over_grpc, image), request_id="3")
    streamed = [answered.get(timeout=30) for _ in range(4)]
    client.stop_stream()
    assert [result.get_response().id for result, _ in streamed[:3]] == ["0", "1", "2"]
    answers["stream"] = [logits(result)[0] for result, _ in streamed[:3]]
    answers["stream_refused"] = streamed[3][1].message()
    answers["grpc_refused"] = refused(lambda: client.infer("other", inputs(over_grpc, image)))
    answers["grpc_shape"] = refused(lambda: client.infer(model, inputs(over_grpc, image[:, :, 1:, :])))
    answers["grpc_config"] = client.get_model_config(model, as_json=True)["config"]
    answers["grpc_unserved"] = refused(lambda: client.get_trace_settings())
    answers["grpc_gzip"] = refused(lambda: client.infer(model, inputs(over_grpc, image), compression_algorithm="gzip"))
    answers["statistics"] = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
    answers["index"] = client.get_model_repository_index(as_json=True)["models"]

# As docs/agent.md has it: the socket by a name with an @, or an authority that is a host's.
authority = [("grpc.default_authority", "localhost")]
for way, target, options in [("socket", os.path.join(os.path.dirname(socket), "inference@localhost.sock"), None),
                             ("socket_option", socket, authority)]:
    with over_grpc.InferenceServerClient(f"unix://{target}", channel_args=options) as client:
        assert client.is_server_live() and client.is_server_ready()
        answers[way] = logits(client.infer(model, inputs(over_grpc, image)))

with over_http.InferenceServerClient(address) as client:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and client.is_model_ready(model, version)
    assert not client.is_model_ready(model, "999")
    assert client.get_server_metadata()["version"] == answers["server"]["version"]
    assert client.get_model_metadata(model)["inputs"][0]["name"] == "input"
    index = client.get_model_repository_index()
    assert index == [{"name": model, "version": version, "state": "READY", "reason": ""}]
    assert client.get_inference_statistics(model)["model_stats"][0]["name"] == model
    answers["http"] = logits(client.infer(model, inputs(over_http, batch), request_id="7"))
    for name, binary_in, binary_out in [("json", False, False), ("json_raw", False, True), ("raw_json", True, False)]:
        wanted = [over_http.InferRequestedOutput("logits", binary_data=binary_out)]
        tensors = inputs(over_http, image, binary_data=binary_in)
        answers[f"http_{name}"] = logits(client.infer(model, tensors, outputs=wanted, model_version=version))
    answers["http_config"] = client.get_model_config(model)
    for name in ["gzip", "deflate"]:
        answers[f"http_{name}"] = refused(
            lambda: client.infer(model, inputs(over_http, image), request_compression_algorithm=name)
        )
    answers["http_refused"] = refused(lambda: client.infer("other", inputs(over_http, image)))

print(json.dumps(answers))
