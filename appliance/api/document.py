"""The OpenAPI document: what ninja derives, and what holds for every route."""

import re
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest
from django.urls import reverse
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger
from ninja.openapi.schema import REF_TEMPLATE

from appliance.api import problems
from appliance.api.auth import PURPOSE_HEADER
from appliance.api.ingest import MAX_FILES
from appliance.api.search import QueryIn
from retrieval.models import Purpose

DESCRIPTION: Final = """Search and hand in images, as a program. Every request shows a token
(`Authorization: Bearer cloister_…`) and is made for a purpose of use. What a token does not open is
answered like what is not there. Every answer is on the log before it is given."""

EVERYWHERE: Final = (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503)

PURPOSE_PARAMETER: Final = {
    "in": "header",
    "name": PURPOSE_HEADER,
    "description": "HL7 v3 PurposeOfUse. May be left out where the token is for one only.",
    "required": False,
    "schema": {"type": "string", "enum": list(Purpose.values)},
}


class Docs(Swagger):
    """The document to be read and tried; its scripts and styles are served from here."""

    def get_openapi_url(self, api: NinjaAPI, path_params: dict[str, Any]) -> str:
        return reverse("api:openapi")


class CloisterAPI(NinjaAPI):
    def get_openapi_schema(self, **options: Any) -> Any:
        document = super().get_openapi_schema(**options)
        document["components"]["schemas"]["Problem"] = problems.SCHEMA
        answers = {str(status): _problem_answer(status) for status in EVERYWHERE}
        for operations in document["paths"].values():
            for operation in operations.values():
                found = {str(status): told for status, told in operation["responses"].items()}
                operation["responses"] = found | answers
                operation["parameters"] = [*operation["parameters"], PURPOSE_PARAMETER]
        _describe_query_in_form(document)
        _bound_files(document)
        return document

    def body_types(self, request: HttpRequest) -> set[str]:
        """The media types of the bodies that this route takes by this method; none takes none."""
        match = request.resolver_match
        route = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", match.route) if match else ""
        operation = self._paths().get(f"/{route}", {}).get((request.method or "").lower(), {})
        return set(operation.get("requestBody", {}).get("content", {}))

    def _paths(self) -> dict[str, Any]:
        if not hasattr(self, "_described"):
            self._described: dict[str, Any] = self.get_openapi_schema()["paths"]
        return self._described


def _describe_query_in_form(document: Any) -> None:
    """ninja sees text where the form has a query; a form's object is sent as JSON anyway."""
    described = QueryIn.model_json_schema(ref_template=REF_TEMPLATE)
    schemas = document["components"]["schemas"]
    schemas |= described.pop("$defs") | {"QueryIn": described}
    (operation,) = (
        operations["post"]
        for path, operations in document["paths"].items()
        if path.endswith("/image")
    )
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"]["query"] = {"$ref": REF_TEMPLATE.format(model="QueryIn")}


def _bound_files(document: Any) -> None:
    """ninja does not take a list of files whose length is bounded by its type."""
    (operation,) = (
        operations["post"]
        for path, operations in document["paths"].items()
        if path.endswith("/files") and "post" in operations
    )
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"]["files"] |= {"minItems": 1, "maxItems": MAX_FILES}


def _problem_answer(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {problems.MEDIA_TYPE: {"schema": schema}},
    }
