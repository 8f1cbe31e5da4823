"""Specs of targets that are right and wrong, one per rule of the API.

tests/cluster tries them on a real API server, tests/unit on our own reading of a target: the two must agree.
"""

from typing import Any, NamedTuple

URI = "http://mlflow.mlflow.svc:5000"


class Refused(NamedTuple):
    """A spec that is refused: `field` and `fix` stand in the message. `typed`: refused by its type, in other words."""

    name: str
    spec: Any
    field: str
    fix: str
    typed: bool = False


def spec(uri: Any = URI, **more: Any) -> dict[str, Any]:
    mlflow = {k: more.pop(k) for k in ("auth", "uiUri", "caBundleRef") if k in more}
    return {"backend": {"mlflow": {"trackingUri": uri, **mlflow}}, **more}


def uri(value: Any, fix: str, name: str) -> list[Refused]:
    """A wrong address, in both fields that hold one."""
    return [
        Refused(f"trackingUri {name}", spec(value), "spec.backend.mlflow.trackingUri", fix),
        Refused(f"uiUri {name}", spec(uiUri=value), "spec.backend.mlflow.uiUri", fix),
    ]


def selector(wrong: dict[str, Any], field: str, fix: str, name: str) -> Refused:
    return Refused(name, spec(select={"runSelector": wrong}), f"spec.select.runSelector{field}", fix)


TOKEN = {"name": "mlflow", "key": "token"}
BASIC = {"usernameSecretRef": {"name": "m", "key": "user"}, "passwordSecretRef": {"name": "m", "key": "password"}}
BEARER = {"bearerTokenSecretRef": TOKEN}
ONE_AUTH = "name exactly one of bearerTokenSecretRef and basic"
DURATION = "write a duration of more than zero in h, m, s or ms"

REFUSED = [
    Refused("no backend", {}, "spec.backend", "", typed=True),
    Refused("an empty backend", {"backend": {}}, "spec.backend", "name exactly one tracker, e.g. mlflow"),
    Refused("no address", {"backend": {"mlflow": {}}}, "trackingUri", "", typed=True),
    Refused("an empty address", spec(""), "spec.backend.mlflow.trackingUri", "", typed=True),
    *uri("mlflow:5000", "start it with http:// or https://", "without a scheme"),
    *uri("ftp://mlflow", "start it with http:// or https://", "with another scheme"),
    *uri("http://user:pw@mlflow:5000", "put credentials in auth, not in the address", "with credentials"),
    *uri("http://token@mlflow:5000/x", "put credentials in auth, not in the address", "with a user"),
    *uri("http://mlflow:5000/?a=b", "leave out the query (?)", "with a query"),
    *uri("http://mlflow:5000/#/experiments", "the fragment (#)", "with a fragment"),
    *uri("http://", "name a host", "without a host"),
    *uri("http://:5000", "name a host", "with a port alone"),
    *uri("http://ml flow:5000", "name a host", "with a blank"),
    *uri("http://mlflow:port", "name a host", "with a port that is no number"),
    *uri(f"http://mlflow/{'x' * 2000}", "", "too long"),
    Refused("both logins", spec(auth=BEARER | {"basic": BASIC}), "spec.backend.mlflow.auth", ONE_AUTH),
    Refused("no login", spec(auth={}), "spec.backend.mlflow.auth", ONE_AUTH),
    Refused(
        "a Secret with a namespace in its name",
        spec(auth={"bearerTokenSecretRef": {"name": "other/mlflow", "key": "token"}}),
        "spec.backend.mlflow.auth.bearerTokenSecretRef.name", "without a namespace",
    ),
    Refused(
        "a key that is a path", spec(auth={"bearerTokenSecretRef": {"name": "mlflow", "key": "a/b"}}),
        "spec.backend.mlflow.auth.bearerTokenSecretRef.key", "give one key of the object's data",
    ),
    Refused(
        "half a login", spec(auth={"basic": {"usernameSecretRef": TOKEN}}), "passwordSecretRef", "", typed=True
    ),
    Refused(
        "a ConfigMap in capitals", spec(caBundleRef={"configMapKeyRef": {"name": "CA", "key": "ca.crt"}}),
        "spec.backend.mlflow.caBundleRef.configMapKeyRef.name", "lower-case letters",
    ),
    Refused("an unknown source", spec(select={"sources": ["Jenkins"]}), "spec.select.sources[0]", "", typed=True),
    Refused(
        "a regular expression", spec(select={"pipelines": ["^churn-.*$"]}), "spec.select.pipelines[0]",
        "not a regular expression",
    ),
    Refused("an empty glob", spec(select={"pipelines": [""]}), "spec.select.pipelines[0]", "", typed=True),
    selector(
        {"matchExpressions": [{"key": "a", "operator": "In"}]}, ".matchExpressions[0]", "give values with In and NotIn",
        "In without values",
    ),
    selector(
        {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, ".matchExpressions[0]",
        "none with Exists and DoesNotExist", "Exists with values",
    ),
    selector(
        {"matchExpressions": [{"key": "a b", "operator": "Exists"}]}, ".matchExpressions[0].key", "give a label's key",
        "a key that is no label's",
    ),
    selector(
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}]}, ".matchExpressions[0].values[0]",
        "give a label's value", "a value that is no label's",
    ),
    Refused(
        "an experiment with an unknown placeholder", spec(naming={"experiment": "{team}/{pipeline}"}),
        "spec.naming.experiment", "knows {pipeline}, {namespace} and no other braces",
    ),
    Refused(
        "a run with an open brace", spec(naming={"run": "{run"}), "spec.naming.run",
        "knows {run}, {pipeline}, {namespace}",
    ),
    Refused(
        "a metric with an unknown placeholder", spec(naming={"metric": "{run}/{metric}"}), "spec.naming.metric",
        "knows {step}, {metric} and no other braces",
    ),
    Refused(
        "metrics that share one name", spec(naming={"metric": "{step}"}), "spec.naming.metric", "must hold {metric}"
    ),
    Refused("another layout", spec(naming={"layout": "flat"}), "spec.naming.layout", "", typed=True),
    Refused("all logs", spec(capture={"logs": "All"}), "spec.capture.logs", "", typed=True),
    Refused("stdout at times", spec(capture={"stdout": "Sometimes"}), "spec.capture.stdout", "", typed=True),
    Refused("a number for stdout", spec(capture={"stdout": 1}), "spec.capture.stdout", "", typed=True),
    Refused(
        "an absolute file", spec(capture={"files": {"include": ["/tmp/metrics.json"]}}),
        "spec.capture.files.include[0]", "without a leading /",
    ),
    Refused(
        "a key over two lines", spec(redact={"additionalKeys": ["a\nb"]}), "spec.redact.additionalKeys[0]",
        "on one line",
    ),
    Refused("days", spec(delivery={"maxElapsed": "7d"}), "spec.delivery.maxElapsed", DURATION),
    Refused("no unit", spec(delivery={"maxElapsed": "30"}), "spec.delivery.maxElapsed", DURATION),
    Refused("no time at all", spec(delivery={"maxElapsed": "0s"}), "spec.delivery.maxElapsed", DURATION),
    Refused("a time that runs backwards", spec(delivery={"maxElapsed": "-1h"}), "spec.delivery.maxElapsed", DURATION),
    Refused("a number for a duration", spec(delivery={"maxElapsed": 30}), "spec.delivery.maxElapsed", "", typed=True),
    Refused("no sender", spec(delivery={"concurrency": 0}), "spec.delivery.concurrency", "", typed=True),
    Refused("nine senders", spec(delivery={"concurrency": 9}), "spec.delivery.concurrency", "", typed=True),
    Refused("half a sender", spec(delivery={"concurrency": 1.5}), "spec.delivery.concurrency", "", typed=True),
    Refused("no requests", spec(delivery={"requestsPerSecond": 0}), "spec.delivery.requestsPerSecond", "", typed=True),
    Refused("opting out at times", spec(policy={"optOut": "Maybe"}), "spec.policy.optOut", "", typed=True),
    Refused("a word for suspend", spec(suspend="yes"), "spec.suspend", "", typed=True),
    Refused("a text for a spec", "mlflow", "spec", "", typed=True),
    Refused("a list for a backend", {"backend": []}, "spec.backend", "", typed=True),
]  # fmt: skip

