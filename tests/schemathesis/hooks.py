"""What a schema cannot say about our calls."""

import base64
import hashlib
import hmac
import itertools
import os
import time
import uuid

import schemathesis
from requests.auth import AuthBase
from schemathesis.core.parameters import ParameterLocation

SECRET = base64.b64decode(os.environ["BACKSTOP_CALLBACK_SECRETS"].removeprefix("whsec_"))

# Each call is another client's, by the word of a proxy that we are trusted to be: that one which fails too
# often is told to wait is for other tests.
CLIENTS = itertools.count(1)


class Client(AuthBase):
    """Says which client it is, beside the case's own headers: of those it is checked what is missing."""

    def __call__(self, request):
        n = next(CLIENTS)
        request.headers["x-forwarded-for"] = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
        return request


class Signature(Client):
    """Signs what is really sent, as Standard Webhooks says."""

    def __call__(self, request):
        request = super().__call__(request)
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        message, now = f"msg_{uuid.uuid4()}", str(int(time.time()))
        signed = b".".join([message.encode(), now.encode(), body])
        digest = hmac.new(SECRET, signed, hashlib.sha256).digest()
        request.headers["webhook-id"] = message
        request.headers["webhook-timestamp"] = now
        request.headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
        return request


@schemathesis.hook
def before_call(context, case, kwargs):
    kwargs["auth"] = Client()
    if "/callbacks/" in case.operation.path:
        # A signature that is to be missing or wrong stays so.
        if not case.meta.is_negative_at(ParameterLocation.HEADER):
            kwargs["auth"] = Signature()
        if isinstance(case.body, dict):
            case.body = {name: whole(readable(value)) for name, value in case.body.items()}
            # Says in words only that both are the same.
            if is_uuid(case.body.get("provision_id")) and case.path_parameters:
                case.body["provision_id"] = case.path_parameters["id"]
    # Nobody has a minute for each example.
    if case.headers:
        case.headers.pop("prefer", None)
    # Only an answer has one.
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)


def readable(value):
    """A number beyond a double makes a body that no reader of ours takes, also where it is passed over."""
    if isinstance(value, int) and abs(value) > 1e308:
        return 0
    if isinstance(value, list):
        return [readable(item) for item in value]
    if isinstance(value, dict):
        return {name: readable(item) for name, item in value.items()}
    return value


def whole(value):
    """1.0 is an integer to a schema. We want it written as one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_uuid(text):
    try:
        return isinstance(text, str) and bool(uuid.UUID(text))
    except ValueError:
        return False
