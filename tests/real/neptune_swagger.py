"""The descriptions of its API that a Neptune server gives, as far as the vendor's client needs them.

The client builds its calls from these. Written by hand from what the client calls (targets.md §2.2): names of
operations, parameters and fields are the protocol's.
"""

from typing import Any

OK = {"200": {"description": "OK"}}


def _ok(schema: dict[str, Any]) -> dict[str, Any]:
    return {"200": {"description": "OK", "schema": schema}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/definitions/{name}"}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


TEXT, WHOLE, REAL, FLAG = (
    {"type": "string"},
    {"type": "integer", "format": "int64"},
    {"type": "number", "format": "double"},
    {"type": "boolean"},
)
TIME = {"type": "string", "format": "date-time"}


def _query(name: str, kind: dict[str, Any] = TEXT, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, **kind, **more}


def _body(name: str) -> dict[str, Any]:
    return {"name": name, "in": "body", "required": True, "schema": {}}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "type": "string"}


def _spec(paths: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    for name, definition in definitions.items():
        definition["title"] = name
    return {
        "swagger": "2.0", "info": {"title": "contract", "version": "1"}, "consumes": ["application/json"],
        "produces": ["application/json"], "paths": paths, "definitions": definitions,
    }  # fmt: skip


def _call(name: str, parameters: list[dict[str, Any]], responses: dict[str, Any] = OK) -> dict[str, Any]:
    return {"operationId": name, "tags": ["api"], "parameters": parameters, "responses": responses}


def backend() -> dict[str, Any]:
    """Login, projects, workspaces."""
    token = _header("X-Neptune-Api-Token")
    paging = [_query("limit", WHOLE), _query("organizationIdentifier"), _query("searchTerm"), _query("userRelation")]
    sorting = [_query(n, _list(TEXT), collectionFormat="multi") for n in ("sortBy", "sortDirection")]
    return _spec(
        {
            "/api/backend/v1/clients/config": {
                "get": _call("getClientConfig", [token, _query("alpha")], _ok(_ref("ClientConfig")))
            },
            "/api/backend/v1/authorization/oauth-token": {
                "get": _call("exchangeApiToken", [token], _ok(_ref("Tokens")))
            },
            "/api/backend/v1/projects/get": {
                "get": _call("getProject", [_query("projectIdentifier")], _ok(_ref("Project")))
            },
            "/api/backend/v1/projects": {"get": _call("listProjects", [*paging, *sorting], _ok(_ref("Projects")))},
            "/api/backend/v1/myOrganizations": {
                "get": _call("listOrganizations", [], _ok(_list(_ref("Organization"))))
            },
        },
        {
            "ClientConfig": _object(apiUrl=TEXT, applicationUrl=TEXT, pyLibVersions=_ref("Versions")),
            "Versions": _object(minRecommendedVersion=TEXT, minCompatibleVersion=TEXT, maxCompatibleVersion=TEXT),
            "Tokens": _object(accessToken=TEXT, refreshToken=TEXT, username=TEXT),
            "Project": _object(id=TEXT, name=TEXT, organizationName=TEXT, projectKey=TEXT, version=WHOLE),
            "Projects": _object(entries=_list(_ref("Project"))),
            "Organization": _object(id=TEXT, name=TEXT),
        },
    )


def leaderboard() -> dict[str, Any]:
    """Runs, their attributes, and the search."""
    run, of = _query("experimentId"), [_query("experimentId"), _query("attribute")]
    file = [_query("experimentIdentifier"), _query("attribute"), _query("ext"), _query("uploadId")]
    errors = _ok(_list(_ref("OperationError")))
    values = [*of, _query("limit", WHOLE), _query("offset", WHOLE)]
    kinds = _query("type", _list(TEXT), collectionFormat="multi")
    v1 = "/api/leaderboard/v1"
    upload = f"{v1}/attributes/storage/file/upload"
    return _spec(
        {
            f"{v1}/experiments": {
                "post": _call(
                    "createExperiment", [_body("experimentCreationParams"), _header("X-Neptune-CliVersion")],
                    _ok(_ref("Experiment")),
                ),
                "get": _call("getExperiment", [run], _ok(_ref("Experiment"))),
            },
            f"{v1}/experiments/trash": {
                "post": _call(
                    "trashExperiments", [_body("experimentIdentifiers"), _query("projectIdentifier")], _ok(_ref("Bulk"))
                )
            },
            f"{v1}/attributes": {"get": _call("getExperimentAttributes", [run], _ok(_ref("Attributes")))},
            f"{v1}/attributes/operations": {"post": _call("executeOperations", [run, _body("operations")], errors)},
            f"{v1}/attributes/ping": {"post": _call("ping", [run])},
            f"{v1}/attributes/series/float": {
                "get": _call("getFloatSeriesValues", values, _ok(_ref("FloatSeriesValues")))
            },
            f"{v1}/attributes/download": {"get": _call("downloadAttribute", of, _ok({"type": "file"}))},
            upload: {"post": _call("fileAtomUpload", file, errors)},
            f"{upload}/start": {"post": _call("fileAtomMultipartUploadStart", file, _ok(_ref("Upload")))},
            f"{upload}/part": {"post": _call("fileAtomMultipartUploadPart", file, errors)},
            f"{upload}/finish": {"post": _call("fileAtomMultipartUploadFinish", file, errors)},
            f"{v1}/leaderboard/entries/search": {
                "post": _call(
                    "searchLeaderboardEntries", [_body("params"), _query("projectIdentifier"), kinds],
                    _ok(_object(matchingItemCount=WHOLE, entries=_list(_object()))),
                )
            },
        },
        {
            "Experiment": _object(
                id=TEXT, shortId=TEXT, organizationName=TEXT, projectName=TEXT, trashed=FLAG, type=TEXT
            ),
            "Attributes": _object(attributes=_list(_ref("Attribute")), id=TEXT, trashed=FLAG),
            "Attribute": _object(
                name=TEXT, type=TEXT, stringProperties=_ref("Text"), intProperties=_ref("Whole"),
                floatProperties=_ref("Real"), boolProperties=_ref("Flag"), datetimeProperties=_ref("Time"),
                floatSeriesProperties=_ref("Series"), stringSetProperties=_ref("Set"), fileProperties=_ref("File"),
            ),
            "Text": _object(value=TEXT), "Whole": _object(value=WHOLE), "Real": _object(value=REAL),
            "Flag": _object(value=FLAG), "Time": _object(value=TIME), "Series": _object(last=REAL, lastStep=REAL),
            "Set": _object(values=_list(TEXT)), "File": _object(name=TEXT, ext=TEXT, size=WHOLE),
            "FloatSeriesValues": _object(totalItemCount=WHOLE, values=_list(_ref("Point"))),
            "Point": _object(value=REAL, step=REAL, timestampMillis=WHOLE),
            "OperationError": _object(errorDescription=TEXT, errorType=TEXT),
            "Upload": _object(uploadId=TEXT, errors=_list(_ref("OperationError"))),
            "Bulk": _object(errors=_list(_ref("OperationError")), updatedExperimentIdentifiers=_list(TEXT)),
        },
    )  # fmt: skip
