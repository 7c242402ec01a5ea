"""What an OpenTelemetry collector reads in the export on standard input: the JSON encoding of OTLP, taken into the messages
that OpenTelemetry publishes. A name, a kind of value or a place that those do not have is an error."""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def from_hexadecimal(value):
    """Ids, which OTLP writes in hexadecimal, as protobuf's own JSON would have them."""
    if isinstance(value, list):
        return [from_hexadecimal(item) for item in value]
    if not isinstance(value, dict):
        return value
    read = {}
    for key, item in value.items():
        if key in IDS:
            raw = bytes.fromhex(item)
            assert len(raw) == IDS[key] and any(raw), (key, item)
            item = base64.b64encode(raw).decode()
        read[key] = from_hexadecimal(item)
    return read


def attributes(pairs):
    told = {}
    for pair in pairs:
        assert pair.key not in told, pair.key
        told[pair.key] = getattr(pair.value, pair.value.WhichOneof("value"))
    return told


request = json_format.ParseDict(from_hexadecimal(json.load(sys.stdin)), ExportTraceServiceRequest())
spans = []
for resource in request.resource_spans:
    for scope in resource.scope_spans:
        for span in scope.spans:
            spans.append(
                {
                    "resource": attributes(resource.resource.attributes),
                    "scope": scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "flags": span.flags,
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "status": Status.StatusCode.Name(span.status.code),
                    "attributes": attributes(span.attributes),
                }
            )
json.dump(spans, sys.stdout)
