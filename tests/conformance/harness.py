"""Starts the embedded EC2 alone and gives clients of it: boto3 with strict parsing, and the AWS CLI.

botocore drops what it does not know while it parses an answer. Here every answer is also walked element
by element against botocore's own model: an element that the model lacks, or a text that is not of its
type, fails the call.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/common"))
from trials import until  # noqa: E402  one way to wait, for all tests

# Values that EC2 answers although its model does not list them.
KNOWN = {
    ("CreateNetworkInterface.networkInterface.status", "pending"),
    ("DescribeInternetGateways.internetGatewaySet[].attachmentSet[].state", "available"),
}
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


class Checks:
    """Counts what passed and what failed, and goes on after a failure."""

    def __init__(self):
        self.passed, self.failed = 0, []

    def that(self, name, condition, detail=""):
        if condition:
            self.passed += 1
        else:
            self.failed.append(name)
            print(f"FAILED {name} {detail}")

    def equal(self, name, got, expected):
        self.that(name, got == expected, f"\n  got      {got!r}\n  expected {expected!r}")

    def becomes(self, name, ask, expected):
        """`ask()` gives it after a while."""
        with contextlib.suppress(AssertionError):
            until(60, name, lambda: ask() == expected)
        self.equal(name, ask(), expected)

    def error(self, name, call, code, status=None, message=None):
        """Runs `call`, which must answer the error `code`."""
        try:
            got = call()
        except ClientError as error:
            answer = error.response
            self.equal(name, answer["Error"]["Code"], code)
            if status is not None:
                self.equal(f"{name}: status", answer["ResponseMetadata"]["HTTPStatusCode"], status)
            if message is not None:
                text = answer["Error"]["Message"]
                self.that(f"{name}: message", re.search(message, text), repr(text))
        else:
            self.that(name, False, f"no error: {got!r}")

    def section(self, run, *args):
        """Runs a part; one that ends early is one failure more, not the end of all."""
        try:
            return run(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure of this part
            self.that(run.__name__, False, f"{type(error).__name__}: {error}")
            return None


def walk(element, shape, path, problems):
    """Compares an element of an answer with the model's shape."""
    kind, text = shape.type_name, element.text or ""
    if kind == "structure":
        by_name = {s.serialization.get("name", n): s for n, s in shape.members.items()}
        for child in element:
            name = child.tag.split("}")[-1]
            if name in by_name:
                walk(child, by_name[name], f"{path}.{name}", problems)
            elif not (path.count(".") == 0 and name in ("requestId", "return")):
                problems.append(f"{path}.{name} is not in the model")
    elif kind == "list":
        item = shape.member.serialization.get("name", "item")
        for child in element:
            if child.tag.split("}")[-1] != item:
                problems.append(f"{path} has <{child.tag}> for <{item}>")
            walk(child, shape.member, f"{path}[]", problems)
    elif kind == "boolean" and text not in ("true", "false"):
        problems.append(f"{path} is {text!r}, not a boolean")
    elif kind in ("integer", "long") and not re.match(r"^-?\d+$", text):
        problems.append(f"{path} is {text!r}, not a number")
    elif kind == "timestamp" and not TIME.match(text):
        problems.append(f"{path} is {text!r}, not a time")
    elif kind == "string" and shape.enum and text not in shape.enum and (path, text) not in KNOWN:
        problems.append(f"{path} is {text!r}, not one of the model's values")


EVERYWHERE = {"AccessDeniedException", "InvalidSignatureException", "ThrottlingException",
              "UnrecognizedClientException", "UnsupportedOperation"}


