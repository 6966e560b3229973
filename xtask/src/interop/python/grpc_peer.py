"""grpcio on both sides of the control plane: its client against `peerage gateway`, `peerage register` against its
server.

usage: grpc_peer.py PEERAGE PROTO_DIRECTORY TRANSCRIPT SCRATCH
"""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from concurrent import futures

import grpc
from grpc_tools import protoc

from harness import Ours, report

peerage, protos, transcript, scratch = sys.argv[1:]
PROTO = "gateway/controlplane/v1/control.proto"
LIMIT = 20

GREETER = b"""syntax = "proto3";
package greeter.v1;
service Greeter { rpc Hello(Req) returns (Res); }
message Req { string name = 1; }
message Res { string greeting = 1; }
"""


def compile():
    """Google's own compiler reads our file."""
    os.makedirs(scratch, exist_ok=True)
    fault = protoc.main(["protoc", f"-I{protos}", f"--python_out={scratch}", f"--grpc_python_out={scratch}", PROTO])
    report("C-005", "protoc compiles control.proto", f"exit code {fault}" if fault else None)
    sys.path.insert(0, scratch)
    from gateway.controlplane.v1 import control_pb2, control_pb2_grpc

    return control_pb2, control_pb2_grpc


class Replay:
    """The recorded calls, made by grpcio."""

    def __init__(self, pb, stub):
        self.pb, self.stub = pb, stub
        self.ids, self.hashes = {}, {}

    def step(self, step):
        """What is wrong with the answer to one call, or None."""
        method = step["method"]
        request = bytes.fromhex(step["request_hex"])
        for theirs, ours in self.ids.items():
            request = request.replace(theirs, ours)
        time.sleep(step.get("wait_seconds", 0))
        message = getattr(self.pb, f"{method}Request").FromString(request)
        try:
            answer = getattr(self.stub, method)(message, timeout=LIMIT)
            code, text = "OK", ""
        except grpc.RpcError as error:
            code, text = error.code().name, error.details()
        if code != step["code"] or text != step.get("message", ""):
            return f"{code} {text!r} instead of {step['code']} {step.get('message', '')!r}"
        if code != "OK":
            return None
        recorded = getattr(self.pb, f"{method}Response").FromString(bytes.fromhex(step["response_hex"]))
        if "saves_id_as" in step:
            self.ids[recorded.registration_id.encode()] = answer.registration_id.encode()
        theirs, ours = self.normal(recorded, True), self.normal(answer, False)
        return None if theirs == ours else f"{ours} instead of {theirs}"

    def normal(self, answer, is_recorded):
        """Without what differs from run to run, and without what a gateway with an admin API has by itself."""
        if hasattr(answer, "registration_id"):
            answer.registration_id = ""
        if hasattr(answer, "registrations"):
            for registration in answer.registrations:
                registration.last_heartbeat_unix_ms = 0
                if is_recorded:
                    registration.registration_id = self.ids[registration.registration_id.encode()].decode()
        if hasattr(answer, "services"):
            services = [one for one in answer.services if not one.namespace.startswith("admin")]
            stable = {name: number for name, number in answer.stable_vn.items() if not name.startswith("admin")}
            # Only OpenAPI has the hash that a real gateway shows.
            shown = [
                (one.namespace, one.version, one.replica_count, one.manual_deprecation_reason,
                 one.hash_hex if one.namespace in ("billing", "invoices") else "")
                for one in services
            ]
            return shown, stable
        return answer


