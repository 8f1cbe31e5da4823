import pytest
from tests.unit.shape_cases import in_file, items, point, record, step

from pipetrail.record import (
    Artifact,
    ConfusionMatrix,
    FromParameter,
    Html,
    Link,
    Markdown,
    Record,
    RocCurve,
    Table,
    to_json,
)
from pipetrail.redact import redact

SECRET = "CANARY-SECRET-7f3a"


@pytest.mark.parametrize(
    "name",
    [
        "password", "DB_PASSWORD", "dbPasswd", "api-key", "api_key", "apikey", "APIKey", "private-key", "aws-secret",
        "token", "api-token", "accessToken", "HF_TOKEN", "authtoken", "tokens", "credentials", "client.secret",
    ],
)  # fmt: skip
def test_the_value_of_a_secret_name_is_replaced(name):
    assert redact(record(params={name: SECRET})).params == {name: "<redacted>"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "512"), ("n_tokens", "15000000000000"), ("tokens", "4096"), ("token", "1.5e3"),
        ("tokenizer", "bert-base-uncased"), ("tokenizer_path", "/models/bert"), ("pad_token", "[PAD]"),
        ("max_new_tokens", "auto"), ("tokens_per_second", "fast"), ("tokenization", "bpe"), ("key", "42"),
        ("use_token", "true"), ("keyboard", "qwerty"), ("passes", "3"), ("monkey", "see"),
    ],
)  # fmt: skip
def test_words_of_machine_learning_are_no_secrets(name, value):
    assert redact(record(params={name: value})).params == {name: value}


def test_a_target_can_name_more_keys():
    made = record(params={"Licence": "ABCD-1234", "other": "ABCD-1234 again"})
    assert redact(made, additional_keys=["licen?e"]).params == {"Licence": "<redacted>", "other": "<redacted> again"}


def test_a_secret_is_scrubbed_wherever_it_occurs():
    made = record(
        step(
            "show",
            in_file(f"score/{SECRET}", 1.0, f"metrics/{SECRET}.json"),
            status="failed", message=f"could not log in with {SECRET}", params={"s": SECRET},
            outputs={"echoed": f"={SECRET}="}, result=SECRET, log_tail=f"CONNECTING {SECRET}\nbye",
            iteration=items((0, {"s": SECRET, "n": [SECRET]})),
            artifacts=(Artifact(name="a", uri=f"s3://b/{SECRET}/x", metadata={"k": {SECRET: [SECRET]}}),),
            figures=(Markdown(text=f"# {SECRET}"),),
        ),
        params={"api-token": SECRET}, tags={"owner": SECRET}, annotations={"note": f"{SECRET}!"},
        links=(Link(rel="x", href=f"https://h/?t={SECRET}"),), message=f"{SECRET}",
    )  # fmt: skip
    assert SECRET not in to_json(redact(made))


@pytest.mark.parametrize(
    "written",
    [
        'say "p\\"w<&> d/1"', "p%22w%3C%26%3E%20d%2F1", "p%22w%3C%26%3E+d%2F1", "cCJ3PCY+IGQvMQ==",
        'p\\"w\\u003c\\u0026\\u003e d/1',
    ],
)  # fmt: skip
def test_a_secret_is_found_as_json_urls_and_base64_write_it(written):
    made = redact(record(message=written, params={"password": 'p"w<&> d/1'}))
    assert "<redacted>" in (made.outcome.message or "")


def test_each_long_line_of_a_key_is_a_secret_of_its_own():
    key = "first line of the key\nsecond line of the key"
    made = redact(record(step("a", log_tail="> second line of the key"), params={"private-key": key}))
    assert made.steps[0].log_tail == "> <redacted>"


def test_a_log_that_begins_in_the_midst_of_a_secret_does_not_show_its_end():
    made = redact(record(step("a", log_tail="SECRET-7f3a\nrest"), params={"token": SECRET}))
    assert made.steps[0].log_tail == "<redacted>\nrest"


def test_a_secret_inside_a_json_parameter_goes_and_the_rest_stays():
    made = redact(record(message="hunter22 is wrong", params={"cfg": '{"lr": 0.1, "db": {"password": "hunter22"}}'}))
    assert made.params == {"cfg": '{"lr": 0.1, "db": {"password": "<redacted>"}}'}
    assert made.outcome.message == "<redacted> is wrong"


def test_common_words_and_small_numbers_are_replaced_in_their_own_place_only():
    params = {"password": "true", "secret": "none", "pin_secret": "42", "a-secret": "abc"}
    made = redact(record(message="true none 42 abc", params=params))
    assert set(made.params.values()) == {"<redacted>"}
    assert made.outcome.message == "true none 42 abc"


def test_a_secret_number_is_scrubbed_as_a_whole_number_and_its_points_are_dropped():
    made = record(
        step("a", in_file("x", 123456), in_file("y", 0.123456), message="123456 is not 7123456"),
        params={"password": "123456"},
    )
    redacted = redact(made).steps[0]
    assert [p.key for p in redacted.points] == ["y"]
    assert redacted.outcome.message == "<redacted> is not 7123456"