ACCEPTED = {
    "the smallest": spec(),
    "https with a path": spec("https://tracking.example.com/mlflow/team-a"),
    "an IPv4 address": spec("http://10.0.0.7:5000"),
    "an IPv6 address": spec("http://[fd00::1]:5000"),
    "an @ in the path": spec("http://mlflow/a@b"),
    "an address for people": spec(uiUri="https://mlflow.example.com/"),
    "a bearer token": spec(auth=BEARER),
    "user name and password": spec(auth={"basic": BASIC}),
    "a CA": spec(caBundleRef={"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}),
    "empty objects": spec(select={}, naming={}, capture={"files": {}}, redact={}, delivery={}, policy={}),
    "a selection": spec(
        select={
            "sources": ["Argo"],
            "runSelector": {
                "matchLabels": {"team": "churn", "empty": ""},
                "matchExpressions": [
                    {"key": "example.com/tier", "operator": "In", "values": ["gold", ""]},
                    {"key": "stage", "operator": "NotIn", "values": ["dev"]},
                    {"key": "a", "operator": "Exists"},
                    {"key": "b", "operator": "DoesNotExist", "values": []},
                ],
            },
            "pipelines": ["churn-*", "[ab]?", "My pipeline"],
        }
    ),
    "names": spec(
        naming={"experiment": "{namespace}/{pipeline}", "run": "{pipeline} · {run}", "metric": "{step}.{metric}"}
    ),
    "fixed names": spec(naming={"experiment": "churn", "layout": "Siblings"}),
    "all that is captured": spec(
        capture={
            "params": "None", "metrics": "All", "artifacts": "None", "logs": "Always", "stdout": "On",
            "files": {"include": ["*.metrics.json"], "exclude": ["train/*"]},
        }
    ),
    "stdout as YAML 1.1 reads a bare On": spec(capture={"stdout": True}),
    "stdout as YAML 1.1 reads a bare Off": spec(capture={"stdout": False}),
    "redaction": spec(redact={"additionalKeys": ["*_dsn", "conn-[0-9]"]}),
    "limits": spec(delivery={"concurrency": 8, "requestsPerSecond": 1000, "maxElapsed": "1h30m"}),
    "a duration of parts": spec(delivery={"maxElapsed": "1.5h"}),
    "a short duration": spec(delivery={"maxElapsed": "500ms"}),
    "an admin who insists": spec(policy={"optOut": "Forbidden"}, suspend=True),
}  # fmt: skip