def client(pb, rpc):
    ours = Ours(peerage, "--json", "gateway", "--listen", "127.0.0.1:0")
    ready = ours.wait("{", LIMIT)
    if not ready:
        return report("transcript", "peerage gateway starts", str(ours.seen))
    address = json.loads(ready[1])["address"]
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        replay = Replay(pb, rpc.ControlPlaneStub(channel))
        steps = json.load(open(transcript))["steps"]
        faults = [f"{step['name']}: {fault}" for step in steps if (fault := replay.step(step))]
        what = f"{len(steps) - len(faults)} of {len(steps)} recorded calls answered alike"
        report("transcript", what, faults[0] if faults else None)

        path = "/gateway.controlplane.v1.ControlPlane/"
        raw = lambda name: channel.unary_unary(path + name, lambda request: request, lambda answer: answer)

        def code(name, request):
            try:
                raw(name)(request, timeout=LIMIT)
                return "OK"
            except grpc.RpcError as error:
                return error.code().name

        large = pb.RegisterRequest(addr="h:1", instance_id="x" * (5 << 20)).SerializeToString()
        for row, name, request, expected in [
            ("C-007", "Register", large, "RESOURCE_EXHAUSTED"),
            ("C-008", "Nope", b"", "UNIMPLEMENTED"),
            ("C-009", "Register", b"\x0a\x01\xff", "INTERNAL"),
        ]:
            got = code(name, request)
            report(row, f"{name} is {expected}", None if got == expected else got)
    ours.child.send_signal(signal.SIGINT)
    ended = ours.child.wait(LIMIT)
    report("end", "Ctrl-C ends the gateway with 0", f"exit code {ended}" if ended else None)


def server(pb, rpc):
    calls = queue.Queue()

    class Scripted(rpc.ControlPlaneServicer):
        """Takes the first registration, does not know it at its second beat, takes the next."""

        registered = beats = 0

        def Register(self, request, context):
            calls.put(("Register", request))
            if request.services[0].version == "v9":
                context.abort(grpc.StatusCode.UNKNOWN, "gateway: greeter/v9 already registered with different schema "
                              "hash; vN is locked once registered")
            self.registered += 1
            return pb.RegisterResponse(registration_id=f"{self.registered:024x}", ttl_seconds=3)

        def Heartbeat(self, request, context):
            self.beats += 1
            calls.put(("Heartbeat", request))
            return pb.HeartbeatResponse(ok=self.beats != 2)

        def Deregister(self, request, context):
            calls.put(("Deregister", request))
            return pb.DeregisterResponse()

        def ListRegistrations(self, request, context):
            return pb.ListRegistrationsResponse()

    def next_call(name):
        """The next call of that name, or None."""
        deadline = time.monotonic() + LIMIT
        while (left := deadline - time.monotonic()) > 0:
            try:
                got, request = calls.get(timeout=left)
            except queue.Empty:
                return None
            if got == name:
                return request
        return None

    running = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_ControlPlaneServicer_to_server(Scripted(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    source = os.path.join(scratch, "greeter.proto")
    with open(source, "wb") as file:
        file.write(GREETER)
    command = [peerage, "register", "--json", "--gateway", f"127.0.0.1:{port}", "--addr", "127.0.0.1:41001",
               "--namespace", "greeter", "--proto", source, "--instance", "i@1", "--ttl", "3s"]
    ours = Ours(*command)

    request = next_call("Register")
    wanted = pb.RegisterRequest(addr="127.0.0.1:41001", ttl_seconds=3, instance_id="i@1", services=[
        pb.ServiceBinding(namespace="greeter", version="v1", proto_source=GREETER)])
    report("C-127", "the request as grpcio reads it", None if request == wanted else repr(request))

    first = next_call("Heartbeat")
    ok = first is not None and first.registration_id == f"{1:024x}"
    report("C-146", "it beats with the id it was given", None if ok else repr(first))
    again = next_call("Register")
    beat = next_call("Heartbeat")
    ok = again == wanted and beat is not None and beat.registration_id == f"{2:024x}"
    report("C-148", "an unknown id: registered again, beats with the new one", None if ok else f"{again!r} {beat!r}")

    ours.child.send_signal(signal.SIGINT)
    last = next_call("Deregister")
    ended = ours.child.wait(LIMIT)
    ok = last is not None and last.registration_id == f"{2:024x}" and ended == 0
    report("C-161", "Ctrl-C deregisters and ends with 0", None if ok else f"{last!r} {ended}")

    refused = subprocess.run(command + ["--version", "v9"], capture_output=True, text=True, timeout=LIMIT)
    ok = refused.returncode == 1 and "publish it as v10" in refused.stderr
    report("C-135", "a refusal ends with 1 and says what to do", None if ok else refused.stderr)
    running.stop(None)


pb, rpc = compile()
client(pb, rpc)
server(pb, rpc)