def test_a_point_whose_parameter_is_redacted_is_dropped():
    made = record(step("a", outputs={"api-key": "77", "accuracy": "0.5"}))
    assert [p.source for p in redact(made).steps[0].points] == [FromParameter(parameter="accuracy")]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key AKIAIOSFODNN7EXAMPLE used", "key <redacted> used"),
        ("Authorization: Bearer abc.DEF-123_x", "Authorization: Bearer <redacted>"),
        ("to postgres://ann:pw@db/x?y=1", "to postgres://<redacted>@db/x?y=1"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nb", "a\n<redacted>\nb"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "<redacted>"),
        ("--db-password=s3cr3t --epochs=3", "--db-password=<redacted> --epochs=3"),
        ('{"api_key": "abcd", "max_tokens": 512}', '{"api_key": "<redacted>", "max_tokens": 512}'),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "<redacted>"),
        ("epoch=1 loss=0.5 tokens=1024 n_tokens=7", "epoch=1 loss=0.5 tokens=1024 n_tokens=7"),
        ("see https://example.com/a:b and user@host", "see https://example.com/a:b and user@host"),
    ],
)
def test_well_known_shapes_are_scrubbed_from_text(text, left):
    assert redact(record(step("a", log_tail=text))).steps[0].log_tail == left


def test_what_a_manifest_declares_keeps_its_name():
    made = record(step("train"), params={"secret-name": "train", "token": "churn"})
    redacted = redact(made)
    assert (redacted.pipeline, redacted.steps[0].path) == ("churn", "train")


def test_a_record_without_secrets_is_the_same_record():
    made = record(step("a", in_file("nan", float("nan"))), params={"lr": "0.1"})
    assert redact(made).steps[0] is made.steps[0]


def test_values_known_from_elsewhere_are_scrubbed_too():
    assert redact(record(message="key labsecret!"), secrets=["labsecret"]).outcome.message == "key <redacted>!"


def test_hostile_depth_and_size_raise_nothing():
    deep = "[" * 5000 + "]" * 5000
    nested: object = "x"
    for _ in range(500):
        nested = [nested]
    made = record(
        step("a", point("p", 10**5000, FromParameter(parameter="p")), iteration=items((0, nested))),
        params={"cfg": deep, "more": '{"password": ' + "9" * 9000 + "}", "token": "\ud800 half", "password": "555555"},
    )
    assert isinstance(redact(made), Record)


def test_redacting_again_changes_nothing():
    made = redact(record(step("a", log_tail="x=1 Bearer abcdefgh token=abcd"), params={"token": SECRET}))
    assert redact(made) == made


# --- figures ----------------------------------------------------------------------------------------------------------


def redacted_figure(figure, **params):
    (one,) = redact(record(step("eval", figures=(figure,)), params={"password": SECRET, **params})).steps[0].figures
    return one


def test_secrets_are_scrubbed_from_all_texts_of_figures():
    matrix = ConfusionMatrix(labels=("ok", f"is {SECRET}"), rows=((1, 2), (3, 4)), name=SECRET)
    assert redacted_figure(matrix) == ConfusionMatrix(
        labels=("ok", "is <redacted>"), rows=((1, 2), (3, 4)), name="<redacted>"
    )
    table = Table(header=("who", "why"), rows=(("me", f"{SECRET}!"), ()))
    assert redacted_figure(table) == Table(header=("who", "why"), rows=(("me", "<redacted>!"), ()))
    assert redacted_figure(Html(text=f"<p>{SECRET}</p>")) == Html(text="<p><redacted></p>")


def test_secrets_are_scrubbed_as_html_writes_them():
    page = Html(text="<p>a&amp;b&lt;c&gt; and a&amp;b&lt;c&gt;</p>")
    assert redacted_figure(page, api_key="a&b<c>") == Html(text="<p><redacted> and <redacted></p>")


def test_a_column_of_a_secret_name_is_replaced_and_scrubbed_elsewhere():
    table = Table(header=("user", "api key", "tokens"), rows=(("ada", "hunter2222", "512"), ("bob",)))
    made = record(step("eval", figures=(table, Markdown(text="key hunter2222"))))
    assert redact(made).steps[0].figures == (
        Table(header=("user", "api key", "tokens"), rows=(("ada", "<redacted>", "512"), ("bob",))),
        Markdown(text="key <redacted>"),
    )


def test_numbers_of_figures_that_are_secrets_are_none_any_more():
    matrix = redacted_figure(ConfusionMatrix(labels=("a", "b"), rows=((987654, 1), (2, 3))), pin_secret="987654")
    assert repr(matrix.rows) == "((nan, 1), (2, 3))"
    curve = redacted_figure(RocCurve(fpr=(0, 1), tpr=(0, 1), threshold=(987654, 0)), pin_secret="987654")
    assert (repr(curve.threshold), curve.fpr) == ("(nan, 0)", (0, 1))


def test_figures_without_a_secret_are_the_same_objects():
    figure = ConfusionMatrix(labels=("a",), rows=((1,),))
    assert redacted_figure(figure, seed_secret="987654") is figure
