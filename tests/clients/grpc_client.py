"""grpcio without generated code: calls each method by reflection.

Usage: grpc_client.py HOST:PORT BUSY_HOST:PORT"""

import sys
import urllib.request

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

WHERE, BUSY = sys.argv[1:]
SERVICE = "remask.v1.Remask"


class Remask:
    """The service, by reflection: `remask.Generate({..})` takes a message as JSON spells it."""

    def __init__(self, where):
        self.channel = grpc.insecure_channel(where)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        service = DescriptorPool(self.reflection).FindServiceByName(SERVICE)
        self.methods = {method.name: method for method in service.methods}

    def __getattr__(self, name):
        method = self.methods[name]
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = (self.channel.unary_stream if method.server_streaming else self.channel.unary_unary)(
            f"/{SERVICE}/{name}", asked.SerializeToString, answered.FromString
        )
        return lambda fields, **options: call(json_format.ParseDict(fields, asked()), timeout=30, **options)


def replayed(events):
    """The start, the tokens that the edits make, the text of the steps, and the end."""
    start, *steps, done = events
    assert start.WhichOneof("event") == "start" and done.WhichOneof("event") == "done"
    start, steps, done = start.start, [event.step for event in steps], done.done
    canvas = [None] * start.canvas_length
    for cell in start.cells:
        canvas[cell.at] = cell.token
    for step in steps:
        for edit in step.edits:
            kind = edit.WhichOneof("kind")
            canvas[edit.at] = None if kind == "erase" else getattr(edit, kind).token
    return start, canvas, "".join(step.text for step in steps), done


def refused(call):
    try:
        list(call)
    except grpc.RpcError as error:
        return error.code(), error.details(), dict(error.trailing_metadata())
    raise AssertionError("it was taken")


remask = Remask(WHERE)
assert SERVICE in remask.reflection.get_services()
assert sorted(remask.methods) == ["Generate", "Infill", "Info", "Repair", "Score"]

info = remask.Info({})
assert info.model == "toy" and info.has_quality_head and info.canvas_limit > 0 and info.version

ask = {
    "text": "Hello",
    "max_tokens": 90,
    "seed": 7,
    "diffusion": {"block_length": 8, "stream_edits": True, "return_quality": True, "remasking": {"quality": {"below": 0.6}}},
}
call = remask.Generate(ask, metadata=[("x-request-id", "python-1")])
assert dict(call.initial_metadata())["x-request-id"] == "python-1"
start, canvas, text, done = replayed(call)
assert start.id == done.id == "python-1" and start.canvas_length == 90
assert text + done.tail == done.text and done.text
assert [token.token for token in done.tokens] == canvas[: len(done.tokens)]
assert all(token.HasField("quality") for token in done.tokens)
assert done.usage.completion_tokens == len(done.tokens) and done.diffusion.filled >= len(done.tokens)
hello = {"messages": [{"role": "user", "content": "Hello"}]}
assert list(remask.Generate({"chat": hello, "max_tokens": 20}))[-1].done.text
assert list(remask.Generate({"text": "One", "suffix": "Two", "max_tokens": 9}))[-1].done.usage.completion_tokens == 9

start, canvas, _, done = replayed(remask.Infill({"template": "a <blank:12> b", "seed": 7}))
assert bytes(canvas).decode(errors="replace") == done.text and len(done.gaps) == 1
assert sum(cell.pinned for cell in start.cells) == 4

score = remask.Score({"text": "what is this"})
assert len(score.tokens) == 12 and score.doubtful
_, canvas, _, done = replayed(remask.Repair({"text": "what is this", "pinned": [{"start": 0, "end": 4}]}))
assert bytes(canvas).decode(errors="replace") == done.text and done.text.startswith("what") and done.diff

code, details, metadata = refused(remask.Generate({"text": "a", "diffusion": {"steps": 0}}))
assert (code, metadata["remask-param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "diffusion.steps")
assert details.startswith("steps is 0; give 1 to")
assert refused(remask.Generate({"text": "a", "model": "gpt-4"}))[0] == grpc.StatusCode.NOT_FOUND
nothing = remask.channel.unary_unary(f"/{SERVICE}/Nothing")
try:
    nothing(b"")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "Generate" in error.details()

health = health_pb2_grpc.HealthStub(remask.channel)
for name in ["", SERVICE]:
    assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
watch.cancel()

# one place and no queue: a call is refused while another runs, and accepted once that one is
# cancelled
busy = Remask(BUSY)
long = {"text": "One", "max_tokens": 1000, "diffusion": {"steps": 1000, "block_length": 1000, "stream_edits": True}}
slow = busy.Generate(long)
assert next(slow).WhichOneof("event") == "start" and next(slow).WhichOneof("event") == "step"
code, _, metadata = refused(busy.Generate({"text": "Two"}))
assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and int(metadata["retry-after"]) >= 1, code
slow.cancel()
for _ in range(1000):
    metrics = urllib.request.urlopen(f"http://{BUSY}/metrics").read().decode()
    if '\nremask_sequences_cancelled_total{model="toy"} 1\n' in metrics:
        break
else:
    raise AssertionError(f"what was cancelled went on: {metrics}")
assert list(busy.Generate({"text": "Two", "max_tokens": 9}))[-1].done.text
print("grpcio", grpc.__version__)
