"""A task's parameters as the fields of an upload form."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, TypeVar

import annotated_types
from fastapi import File, Form, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from starlette.datastructures import UploadFile as ReceivedFile

from cl_ml_tools.common.output_planning import in_rounds, planned_outputs
from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.submission.form_fields import (
    check_fields_can_be_sent,
    field_adapter,
    form_fields,
    form_names,
    has_early_validator,
    infinite_values,
    is_json_text,
    is_list,
    is_made_of_text,
    spelled_out,
)

ParamsT = TypeVar("ParamsT", bound=BaseJobParams)

FROM_JOB = "from_job"
"""The field that names a job whose outputs are inputs of the new one."""

FROM_OUTPUT = "from_output"
"""The field, which may be repeated, that says which of its outputs."""

MAX_UNKNOWN_FIELDS = 20
"""How many fields that the form does not have are told to whoever sent them."""

_TAKEN = frozenset({"file", "priority", FROM_JOB, FROM_OUTPUT})


def form_signature(schema: type[BaseJobParams], max_files: int) -> inspect.Signature:
    """Make the signature of an endpoint whose form has the fields of ``schema`` and those that each form has.

    These are ``file``, ``from_job``, ``from_output`` and ``priority``.

    FastAPI reads the form by it and describes it in OpenAPI, with the constraints, defaults and descriptions that the
    schema has. The values arrive as they were sent: `validated` checks them, and `checked_files` the list that
    ``file`` is.

    Args:
        schema: the task's parameters.
        max_files: how many files one job takes.

    Raises:
        ValueError: a field of the schema is named like one of the form's own, or no form can carry it.
    """
    check_fields_can_be_sent(schema)
    names = form_names(schema)
    if clash := sorted(_TAKEN & set(names.values())):
        raise ValueError(
            f"{schema.__name__}.{clash[0]} is a name that each upload form has: rename the field"
        )
    files = File(
        description="The file to process. Repeat the field to process several in one job. Needed unless `from_job` is "
        "given.",
        json_schema_extra={"minItems": 1, "maxItems": max_files},
    )
    uploads = Annotated[list[UploadFile], WrapValidator(_files_as_sent), files]
    earlier = Form(
        description="A completed job of the same user: its outputs are the inputs, before any `file`.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,128}$"},
    )
    outputs = Form(
        description="An output of `from_job`, by the name in the list of its outputs. Repeat the field for several, in "
        "this order. Left out, all are taken.",
    )
    urgency = Annotated[int, Form(ge=0, le=10, description="0 to 10, higher is more urgent.")]
    return inspect.Signature(
        [
            _parameter("file", uploads, default=None),
            _parameter(FROM_JOB, Annotated[str | None, WrapValidator(_as_sent), earlier], default=None),
            _parameter(FROM_OUTPUT, Annotated[list[str], WrapValidator(_as_sent), outputs], default=None),
            *(_form_parameter(name, field, names[name]) for name, field in form_fields(schema).items()),
            _parameter("priority", urgency, default=5),
        ]
    )


def checked_files(sent: Sequence[object]) -> list[UploadFile]:
    """Return what the form carried as ``file`` when all of it is files.

    Raises:
        RequestValidationError: FastAPI answers it with 422, in its usual shape.
    """
    for value in sent:
        if not isinstance(value, ReceivedFile):
            raise _refused_files("A file is needed here; text, or a file without a name, was sent.", value)
    return list(sent)  # type: ignore[arg-type]  # FastAPI's class only adds its own annotations


def too_many_files(most: int) -> RequestValidationError:
    """The refusal of an upload with more files than one job takes."""
    return _refused_files(f"One job takes at most {most} files; more were sent.", most + 1)


@cache
def known_names(schema: type[BaseJobParams]) -> frozenset[str]:
    """What the form's fields are called: those of the schema, and those that each form has."""
    return _TAKEN | set(form_names(schema).values())


def unknown_field_faults(schema: type[BaseJobParams], sent: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """The refusal of fields that the form does not have, if the schema's ``extra`` is ``forbid``.

    Args:
        schema: the task's parameters.
        sent: the first value of each such field, None for a file.
    """
    if schema.model_config.get("extra") != "forbid":
        return []
    known = sorted(known_names(schema))
    faults = []
    for name, value in sent.items():
        near = get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        message = f"There is no such field{meant}"
        faults.append({"type": "extra_forbidden", "loc": ("body", name), "msg": message, "input": value})
    return faults


def check_may_be_file(schema: type[BaseJobParams], name: str) -> None:
    """Refuse a file that is sent as a field of text.

    Raises:
        RequestValidationError: FastAPI answers it with 422, in its usual shape.
    """
    if name in known_names(schema) - {"file"}:
        message = "Text is needed here; a file was sent."
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("body", name), "msg": message, "input": None}]
        )