def walk_json(value, shape, path, problems):
    """The same for an answer in JSON."""
    kind = shape.type_name
    if value is None:
        return
    if kind == "structure":
        if not isinstance(value, dict):
            problems.append(f"{path} is {value!r}, not an object")
            return
        for name, member in value.items():
            if name in shape.members:
                walk_json(member, shape.members[name], f"{path}.{name}", problems)
            else:
                problems.append(f"{path}.{name} is not in the model")
    elif kind == "list":
        for item in value:
            walk_json(item, shape.member, f"{path}[]", problems)
    elif kind == "map":
        for item in value.values():
            walk_json(item, shape.value, f"{path}{{}}", problems)
    else:
        types = {"string": str, "boolean": bool, "integer": int, "long": int, "timestamp": (int, float)}[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "boolean"):
            problems.append(f"{path} is {value!r}, not of type {kind}")
        elif kind == "string" and shape.enum and value not in shape.enum:
            problems.append(f"{path} is {value!r}, not one of the model's values")


class Server:
    """The embedded EC2 in a process of its own; ends with this object."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["cargo", "run", "--quiet", "-p", "vpcsim", "--example", "serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit("the server has not started")
        self.url = f"http://127.0.0.1:{line}"
        self.calls, self.problems = set(), []

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)

    def knobs(self, **knobs):
        request = urllib.request.Request(
            f"{self.url}/_lab/knobs", data=json.dumps(knobs).encode(), method="PUT"
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def lab(self, method, path, body):
        """What the lab's daemon does in its own process; gives status and text."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = {"Content-Type": "text/plain" if isinstance(body, str) else "application/json"}
        request = urllib.request.Request(f"{self.url}/_lab/{path}", data=data, method=method, headers=kind)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def client(self, service="ec2", key="AKIDTEST", retries=1, **more):
        client = boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-west-2",
            aws_access_key_id=key,
            aws_secret_access_key="secret",
            config=Config(
                retries={"total_max_attempts": retries, "mode": "standard"}, **more
            ),
        )
        if service == "ec2":
            client.meta.events.register("before-parse.ec2.*", self.check_answer)
        if service == "eks":
            client.meta.events.register("before-parse.eks.*", self.check_json)
        return client

    def check_answer(self, operation_model, response_dict, **_):
        self.calls.add(operation_model.name)
        if response_dict["status_code"] >= 300:
            return
        root = ElementTree.fromstring(response_dict["body"])
        expected = f"{operation_model.name}Response"
        if root.tag.split("}")[-1] != expected:
            self.problems.append(f"<{root.tag}> is not <{expected}>")
        if operation_model.output_shape is not None:
            walk(root, operation_model.output_shape, operation_model.name, self.problems)

    def check_json(self, operation_model, response_dict, **_):
        self.calls.add(f"eks:{operation_model.name}")
        answer = json.loads(response_dict["body"])
        if response_dict["status_code"] < 300:
            walk_json(answer, operation_model.output_shape, operation_model.name, self.problems)
            return
        code = response_dict["headers"].get("x-amzn-errortype", "")
        shapes = [s for s in operation_model.error_shapes if s.name == code]
        # Codes that every service has are in no operation's list.
        if not shapes and code not in EVERYWHERE:
            self.problems.append(f"{operation_model.name} answers {code}, which its model does not list")
        for shape in shapes:
            status = shape.metadata["error"]["httpStatusCode"]
            if status != response_dict["status_code"]:
                self.problems.append(f"{code} has status {response_dict['status_code']}, not {status}")
            walk_json(answer, shape, code, self.problems)

    def cli(self, *args, **environment_more):
        """Runs the AWS CLI; gives exit code, parsed output (text where it is no JSON), error text."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": "AKIDCLI",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_PAGER": "",
            **environment_more,
        }
        aws = Path(sys.executable).parent / "aws"
        run = subprocess.run(
            [sys.executable, str(aws), *args], env=environment, capture_output=True, text=True
        )
        if run.returncode != 0 and "An error occurred" not in run.stderr:
            raise RuntimeError(f"aws {' '.join(args)}: {run.stderr.strip()}")
        output = run.stdout.strip() if run.returncode == 0 else ""
        try:
            return run.returncode, json.loads(output) if output else None, run.stderr
        except json.JSONDecodeError:
            return run.returncode, output, run.stderr
