import pytest
from tests.unit.argo_cases import S3

from pipetrail.sources import AzureLocation, GcsLocation, S3Location, SecretKey, Unreadable
from pipetrail.sources.argo.locations import archive, locate

KEYS = {"access_key": SecretKey(name="s3", key="accessKey"), "secret_key": SecretKey(name="s3", key="secretKey")}


def test_a_key_alone_is_completed_from_the_repository():
    want = S3Location(endpoint="s3.example:9000", bucket="artifacts", key="r/m.tgz", insecure=True, **KEYS)
    assert locate({"s3": {"key": "r/m.tgz"}}, {"s3": S3}) == (want, "s3://artifacts/r/m.tgz")


def test_another_bucket_of_the_same_store_may_have_keys_of_its_own():
    own = {"key": "k", "bucket": "mine", "accessKeySecret": {"name": "o", "key": "a"}}
    location, uri = locate({"s3": own}, {"s3": S3})
    assert (uri, location.access_key, location.secret_key) == ("s3://mine/k", SecretKey(name="o", key="a"), None)


@pytest.mark.parametrize(
    ("artifact", "repository", "reason", "uri"),
    [
        ({"s3": {"key": "k", "endpoint": "169.254.169.254"}}, {"s3": S3}, "ForeignStore", "s3://artifacts/k"),
        ({"s3": {"key": "k"}}, {}, "RepositoryUnknown", None),
        ({"s3": {"key": "k", "bucket": "b"}}, {}, "RepositoryUnknown", "s3://b/k"),
        ({"s3": {}}, {"s3": S3}, "NoLocation", None),
        ({"name": "x"}, {"s3": S3}, "NoLocation", None),
        ({"http": {"url": "https://u:p@h/x?sig=1"}}, {"s3": S3}, "HttpArtifact", "https://h/x"),
        ({"git": {"repo": "git@h:x.git", "revision": "r"}}, {}, "GitArtifact", "git@h:x.git@r"),
        ({"oss": {"key": "k"}}, {"oss": {"bucket": "b"}}, "OssArtifact", "oss://b/k"),
        ({"hdfs": {"path": "/p"}}, {}, "HdfsArtifact", "hdfs:/p"),
        ({"raw": {"data": "secret"}}, {}, "RawArtifact", None),
        ({"plugin": {"name": "p", "key": "k"}}, {}, "PluginArtifact", "plugin://p/k"),
        ({"azure": {"blob": "b", "container": "c", "endpoint": "https://a"}}, {}, "RepositoryUnknown", "https://a/c/b"),
        ({"gcs": {"key": "k"}}, {}, "NoLocation", None),
    ],
)
def test_what_is_not_in_the_runs_own_repository_is_an_address_and_never_fetched(artifact, repository, reason, uri):
    location, address = locate(artifact, repository)
    assert isinstance(location, Unreadable)
    assert (location.reason, address) == (reason, uri)


def test_google_and_azure_stores_are_completed_the_same_way():
    gcs = {"gcs": {"bucket": "b", "serviceAccountKeySecret": {"name": "g", "key": "j"}}}
    azure = {"azure": {"endpoint": "https://a.example/", "container": "c"}}
    assert locate({"gcs": {"key": "k"}}, gcs) == (
        GcsLocation(bucket="b", key="k", service_account_key=SecretKey(name="g", key="j")), "gs://b/k",
    )  # fmt: skip
    assert locate({"azure": {"blob": "x"}}, azure) == (
        AzureLocation(endpoint="https://a.example/", container="c", key="x"), "https://a.example/c/x",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("artifact", "uri", "want"),
    [
        ({"archive": {"none": {}}}, "s3://b/m.tgz", "none"),
        ({"archive": {"zip": {}}}, "s3://b/m", "zip"),
        ({}, "s3://b/m.tgz", "tar"),
        ({}, "s3://b/m.zip", "zip"),
        ({}, "s3://b/m.json", "none"),
        ({}, None, None),
    ],
)
def test_how_an_artifact_is_packed_is_told_by_its_field_else_by_its_suffix(artifact, uri, want):
    assert archive(artifact, uri) == want