def early_faults(schema: type[BaseJobParams], sent: Sequence[tuple[str, object]]) -> list[dict[str, Any]]:
    """What is wrong with fields that have arrived, as far as their types and bounds alone can tell.

    Fields with validators of their own are left to `validated`, which runs these once. So are all fields of a schema
    that looks at the values first: it may make others of them.
    """
    arrived: dict[str, list[object]] = {}
    for name, value in sent:
        arrived.setdefault(name, []).append(value)
    faults: list[dict[str, Any]] = []
    for name, adapter in _plain_adapters(schema).items():
        if name in arrived:
            adapter_, is_list = adapter
            value = arrived[name] if is_list else arrived[name][-1]
            try:
                adapter_.validate_python(value, strict=False)
            except ValidationError as error:
                for entry in error.errors(include_url=False):
                    faults.append({**entry, "loc": ("body", name, *entry["loc"])})
    return faults


@cache
def _plain_adapters(schema: type[BaseJobParams]) -> dict[str, tuple[TypeAdapter[Any], bool]]:
    """By the form's names: what checks a field without any validator that its author wrote, and if it is a list."""
    decorators = schema.__pydantic_decorators__
    own = {name for decorator in decorators.field_validators.values() for name in decorator.info.fields}
    own |= {name for decorator in decorators.validators.values() for name in decorator.info.fields}
    adapters: dict[str, tuple[TypeAdapter[Any], bool]] = {
        "priority": (TypeAdapter(Annotated[int, annotated_types.Interval(ge=0, le=10)]), False)
    }
    if has_early_validator(schema):
        return adapters
    names = form_names(schema)
    for name, field in form_fields(schema).items():
        plain = all(not hasattr(constraint, "__get_pydantic_core_schema__") for constraint in field.metadata)
        if name not in own and "*" not in own and plain:
            adapters[names[name]] = (field_adapter(schema, field), is_list(field))
    return adapters


def validated(schema: type[ParamsT], values: Mapping[str, Any], file_names: Sequence[str]) -> ParamsT:
    """Check what a form carried against ``schema``; the paths in the answer are stand-ins.

    Args:
        schema: the task's parameters.
        values: the form's values, by the names of the schema's fields.
        file_names: the names of the uploads, all different.

    Raises:
        RequestValidationError: FastAPI answers it with 422, in its usual shape.
    """
    # A form cannot send None: such a value is a field that was left out.
    given = {sent: values[name] for name, sent in form_names(schema).items() if values[name] is not None}
    inputs = [f"/input/{name}" for name in file_names]
    # The schema is asked how many outputs it expects once its fields are valid, and before its own validators of the
    # whole see the paths.
    token = planned_outputs.set(lambda count: _stand_ins(inputs, count))
    try:
        # A form carries text only, so a schema that is strict elsewhere cannot be it here.
        params = schema.model_validate({**given, "input_paths": inputs}, strict=False)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        for entry in errors:
            if not entry["loc"]:
                entry["input"] = given
        raise RequestValidationError(
            [{**entry, "loc": ("body", *entry["loc"])} for entry in errors], body=given
        ) from error
    finally:
        planned_outputs.reset(token)
    if infinite := infinite_values(params):
        # In pydantic's words for `allow_inf_nan=False`. The number itself could not be in the answer.
        fault = {"type": "finite_number", "msg": "Input should be a finite number"}
        raise RequestValidationError(
            [{**fault, "loc": ("body", name), "input": given.get(name)} for name in infinite], body=given
        )
    return params


def _stand_ins(inputs: Sequence[str], count: int) -> list[str]:
    names = [name.rsplit("/", 1)[1] for name in in_rounds(inputs, count)]
    return [f"/output/{number}/{name}" for number, name in enumerate(names)]


def _refused_files(message: str, sent: object) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": ("body", "file"), "msg": message, "input": sent}]
    )


def _form_parameter(name: str, field: FieldInfo, sent_as: str) -> inspect.Parameter:
    form = Form(
        alias=sent_as,
        title=field.title,
        description=field.description,
        examples=field.examples,
        deprecated=field.deprecated,
        json_schema_extra=field.json_schema_extra if isinstance(field.json_schema_extra, dict) else None,
    )
    annotated: Any = Annotated  # what stands between its brackets is known at run time only
    kind = (spelled_out(field.annotation), *field.metadata)
    made_of_text = is_made_of_text(field)
    if made_of_text and not is_json_text(field):
        # FastAPI would read a model's own fields from the form, not the text that it is made of.
        kind = (list[str] if is_list(field) else str,)
    annotation = annotated[(*kind, WrapValidator(_as_sent), form)]
    if field.is_required():
        return _parameter(name, annotation)
    # A default that is no text could not be read as such; where there is none, the schema takes its own.
    has_default = field.default_factory is None and not made_of_text
    return _parameter(name, annotation, default=field.default if has_default else None)


def _as_sent(value: Any, _validate: Callable[[Any], Any]) -> Any:
    # The field's own validators would run a second time in the schema, where all of its rules are.
    return value


def _files_as_sent(value: Any, _validate: Callable[[Any], Any]) -> Any:
    if None in value:
        # In FastAPI's own words, and told together with what else is wrong.
        raise PydanticCustomError("missing", "Field required")
    return value


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
