"""The fields of a task's parameters that a form has: their names, and whether a form can carry them at all."""

import json
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Json,
    PlainSerializer,
    PlainValidator,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    WrapSerializer,
    WrapValidator,
)
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from cl_ml_tools.common.schemas import BaseJobParams

_PATHS = frozenset(BaseJobParams.model_fields)
_LISTS = (Sequence, list, tuple, set, frozenset, deque)
_SERIALIZERS = (PlainSerializer, WrapSerializer)
_SEE_TEXT = (BeforeValidator, PlainValidator, WrapValidator)


def form_fields(schema: type[BaseJobParams]) -> dict[str, FieldInfo]:
    """All fields but the paths, by their names in the schema."""
    return {name: field for name, field in schema.model_fields.items() if name not in _PATHS}


def form_names(schema: type[BaseJobParams]) -> dict[str, str]:
    """What the fields are called in the form, which is what the schema reads them by; keys are the schema's names."""
    return {name: read_key(schema, name) or name for name in form_fields(schema)}


def read_key(schema: type[BaseJobParams], name: str) -> str | None:
    """The key that a value is read by, or None for a field that is read from within other values alone."""
    alias, config = schema.model_fields[name].validation_alias, schema.model_config
    if alias is None or config.get("validate_by_alias") is False:
        return name
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        if isinstance(choice, str):
            return choice
    return name if _reads_names(schema) else None


def stored_values(params: BaseJobParams) -> dict[str, Any]:
    """The parameters as JSON values, under the keys that the same schema reads them by again."""
    schema = type(params)
    keys = {}
    for name, field in schema.model_fields.items():
        written, read = field.serialization_alias or name, read_key(schema, name)
        if _reads_names(schema) and (written == name or name in _PATHS):
            # Whoever runs the job looks for the paths by these names, whatever the schema's alias generator makes.
            read = name
        if read is not None:
            keys[written] = read
    dumped = params.model_dump(mode="json", by_alias=True, round_trip=True)
    return {keys.get(key, key): value for key, value in dumped.items()}


def infinite_values(params: BaseJobParams) -> list[str]:
    """The keys of stored values that are, or hold, a number which JSON does not have: infinity, or none at all."""
    return [key for key, value in stored_values(params).items() if not _is_finite(value)]


def _is_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    except RecursionError:
        # Nested too deeply, which the repository tells.
        return True
    return True


def _reads_names(schema: type[BaseJobParams]) -> bool:
    config = schema.model_config
    return bool(config.get("populate_by_name") or config.get("validate_by_name"))


def is_list(field: FieldInfo) -> bool:
    """Whether a form repeats the field to send several values; so FastAPI has it too."""
    return any(map(_is_list, _field_choices(field)))


def is_made_of_text(field: FieldInfo) -> bool:
    """Whether one text is sent for what is more than that: JSON text, or a model that the schema's author reads."""
    return any(kind is Json or _is_model(kind) for kind in _field_choices(field))


def is_json_text(field: FieldInfo) -> bool:
    """Whether the field is ``Json[...]``, and no choice of such and others; FastAPI knows the first alone."""
    return _has_json(field.metadata)


def field_adapter(schema: type[BaseJobParams], field: FieldInfo) -> TypeAdapter[Any]:
    """What checks the field as the schema does, but for the validators that are the schema's own."""
    annotated: Any = Annotated
    kind = annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation or Any
    try:
        return TypeAdapter(kind, config=ConfigDict(**schema.model_config))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        # A model within has a config of its own.
        return TypeAdapter(kind)


def sees_text(schema: type[BaseJobParams], name: str) -> bool:
    """Whether code of the schema's author gets a field's value as it was sent, and may make anything of it."""
    decorators = schema.__pydantic_decorators__
    before = [
        found.info.fields for found in decorators.field_validators.values() if found.info.mode != "after"
    ]
    before += [found.info.fields for found in decorators.validators.values()]
    return (
        any(name in fields or "*" in fields for fields in before)
        or has_early_validator(schema)
        or any(isinstance(entry, _SEE_TEXT) for entry in schema.model_fields[name].metadata)
    )


def has_early_validator(schema: type[BaseJobParams]) -> bool:
    """Whether the schema looks at all values before, or around, the checks of its fields."""
    decorators = schema.__pydantic_decorators__
    modes = {found.info.mode for found in decorators.model_validators.values()}
    return bool(modes - {"after"} or decorators.root_validators)


