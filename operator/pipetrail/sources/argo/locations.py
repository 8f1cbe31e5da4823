"""Where artifacts lie: what a node says, merged with the run's own artifact repository (sources.md §1.11).

With a default repository a node's artifact is a key alone. We fetch only from the store that the repository names:
an address that a user wrote elsewhere is a link, never a request of ours.
"""

from typing import Final, Literal
from urllib.parse import urlsplit

from pipetrail.sources import AzureLocation, GcsLocation, Location, S3Location, SecretKey, Unreadable
from pipetrail.sources.argo.body import Json, obj, word

Archive = Literal["none", "tar", "zip"]

_STORES: Final = ("s3", "gcs", "azure", "oss", "hdfs", "artifactory", "http", "git", "raw", "plugin")


def repository(status: Json) -> Json:
    """The artifact repository that the controller resolved for this run; empty where it did not say."""
    return obj(status, "artifactRepositoryRef", "artifactRepository")


def locate(artifact: Json, repository: Json) -> tuple[Location, str | None]:
    """Where an artifact lies, and its address for people."""
    store = next((s for s in _STORES if isinstance(artifact.get(s), dict)), None)
    if store is None:
        return Unreadable(reason="NoLocation", message="the node names no place for it"), None
    own, default = obj(artifact, store), obj(repository, store)
    match store:
        case "s3":
            return _s3(own, default)
        case "gcs":
            return _gcs(own, default)
        case "azure":
            return _azure(own, default)
    uri = _address(store, own, default)
    said = f"artifacts of kind {store} are recorded by address and not read"
    return Unreadable(reason=f"{store.capitalize()}Artifact", message=said), uri


def archive(artifact: Json, uri: str | None) -> Archive | None:
    """How it is packed. Argo does not always repeat the field, and its default is a tar.gz: then the suffix tells."""
    given = obj(artifact, "archive")
    for name in ("none", "tar", "zip"):
        if name in given:
            return name
    if uri is None:
        return None
    return "tar" if uri.endswith((".tgz", ".tar.gz")) else "zip" if uri.endswith(".zip") else "none"


def _s3(own: Json, default: Json) -> tuple[Location, str | None]:
    key = word(own.get("key"))
    bucket = word(own.get("bucket")) or word(default.get("bucket"))
    uri = f"s3://{bucket}/{key}" if bucket and key else None
    if not default:
        return _unknown("s3"), uri
    if not uri:
        return Unreadable(reason="NoLocation", message="bucket or key is missing"), None
    endpoint = word(own.get("endpoint"))
    if endpoint and endpoint != word(default.get("endpoint")):
        said = f"it lies in another store ({_host(endpoint)}) than the run's artifact repository names"
        return Unreadable(reason="ForeignStore", message=said), uri
    # One store, one set of credentials: a bucket of the user's own may come with keys of its own.
    given = own if obj(own, "accessKeySecret") else default
    return S3Location(
        endpoint=word(default.get("endpoint")) or None,
        bucket=bucket,
        key=key,
        region=word(own.get("region")) or word(default.get("region")) or None,
        insecure=default.get("insecure") is True,
        access_key=_secret(given, "accessKeySecret"),
        secret_key=_secret(given, "secretKeySecret"),
        session_token=_secret(given, "sessionTokenSecret"),
        ca=_secret(default, "caSecret"),
    ), uri


def _gcs(own: Json, default: Json) -> tuple[Location, str | None]:
    key = word(own.get("key"))
    bucket = word(own.get("bucket")) or word(default.get("bucket"))
    if not (bucket and key):
        return Unreadable(reason="NoLocation", message="bucket or key is missing"), None
    uri = f"gs://{bucket}/{key}"
    if not default:
        return _unknown("gcs"), uri
    given = own if obj(own, "serviceAccountKeySecret") else default
    return GcsLocation(bucket=bucket, key=key, service_account_key=_secret(given, "serviceAccountKeySecret")), uri


def _azure(own: Json, default: Json) -> tuple[Location, str | None]:
    key = word(own.get("blob"))
    container = word(own.get("container")) or word(default.get("container"))
    endpoint = word(own.get("endpoint")) or word(default.get("endpoint"))
    if not (key and container and endpoint):
        return Unreadable(reason="NoLocation", message="endpoint, container or blob is missing"), None
    uri = f"{_clean(endpoint).rstrip('/')}/{container}/{key}"
    if not default:
        return _unknown("azure"), uri
    if endpoint != word(default.get("endpoint")):
        said = f"it lies in another store ({_host(endpoint)}) than the run's artifact repository names"
        return Unreadable(reason="ForeignStore", message=said), uri
    given = own if obj(own, "accountKeySecret") else default
    return AzureLocation(
        endpoint=endpoint, container=container, key=key, account_key=_secret(given, "accountKeySecret")
    ), uri


def _unknown(store: str) -> Unreadable:
    said = f"the Workflow does not say in which {store} store its artifacts lie (status.artifactRepositoryRef)"
    return Unreadable(reason="RepositoryUnknown", message=said)


def _address(store: str, own: Json, default: Json) -> str | None:
    key = word(own.get("key"))
    match store:
        case "oss":
            bucket = word(own.get("bucket")) or word(default.get("bucket"))
            return f"oss://{bucket}/{key}" if bucket and key else None
        case "hdfs":
            return f"hdfs:{word(own.get('path'))}" if own.get("path") else None
        case "http" | "artifactory":
            return _clean(word(own.get("url"))) or None
        case "git":
            return git(own)
        case "plugin":
            return f"plugin://{word(own.get('name'))}/{key}" if key else None
    return None


def git(own: Json) -> str | None:
    """A git artifact's repository and revision."""
    repo, revision = _clean(word(own.get("repo"))), word(own.get("revision")) or word(own.get("branch"))
    return f"{repo}@{revision}" if repo and revision else repo or None


def _clean(url: str) -> str:
    """A URL without what may be a credential: user, query and fragment."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _host(endpoint: str) -> str:
    return _clean(endpoint if "://" in endpoint else f"https://{endpoint}").partition("://")[2][:200]


def _secret(given: Json, key: str) -> SecretKey | None:
    name, entry = word(obj(given, key).get("name")), word(obj(given, key).get("key"))
    return SecretKey(name=name, key=entry) if name and entry else None