def check_fields_can_be_sent(schema: type[BaseJobParams]) -> None:
    """Refuse a schema with a field that no form can carry, or whose value would not reach the worker.

    Raises:
        ValueError: the message names the schema and the field, and says what to do.
    """
    for name in sorted(_PATHS):
        if read_key(schema, name) != name and not _reads_names(schema):
            raise ValueError(
                f"{schema.__name__}.{name} is read as {read_key(schema, name)!r} alone, and whoever runs the job looks "
                f"for {name!r}: let the schema have model_config = ConfigDict(populate_by_name=True)"
            )
    for name, field in form_fields(schema).items():
        if fault := _loss(schema, name, field):
            raise ValueError(f"{schema.__name__}.{name} {fault}")
        if fault := _fault(schema, name, field):
            raise ValueError(
                f"{schema.__name__}.{name} {fault}. A form carries text, numbers, booleans, choices, dates, and "
                f"lists of them: split the field into such, make its type pydantic's Json[...], so that clients send "
                f"it as JSON text, or write a route of your own with submit_uploads"
            )


def _loss(schema: type[BaseJobParams], name: str, field: FieldInfo) -> str | None:
    """What happens to the field's value on its way through the store, if that can be told."""
    if read_key(schema, name) is None:
        return (
            "is read by an AliasPath, and a form has no values within others: give it an alias that is a name"
        )
    if field.exclude:
        return "is left out of what is stored, so the worker would not get it: remove exclude=True"
    written = {
        entry
        for found in schema.__pydantic_decorators__.field_serializers.values()
        for entry in found.info.fields
    }
    its_own = written & {name, "*"} or any(isinstance(entry, _SERIALIZERS) for entry in field.metadata)
    if not its_own and any(map(_is_secret, _parts(field.annotation))):
        return (
            "is a secret, which is stored as asterisks, so the worker would not get it: use str if everybody who "
            "sees the job may see it, or let the worker find it in its own settings"
        )
    return None


def _fault(schema: type[BaseJobParams], name: str, field: FieldInfo) -> str | None:
    if sees_text(schema, name):
        return None
    if any(map(_is_model, _field_choices(field))):
        return "is a model, which a form cannot carry"
    try:
        described = field_adapter(schema, field).json_schema(mode="validation")
    except PydanticUserError as error:
        return f"has a type that a form cannot carry ({str(error).splitlines()[0]})"
    found = set(_kinds(described, described.get("$defs", {})))
    if "object" in found:
        return "has a type that a form cannot carry"
    if "nested" in found:
        return "is a list of lists, which a form cannot carry"
    if "array" in found and not is_list(field):
        return "has a type that no field of a form can be repeated for: use list, set or tuple"
    return None


def _kinds(
    described: Mapping[str, Any], definitions: Mapping[str, Any], *, in_array: bool = False
) -> Iterator[str]:
    """The sorts of values that a JSON schema takes; ``nested`` is an array in an array."""
    if "$ref" in described:
        described = definitions[described["$ref"].rsplit("/", 1)[1]]
    for key in ("anyOf", "oneOf", "allOf"):
        for choice in described.get(key, ()):
            yield from _kinds(choice, definitions, in_array=in_array)
    if "enum" in described or "const" in described:
        return
    kind = described.get("type", "any")
    if kind == "array" and in_array:
        # Not looked into: types may hold themselves.
        yield "nested"
        return
    yield kind
    if kind == "array":
        for entry in (described.get("items"), *described.get("prefixItems", ())):
            if isinstance(entry, dict):
                yield from _kinds(entry, definitions, in_array=True)


def spelled_out(annotation: Any) -> Any:
    """The type behind names that were given to it with ``type``: FastAPI does not see lists behind these."""
    while hasattr(annotation, "__value__"):
        annotation = annotation.__value__
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(map(spelled_out, get_args(annotation)))]  # noqa: UP007 - known at run time only
    return annotation


def _field_choices(field: FieldInfo) -> Iterator[Any]:
    # Pydantic has taken an outer Annotated apart.
    return iter([Json]) if is_json_text(field) else _choices(field.annotation)


def _choices(annotation: Any) -> Iterator[Any]:
    """The types of which a value is one; ``Json`` for one that is sent as JSON text, whatever is in it."""
    annotation = spelled_out(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from [Json] if _has_json(get_args(annotation)[1:]) else _choices(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for choice in get_args(annotation):
            yield from _choices(choice)
    else:
        yield annotation


def _has_json(metadata: Sequence[Any]) -> bool:
    return any(entry is Json or type(entry) is Json for entry in metadata)


def _parts(annotation: Any) -> Iterator[Any]:
    annotation = spelled_out(annotation)
    yield get_origin(annotation) or annotation
    if get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _parts(part)


def _is_secret(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (Secret, SecretStr, SecretBytes))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_list(kind: Any) -> bool:
    found = get_origin(kind) or kind
    return isinstance(found, type) and issubclass(found, _LISTS) and not issubclass(found, str | bytes)
