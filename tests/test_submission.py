import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import anyio
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, UploadFile
from fastapi.testclient import TestClient
from plain_implementations import MemoryRepository
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    Secret,
    SecretBytes,
    SecretStr,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)
from typing_extensions import TypeAliasType, TypedDict

from cl_ml_tools import BaseJobParams, FileStorage, Job, JobRepository
from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.errors import (
    DuplicateJobError,
    InvalidJobError,
    InvalidJobIdError,
    StorageFullError,
    StoreNotAskedError,
    StoreUnavailableError,
    SubmissionTooLateError,
)
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.submission import creator_of, submit_uploads, upload_route


class Corner(StrEnum):
    TOP = "top"
    BOTTOM = "bottom"


class StampParams(BaseJobParams):
    text: str = Field(min_length=1, max_length=20, description="What to stamp.")
    corner: Corner = Corner.BOTTOM
    opacity: float = Field(default=0.5, ge=0, le=1)
    colours: list[int] = Field(default_factory=lambda: [0, 0, 0])
    shadow: str | None = None

    @model_validator(mode="after")
    def _shadow_is_seen(self) -> Self:
        if self.shadow is not None and self.opacity == 1:
            raise ValueError("shadow cannot be seen when opacity is 1")
        return self


STAMP = upload_route("stamp", StampParams, output_name=lambda name, params: f"{params.corner}_{name}")
PICTURE = {"file": ("cat.png", b"not looked at")}


def no_user() -> None:
    return None


def client_of(
    repository: JobRepository,
    storage: FileStorage,
    user: Callable[..., Any] = no_user,
    factory: Callable[..., Any] = STAMP,
) -> TestClient:
    app = FastAPI()
    app.include_router(factory(repository, storage, user))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path, max_file_bytes=1000)


@pytest.fixture
def client(repository: MemoryRepository, storage: LocalFileStorage) -> Iterator[TestClient]:
    with client_of(repository, storage) as client:
        yield client


def kept_files(storage: LocalFileStorage) -> list[Path]:
    return [path for path in storage.base_dir.rglob("*") if path.is_file()]


def kept_jobs(storage: LocalFileStorage) -> list[Path]:
    return list((storage.base_dir / "jobs").glob("*"))


# --- what is stored


def test_an_upload_becomes_a_job(
    client: TestClient, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    form = {"text": "mine", "corner": "top", "opacity": "0.25", "colours": ["1", "2"], "priority": "9"}
    answer = client.post("/jobs/stamp", data=form, files=PICTURE)
    job = repository.only_job
    assert answer.status_code == 200
    assert answer.json() == {"job_id": job.job_id, "status": "queued"}
    assert (job.task_type, job.status, repository.priorities[job.job_id]) == ("stamp", "queued", 9)
    assert job.params == {
        "input_paths": [str(storage.get_input_path(job.job_id) / "cat.png")],
        "output_paths": [str(storage.get_output_path(job.job_id) / "top_cat.png")],
        "text": "mine",
        "corner": "top",
        "opacity": 0.25,
        "colours": [1, 2],
        "shadow": None,
    }
    assert Path(job.params["input_paths"][0]).read_bytes() == b"not looked at"
    assert StampParams.model_validate(job.params).corner is Corner.TOP


def test_fields_left_out_have_the_schemas_defaults(client: TestClient, repository: MemoryRepository) -> None:
    assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == 200
    params = repository.only_job.params
    assert (params["corner"], params["opacity"], params["colours"]) == ("bottom", 0.5, [0, 0, 0])
    assert repository.priorities[repository.only_job.job_id] == 5


def test_an_evil_file_name_is_made_safe_before_any_storage_sees_it(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    class Trusting(LocalFileStorage):
        async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> Any:
            path = self.get_input_path(job_id) / str(filename)
            path.write_bytes(await file.read())
            return {"filename": filename, "path": str(path)}

    with client_of(repository, Trusting(tmp_path / "media")) as client:
        file = {"file": ("../../../../evil.png", b"x")}
        assert client.post("/jobs/stamp", data={"text": "x"}, files=file).status_code == 200
    params = repository.only_job.params
    assert Path(params["input_paths"][0]).name == "evil.png"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["evil.png"]
    assert not (tmp_path / "evil.png").exists()


def test_the_output_is_named_after_the_name_that_the_storage_chose(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    class Renaming(LocalFileStorage):
        async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> Any:
            return await super().save_input_file(job_id, f"0001-{filename}", file)

    with client_of(repository, Renaming(tmp_path)) as client:
        client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE)
    assert Path(repository.only_job.params["output_paths"][0]).name == "bottom_0001-cat.png"


def test_a_parameter_in_the_outputs_name_cannot_lead_out_of_the_directory(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    factory = upload_route("stamp", StampParams, output_name=lambda name, params: f"{params.text}{name}")
    with client_of(repository, storage, factory=factory) as client:
        client.post("/jobs/stamp", data={"text": "../../../"}, files=PICTURE)
    job = repository.only_job
    assert Path(job.params["output_paths"][0]).parent == storage.get_output_path(job.job_id)


def threads_of(repository: MemoryRepository, storage: FileStorage) -> tuple[set[str], set[str]]:
    """The threads of the event loop and of the calls of the repository, in one upload."""
    loops: set[str] = set()

    async def user() -> None:
        loops.add(threading.current_thread().name)

    with client_of(repository, storage, user) as client:
        assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == 200
    return loops, repository.threads


class SharedRepository(MemoryRepository):
    """As one that keeps leases, and thus is made for many threads."""

    leases = None

    def claim_next_job(self, *given: Any, **options: Any) -> None:
        return None

    def send(self, dispatch: Dispatch) -> bool:
        return False


def test_a_repository_for_many_threads_is_called_off_the_event_loop(storage: LocalFileStorage) -> None:
    loops, callers = threads_of(SharedRepository(), storage)
    assert len(loops) == len(callers) == 1
    assert loops != callers


def test_any_other_repository_is_called_in_the_event_loops_thread_as_in_0_2_0(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    loops, callers = threads_of(repository, storage)
    assert loops == callers


# --- what is refused


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": "x" * 21}, "text"),
        ({"text": "x", "opacity": "1.5"}, "opacity"),
        ({"text": "x", "opacity": "much"}, "opacity"),
        ({"text": "x", "corner": "middle"}, "corner"),
        ({"text": "x", "colours": ["1", "red"]}, "colours"),
        ({"text": "x", "priority": "11"}, "priority"),
        ({"text": "x", "priority": "-1"}, "priority"),
    ],
)
def test_a_bad_field_is_named_and_nothing_is_stored(
    form: dict[str, Any],
    field: str,
    client: TestClient,
    repository: MemoryRepository,
    storage: LocalFileStorage,
) -> None:
    answer = client.post("/jobs/stamp", data=form, files=PICTURE)
    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert error["loc"][:2] == ["body", field]
    assert set(error) >= {"type", "loc", "msg", "input"}
    assert not repository.jobs
    assert not kept_jobs(storage)


def test_all_bad_values_are_told_at_once(client: TestClient) -> None:
    form = {"text": "x" * 21, "opacity": "2", "corner": "middle"}
    answer = client.post("/jobs/stamp", data=form, files=PICTURE)
    told = {tuple(error["loc"]) for error in answer.json()["detail"]}
    assert told == {("body", "text"), ("body", "opacity"), ("body", "corner")}


def test_what_the_schema_says_about_several_fields_is_a_422_before_anything_is_stored(
    client: TestClient, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    form = {"text": "x", "opacity": "1", "shadow": "dark"}
    answer = client.post("/jobs/stamp", data=form, files=PICTURE)
    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert error["loc"] == ["body"]
    assert "shadow cannot be seen when opacity is 1" in error["msg"]
    assert error["input"] == {**form, "corner": "bottom"}
    assert not repository.jobs
    assert not kept_jobs(storage)


@pytest.mark.parametrize("files", [None, {"file": ("", b"")}])
def test_a_missing_file_is_a_422(files: Any, client: TestClient) -> None:
    answer = client.post("/jobs/stamp", data={"text": "x"}, files=files)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["detail"]] == [["body", "file"]]


def test_the_schemas_own_validators_see_what_was_sent_and_run_once(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    calls = []

    def halved(value: Any) -> Any:
        calls.append(value)
        return int(value) // 2

    class Params(BaseJobParams):
        model_config = ConfigDict(strict=True)

        size: Annotated[int, BeforeValidator(halved)]
        times: int
        names: list[str] = Field(default_factory=list)

        @field_validator("names", mode="before")
        @classmethod
        def _split(cls, value: list[str]) -> list[str]:
            return [name for entry in value for name in entry.split(",")]

    factory = upload_route("own", Params, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        client.post("/jobs/own", data={"size": "8", "times": "3", "names": "a,b"}, files=PICTURE)
    assert calls == ["8"]
    params = repository.only_job.params
    assert (params["size"], params["times"], params["names"]) == (4, 3, ["a", "b"])


def test_a_field_with_an_alias_is_sent_and_stored_under_it(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Params(BaseJobParams):
        from_: int = Field(alias="from")

    factory = upload_route("aliased", Params, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        assert client.post("/jobs/aliased", data={"from": "3"}, files=PICTURE).status_code == 200
        answer = client.post("/jobs/aliased", data={"from": "x"}, files=PICTURE)
    assert answer.json()["detail"][0]["loc"] == ["body", "from"]
    assert Params.model_validate(repository.only_job.params).from_ == 3


@pytest.mark.parametrize(
    ("field", "config", "sent_as"),
    [
        (Field(validation_alias="num"), {}, "num"),
        (Field(serialization_alias="out"), {}, "value"),
        (Field(alias="num", serialization_alias="out"), {}, "num"),
        (Field(validation_alias=AliasChoices(AliasPath("deep", "num"), "num", "n")), {}, "num"),
        (Field(validation_alias=AliasPath("deep", "num")), {"populate_by_name": True}, "value"),
        (Field(validation_alias="num"), {"populate_by_name": True}, "num"),
        (Field(alias="num"), {"validate_by_alias": False, "validate_by_name": True}, "value"),
        (Field(), {"alias_generator": str.upper, "populate_by_name": True}, "VALUE"),
    ],
)
def test_the_worker_reads_what_was_sent_whatever_the_aliases(
    field: Any, config: ConfigDict, sent_as: str, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Params(BaseJobParams):
        model_config = config

        value: int = field

    factory = upload_route("aliased", Params, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        answer = client.post("/jobs/aliased", data={sent_as: "3"}, files=PICTURE)
        assert answer.status_code == 200, answer.text
        late = client.post("/jobs/aliased", files=[("file", ("a", b"x")), (sent_as, (None, b"x"))])
    assert [error["loc"] for error in late.json()["detail"]] == [["body", sent_as]]
    stored = repository.only_job.params
    assert {"input_paths", "output_paths"} < set(stored)
    params = Params.model_validate(stored)
    assert (params.value, len(params.input_paths), len(params.output_paths)) == (3, 1, 1)


def test_paths_that_only_an_alias_generator_names_are_refused_when_the_route_is_made(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Loud(BaseJobParams):
        model_config = ConfigDict(alias_generator=str.upper)

    factory = upload_route("loud", Loud, output_name=lambda name, _: name)
    with pytest.raises(
        ValueError, match=r"^Loud\.input_paths is read as 'INPUT_PATHS' alone.*populate_by_name=True"
    ):
        factory(repository, storage, no_user)


def test_fields_that_swap_their_names_are_stored_apart(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Swapped(BaseJobParams):
        one: int = Field(validation_alias="two")
        two: int = Field(validation_alias="one")

    factory = upload_route("swapped", Swapped, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        assert client.post("/jobs/swapped", data={"one": "1", "two": "2"}, files=PICTURE).status_code == 200
    params = Swapped.model_validate(repository.only_job.params)
    assert (params.one, params.two) == (2, 1)


@pytest.mark.parametrize(
    ("kind", "field", "why"),
    [
        (SecretStr, ..., "is a secret, which is stored as asterisks"),
        (SecretBytes | None, None, "is a secret, which is stored as asterisks"),
        (list[Annotated[SecretStr, Field(min_length=1)]], ..., "is a secret, which is stored as asterisks"),
        (Secret[int], ..., "is a secret, which is stored as asterisks"),
        (int, Field(default=1, exclude=True), "is left out of what is stored"),
        (int, Field(validation_alias=AliasPath("deep", "num")), "is read by an AliasPath"),
    ],
)
def test_a_field_that_would_not_reach_the_worker_is_refused_when_the_route_is_made(
    kind: Any, field: Any, why: str, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    factory = upload_route("given", one_field(kind, field), output_name=lambda name, _: name)
    with pytest.raises(ValueError, match=rf"^Given\.value {why}"):
        factory(repository, storage, no_user)


def test_a_secret_that_the_schema_writes_in_full_is_stored(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Params(BaseJobParams):
        token: SecretStr

        @field_serializer("token", when_used="json")
        def _in_full(self, token: SecretStr) -> str:
            return token.get_secret_value()

    factory = upload_route("told", Params, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        assert client.post("/jobs/told", data={"token": "x"}, files=PICTURE).status_code == 200
    assert repository.only_job.params["token"] == "x"


@pytest.mark.parametrize("sent", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("kind", [float, list[float], float | None])
def test_a_number_that_json_cannot_hold_is_refused_by_the_name_of_its_field(
    sent: str, kind: Any, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    factory = upload_route("given", one_field(kind), output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        answer = client.post("/jobs/given", data={"value": sent}, files=PICTURE)
        assert answer.status_code == 422
        (fault,) = answer.json()["detail"]
        assert (fault["type"], fault["loc"]) == ("finite_number", ["body", "value"])
    assert not repository.jobs


@pytest.mark.parametrize("name", ["file", "priority"])
def test_a_schema_with_a_name_of_the_forms_own_is_refused_at_once(
    name: str, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    schema = type("Clash", (BaseJobParams,), {"__annotations__": {name: str}})
    factory = upload_route("clash", schema, output_name=lambda name, _: name)
    with pytest.raises(ValueError, match=rf"Clash\.{name} is a name that each upload form has"):
        factory(repository, storage, no_user)


def test_a_field_may_be_named_response(repository: MemoryRepository, storage: LocalFileStorage) -> None:
    class Params(BaseJobParams):
        response: str

    factory = upload_route("polite", Params, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        assert client.post("/jobs/polite", data={"response": "yes"}, files=PICTURE).status_code == 200
    assert repository.only_job.params["response"] == "yes"


# --- fields that no form has


class Exact(BaseJobParams):
    model_config = ConfigDict(extra="forbid")

    width: int = 1
    height: int = 1


def exact_client(repository: MemoryRepository, storage: LocalFileStorage) -> TestClient:
    return client_of(
        repository, storage, factory=upload_route("exact", Exact, output_name=lambda name, _: name)
    )


@pytest.mark.parametrize("late", [False, True], ids=["before the file", "after it"])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("widht", "; did you mean 'width'?"),
        ("Height", "; did you mean 'height'?"),
        ("priorty", "; did you mean 'priority'?"),
        ("zoom", "."),
        ("", "."),
        ("input_paths", "."),
    ],
)
def test_a_field_that_a_schema_forbids_is_refused_by_its_name(
    name: str, meant: str, late: bool, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    fields: list[Any] = [(name, (None, "5"))]
    with exact_client(repository, storage) as client:
        answer = client.post("/jobs/exact", files=letters(1) + fields if late else fields + letters(1))
    assert answer.status_code == 422
    told = {"type": "extra_forbidden", "loc": ["body", name], "msg": f"There is no such field{meant}"}
    assert answer.json()["detail"] == [{**told, "input": "5"}]
    assert not repository.jobs
    assert not kept_jobs(storage)


def test_a_forbidden_field_is_told_with_all_other_faults(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    with exact_client(repository, storage) as client:
        form = {"widht": "5", "height": "tall"}
        for files in (PICTURE, None):
            answer = client.post("/jobs/exact", data=form, files=files)
            assert answer.status_code == 422
            assert {entry["loc"][1] for entry in answer.json()["detail"]} == {"widht", "height"}


def test_a_file_under_a_name_that_a_schema_forbids_is_refused(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    with exact_client(repository, storage) as client:
        answer = client.post("/jobs/exact", files=[*letters(1), ("flie", ("b.png", b"x"))])
    assert answer.status_code == 422
    (entry,) = answer.json()["detail"]
    assert (entry["loc"], entry["msg"]) == (["body", "flie"], "There is no such field; did you mean 'file'?")
    assert not kept_jobs(storage)


def test_what_no_form_has_is_ignored_and_the_answer_names_it(
    client: TestClient, repository: MemoryRepository
) -> None:
    fields: list[Any] = [("text", (None, "x")), ("titel", (None, "y")), ("titel", (None, "z"))]
    more: list[Any] = [("mask", ("m.png", b"x")), ("colour", (None, "1"))]
    answer = client.post("/jobs/stamp", files=fields + letters(1) + more)
    assert answer.status_code == 200, answer.text
    assert answer.json()["ignored_fields"] == ["titel", "mask", "colour"]
    assert set(repository.only_job.params).isdisjoint(answer.json()["ignored_fields"])


def test_an_answer_names_no_more_ignored_fields_than_anybody_reads(client: TestClient) -> None:
    form = {"text": "x", **{f"f{number}": "" for number in range(500)}}
    answer = client.post("/jobs/stamp", data=form, files=PICTURE)
    assert answer.json()["ignored_fields"] == [f"f{number}" for number in range(20)]


# --- what a form can carry


class Box(BaseModel):
    left: int = 0


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    right: int


class Pair(TypedDict):
    one: int


Side = TypeAliasType("Side", Literal["left", "right"])
Sizes = TypeAliasType("Sizes", list[int])
Tree = TypeAliasType("Tree", "int | list[Tree]")
Short = Annotated[list[int], Field(max_length=3)]


def one_field(kind: Any, field: Any = ...) -> type[BaseJobParams]:
    return create_model("Given", __base__=BaseJobParams, value=(kind, field))


def read(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


@pytest.mark.parametrize(
    "kind",
    [
        *(Box, Box | None, list[Box], tuple[int, Box], Box | str, Box | Json[Box]),
        *(
            dict[str, Any],
            dict[str, int] | None,
            list[dict[str, int]],
            list[list[int]],
            Pair,
            Tree,
            list[Tree],
        ),
        *(Iterable[int], AbstractSet[int], Callable[[], int]),
    ],
)
@pytest.mark.parametrize("default", [..., None])
def test_a_field_that_no_form_can_carry_is_refused_when_the_route_is_made(
    kind: Any, default: Any, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    factory = upload_route("given", one_field(kind, default), output_name=lambda name, _: name)
    with pytest.raises(
        ValueError, match=r"^Given\.value .*Json\[\.\.\.\].*a route of your own with submit_uploads"
    ):
        factory(repository, storage, no_user)


@pytest.mark.parametrize(
    ("kind", "sent", "stored"),
    [
        (str, "x", "x"),
        (int | None, "3", 3),
        (bool, "no", False),
        (Decimal, "1.50", "1.50"),
        (Corner, "top", "top"),
        (Literal["a", 1], "a", "a"),
        (Side, "left", "left"),
        (date, "2026-01-02", "2026-01-02"),
        (datetime | None, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        (time, "03:04:05", "03:04:05"),
        (timedelta, "PT1H", "PT1H"),
        (UUID, "4b4c8a0e-6f0f-4f3b-9d4c-0d6f5e1f2a3b", "4b4c8a0e-6f0f-4f3b-9d4c-0d6f5e1f2a3b"),
        (Path, "a/b", "a/b"),
        (Annotated[int, Field(gt=1)] | Annotated[str, Field(max_length=4)], "3", "3"),
        (list[Corner], ["top", "bottom"], ["top", "bottom"]),
        (set[int], ["4"], [4]),
        (tuple, ["a"], ["a"]),
        (tuple[int, str], ["1", "2"], [1, "2"]),
        (tuple[UUID, ...] | None, [], None),
        (Short | None, ["1", "2"], [1, 2]),
        (Sizes, ["1", "2"], [1, 2]),
        (Sizes | None, ["1"], [1]),
        (Any, "x", "x"),
        (Annotated[dict[str, int], BeforeValidator(read)], '{"a": 1}', {"a": 1}),
        (Json[Box], '{"left": 2}', '{"left":2}'),
        (Json, '{"a": 1}', '{"a":1}'),
        (Json[Box] | None, '{"left": 2}', '{"left":2}'),
        (Json[Box | None], "null", "null"),  # type: ignore[misc]  # which mypy takes for a call
        (Json[Box] | Json[Pair], '{"one": 2}', '{"one":2}'),
        (Json[Strict] | Json[Box], '{"left": 2}', '{"left":2}'),
        (Json[dict[str, int]] | None, '{"a": 1}', '{"a":1}'),
        (Json[list[int]], "[1, 2]", "[1,2]"),
        (Json[list[list[int]]] | None, "[[1], [2]]", "[[1],[2]]"),
        (Annotated[Json[list[int]], Field(max_length=2)], "[1, 2]", "[1,2]"),
        (Json[Sizes], "[1, 2]", "[1,2]"),
        (list[Json[Box]], ['{"left": 1}', "{}"], ['{"left":1}', '{"left":0}']),
        (Annotated[Box, BeforeValidator(read)], '{"left": 2}', {"left": 2}),
        (Annotated[Box | None, BeforeValidator(read)], "null", None),
        (
            Annotated[list[Box], BeforeValidator(lambda sent: [read(one) for one in sent])],
            ["{}"],
            [{"left": 0}],
        ),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["before the file", "after it"])
def test_all_that_a_form_can_carry_is_stored_and_described(
    kind: Any, sent: Any, stored: Any, late: bool, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    schema = one_field(kind, None if sent == [] else ...)
    factory = upload_route("given", schema, output_name=lambda name, _: name)
    fields = [("value", (None, one)) for one in (sent if isinstance(sent, list) else [sent])]
    with client_of(repository, storage, factory=factory) as client:
        files = letters(1) + fields if late else fields + letters(1)
        answer = client.post("/jobs/given", files=files)
        assert answer.status_code == 200, answer.text
        assert client.get("/openapi.json").status_code == 200
    assert repository.only_job.params["value"] == stored
    schema.model_validate(repository.only_job.params)


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (Json[Box], Box(left=3)),
        (Json[Box] | None, None),
        (Json[list[int]], [1]),
        (Json[dict[str, int]] | None, {"a": 1}),
        (Annotated[Box, BeforeValidator(read)], Box(left=3)),
    ],
)
def test_a_field_that_is_made_of_text_may_have_a_default_and_be_left_out(
    kind: Any, default: Any, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    schema = one_field(kind, default)
    factory = upload_route("given", schema, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        answer = client.post("/jobs/given", files=letters(1))
        assert answer.status_code == 200, answer.text
        assert client.get("/openapi.json").status_code == 200
    stored = repository.only_job.params["value"]
    assert (json.loads(stored) if isinstance(stored, str) else stored) == schema().model_dump(mode="json")[
        "value"
    ]


def test_a_field_that_its_own_validator_makes_of_text_may_have_any_type(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Weighted(BaseJobParams):
        weights: dict[str, float]
        box: Box
        frame: Box | None = None

        @field_validator("weights", "box", "frame", mode="before")
        @classmethod
        def _read(cls, value: Any) -> Any:
            return read(value)

    factory = upload_route("weighted", Weighted, output_name=lambda name, _: name)
    form = {"weights": '{"a": 0.5}', "box": '{"left": 2}', "frame": '{"left": 3}'}
    with client_of(repository, storage, factory=factory) as client:
        answer = client.post("/jobs/weighted", data=form, files=PICTURE)
        assert answer.status_code == 200, answer.text
        bad = client.post("/jobs/weighted", data={**form, "box": '{"left": "x"}'}, files=PICTURE)
        assert [entry["loc"] for entry in bad.json()["detail"]] == [["body", "box", "left"]]
        assert client.get("/openapi.json").status_code == 200
    params = repository.only_job.params
    assert (params["weights"], params["box"], params["frame"]) == ({"a": 0.5}, {"left": 2}, {"left": 3})
    assert Weighted.model_validate(params).box == Box(left=2)


# --- how many outputs


def outputs_of(repository: MemoryRepository) -> list[str]:
    return [Path(path).name for path in repository.only_job.params["output_paths"]]


def letters(count: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{letter}.png", b"x")) for letter in "abcdef"[:count]]


@pytest.mark.parametrize(
    ("form", "expected"),
    [({"groups": "2", "join": "false"}, 2), ({"groups": "9", "join": "no"}, 3), ({"join": "true"}, 1)],
)
def test_outputs_are_counted_by_valid_values(
    form: dict[str, str], expected: int, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Grouped(BaseJobParams):
        groups: int = Field(default=1, ge=1)
        join: bool

        def expected_output_count(self) -> int:
            return 1 if self.join else min(self.groups, len(self.input_paths))

        @model_validator(mode="after")
        def _paths_are_seen(self) -> Self:
            assert len(self.output_paths) == self.expected_output_count()
            return self

    factory = upload_route("grouped", Grouped, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        answer = client.post("/jobs/grouped", data=form, files=letters(3))
        assert answer.status_code == 200, answer.text
        bad = client.post("/jobs/grouped", data={**form, "groups": "many"}, files=letters(3))
    assert outputs_of(repository) == ["a.png", "b.png", "c.png"][:expected]
    assert [error["loc"] for error in bad.json()["detail"]] == [["body", "groups"]]


@pytest.mark.parametrize("config", [ConfigDict(frozen=True), ConfigDict(validate_assignment=True)])
def test_outputs_are_counted_whatever_the_schemas_config(
    config: ConfigDict, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    class Joined(BaseJobParams):
        model_config = config

        def expected_output_count(self) -> int:
            return 1

    factory = upload_route("joined", Joined, output_name=lambda name, _: name)
    with client_of(repository, storage, factory=factory) as client:
        assert client.post("/jobs/joined", files=letters(2)).status_code == 200
    assert outputs_of(repository) == ["a.png"]


class Pages(BaseJobParams):
    pages: int = Field(default=2, ge=0)

    def expected_output_count(self) -> int:
        return self.pages * len(self.input_paths)


PAGES = upload_route("pages", Pages, output_name=lambda name, params: f"page_of_{name}")


def test_more_outputs_than_inputs_are_named_by_going_round_the_inputs_again(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    with client_of(repository, storage, factory=PAGES) as client:
        answer = client.post("/jobs/pages", data={"pages": "3"}, files=letters(2))
    assert answer.status_code == 200, answer.text
    a, b = ("page_of_a", "page_of_b")
    rounds = [[f"{a}{number}.png", f"{b}{number}.png"] for number in ("", "-2", "-3")]
    assert outputs_of(repository) == [name for names in rounds for name in names]
    assert Pages.model_validate(repository.only_job.params).pages == 3


def test_a_job_may_have_no_outputs_that_are_named_ahead(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    with client_of(repository, storage, factory=PAGES) as client:
        assert client.post("/jobs/pages", data={"pages": "0"}, files=letters(2)).status_code == 200
    assert outputs_of(repository) == []


def test_a_job_with_more_outputs_than_anybody_wants_is_refused(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    with client_of(repository, storage, factory=PAGES) as client:
        most = client.post("/jobs/pages", data={"pages": "500"}, files=letters(2))
        answer = client.post("/jobs/pages", data={"pages": "1000000000"}, files=letters(2))
    assert most.status_code == 200
    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert (error["loc"], error["input"]) == (["body"], {"pages": "1000000000"})
    assert "2000000000 outputs; 1000 are the most" in error["msg"]
    assert len(repository.jobs) == len(kept_jobs(storage)) == 1


def test_a_route_of_ones_own_may_have_more_outputs_than_inputs(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    def submitted(pages: int) -> Any:
        uploads = [UploadFile(BytesIO(b"x"), filename=f"{letter}.png") for letter in "ab"]
        return submit_uploads(
            repository,
            storage,
            uploads,
            task_type="pages",
            params=Pages(pages=pages),
            output_name=lambda name: name,
            created_by=None,
            priority=5,
        )

    asyncio.run(submitted(2))
    assert outputs_of(repository) == ["a.png", "b.png", "a-2.png", "b-2.png"]
    with pytest.raises(InvalidJobError, match="1002 outputs; 1000 are the most"):
        asyncio.run(submitted(501))
    assert len(repository.jobs) == len(kept_jobs(storage)) == 1


# --- how it is described


def test_openapi_describes_the_form_as_the_schema_does(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/jobs/stamp"]["post"]
    reference = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
    form = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
    fields = form["properties"]
    own = ["file", "from_job", "from_output"]
    assert list(fields) == [*own, "text", "corner", "opacity", "colours", "shadow", "priority"]
    assert form["required"] == ["text"], "and a file, or a job that has some"
    assert (fields["text"]["minLength"], fields["text"]["maxLength"]) == (1, 20)
    assert fields["text"]["description"] == "What to stamp."
    assert (fields["opacity"]["type"], fields["opacity"]["default"]) == ("number", 0.5)
    assert document["components"]["schemas"]["Corner"]["enum"] == ["top", "bottom"]
    assert fields["colours"]["items"] == {"type": "integer"}
    assert (fields["priority"]["minimum"], fields["priority"]["maximum"]) == (0, 10)
    assert set(operation["responses"]) == {
        *("200", "400", "404", "408", "409", "413", "422", "429", "503", "507")
    }
    accepted = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert accepted == {"$ref": "#/components/schemas/JobAccepted"}


# --- who it belongs to


class User(BaseModel):
    id: int


async def user_by_header(x_user: Annotated[int, Header()]) -> User:
    return User(id=x_user)


class FromDatabase:
    def __call__(self, user: Annotated[User, Depends(user_by_header)]) -> dict[str, int]:
        return {"id": user.id + 100}


async def user_of_a_session() -> AsyncIterator[User]:
    yield User(id=8)


@pytest.mark.parametrize(
    ("dependency", "creator"),
    [
        (no_user, None),
        (lambda: User(id=3), "3"),
        (lambda: {"id": "ann"}, "ann"),
        (user_by_header, "7"),
        (FromDatabase(), "107"),
        (user_of_a_session, "8"),
    ],
)
def test_the_user_may_come_from_any_dependency(
    dependency: Callable[..., Any],
    creator: str | None,
    repository: MemoryRepository,
    storage: LocalFileStorage,
) -> None:
    with client_of(repository, storage, dependency) as client:
        answer = client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE, headers={"x-user": "7"})
    assert answer.status_code == 200
    assert repository.creators == {answer.json()["job_id"]: creator}


def test_a_dependency_that_refuses_the_user_is_obeyed(
    repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    def stranger() -> None:
        raise HTTPException(401, "Who are you?")

    with client_of(repository, storage, stranger) as client:
        answer = client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE)
    assert answer.status_code == 401
    assert not kept_jobs(storage)


@pytest.mark.parametrize(("user", "creator"), [(None, None), ({"id": 0}, "0"), ({"id": None}, None)])
def test_a_creator_is_text_or_nobody(user: Any, creator: str | None) -> None:
    assert creator_of(user) == creator


@pytest.mark.parametrize("user", [{"name": "ann"}, "ann", object()])
def test_a_user_without_an_id_is_not_taken_for_nobody(user: Any) -> None:
    with pytest.raises(TypeError, match=r"without id\. Let it return None, an object"):
        creator_of(user)


# --- when things go wrong


class Failing(MemoryRepository):
    """Raises at `add_job`, before or after the job is stored."""

    def __init__(self, error: Exception, *, stores: bool = False) -> None:
        super().__init__()
        self.error, self.stores = error, stores

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        if self.stores:
            super().add_job(job, created_by, priority)
        raise self.error


def test_a_store_that_is_away_is_a_503_with_retry_after_and_the_files_stay(
    storage: LocalFileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(Failing(StoreUnavailableError("redis://secret@host")), storage) as client:
        answer = client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "secret" not in answer.text
    assert [path.name for path in kept_files(storage)] == ["cat.png"]
    assert [record.exc_info for record in caplog.records if "Answered 503" in record.getMessage()] == [None]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SubmissionTooLateError("too late"), 503),
        (StoreNotAskedError("refused"), 503),
        (InvalidJobError("params: 2 MB is too much"), 422),
        (RuntimeError("UNIQUE constraint failed"), 500),
    ],
)
def test_a_job_that_was_refused_leaves_no_files(
    error: Exception, status: int, storage: LocalFileStorage
) -> None:
    with client_of(Failing(error), storage) as client:
        assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == status
    assert not kept_jobs(storage)


@pytest.mark.parametrize("error", [ConnectionError("lost after commit"), DuplicateJobError("a second try")])
def test_a_job_that_was_stored_in_spite_of_an_error_keeps_its_files(
    error: Exception, storage: LocalFileStorage
) -> None:
    with client_of(Failing(error, stores=True), storage) as client:
        assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == 500
    assert [path.name for path in kept_files(storage)] == ["cat.png"]


def test_files_stay_when_nobody_can_say_whether_the_job_was_stored(storage: LocalFileStorage) -> None:
    class Away(Failing):
        def get_job(self, job_id: str) -> Job | None:
            raise ConnectionError("still away")

    with client_of(Away(ConnectionError("away")), storage) as client:
        assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == 500
    assert [path.name for path in kept_files(storage)] == ["cat.png"]


def test_an_upload_over_the_limit_is_a_413_and_leaves_nothing(
    client: TestClient, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    answer = client.post("/jobs/stamp", data={"text": "x"}, files={"file": ("big.png", bytes(1001))})
    assert answer.status_code == 413
    assert answer.json()["detail"] == "'big.png' is larger than the limit of 1000 bytes"
    assert not repository.jobs
    assert not kept_jobs(storage)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageFullError("/srv/media is full"), 507),
        (InvalidJobIdError("'..' is no job id"), 422),
        (PermissionError("no"), 500),
    ],
)
def test_a_storage_that_cannot_save_leaves_no_job(
    error: Exception, status: int, repository: MemoryRepository, tmp_path: Path
) -> None:
    class Broken(LocalFileStorage):
        async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> Any:
            raise error

    with client_of(repository, storage := Broken(tmp_path)) as client:
        answer = client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE)
    assert answer.status_code == status
    assert "/srv" not in answer.text
    assert not repository.jobs
    assert not kept_jobs(storage)


def test_a_cleanup_that_fails_does_not_hide_why_it_was_needed(
    repository: MemoryRepository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(LocalFileStorage):
        def cleanup_job(self, job_id: str) -> bool:
            raise OSError("busy")

    with client_of(repository, Stuck(tmp_path, max_file_bytes=1)) as client:
        assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == 413
    assert any("could not be removed" in record.getMessage() for record in caplog.records)


# --- when the client goes


class Gated(LocalFileStorage):
    """Waits while it saves, until the test lets it go on."""

    def __init__(self, base_dir: Path) -> None:
        super().__init__(base_dir)
        self.saving = asyncio.Event()
        self.go_on = asyncio.Event()

    async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> Any:
        saved = await super().save_input_file(job_id, filename, file)
        self.saving.set()
        await self.go_on.wait()
        return saved


def submission(repository: JobRepository, storage: FileStorage) -> Any:
    return submit_uploads(
        repository,
        storage,
        [UploadFile(BytesIO(b"x"), filename="cat.png")],
        task_type="stamp",
        params=StampParams(text="x"),
        output_name=lambda name: name,
        created_by=None,
        priority=5,
    )


def test_an_upload_that_is_cancelled_while_it_is_saved_leaves_nothing(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    async def by_scope() -> LocalFileStorage:
        storage = Gated(tmp_path / "scope")
        async with anyio.create_task_group() as group:
            group.start_soon(submission, repository, storage)
            await storage.saving.wait()
            assert len(kept_files(storage)) == 1
            group.cancel_scope.cancel()
        return storage

    async def by_task() -> LocalFileStorage:
        storage = Gated(tmp_path / "task")
        task = asyncio.ensure_future(submission(repository, storage))
        await storage.saving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return storage

    for storage in (asyncio.run(by_scope()), asyncio.run(by_task())):
        assert not kept_jobs(storage)
    assert not repository.jobs


def test_a_client_that_goes_between_saving_and_adding_leaves_a_job_with_its_files(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    class GatedStorage(LocalFileStorage):
        asked, go_on = threading.Event(), threading.Event()

        def get_output_path(self, job_id: str) -> Path:
            self.asked.set()
            assert self.go_on.wait(10)
            return super().get_output_path(job_id)

    storage = GatedStorage(tmp_path)

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(submission, repository, storage)
            await asyncio.to_thread(storage.asked.wait, 10)
            group.cancel_scope.cancel()
            storage.go_on.set()

    asyncio.run(scenario())
    assert Path(repository.only_job.params["input_paths"][0]).exists()


def test_a_job_that_is_being_added_when_the_client_goes_is_kept_with_its_files(tmp_path: Path) -> None:
    class GatedRepository(SharedRepository):
        def __init__(self) -> None:
            super().__init__()
            self.adding, self.go_on = threading.Event(), threading.Event()

        def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
            self.adding.set()
            assert self.go_on.wait(10)
            return super().add_job(job, created_by, priority)

    repository, storage = GatedRepository(), LocalFileStorage(tmp_path)

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(submission, repository, storage)
            await asyncio.to_thread(repository.adding.wait, 10)
            group.cancel_scope.cancel()
            repository.go_on.set()

    asyncio.run(scenario())
    assert Path(repository.only_job.params["input_paths"][0]).exists()


def test_a_mapping_is_enough_of_an_answer_from_a_storage(
    repository: MemoryRepository, tmp_path: Path
) -> None:
    class Frugal(LocalFileStorage):
        async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> Any:
            saved: Mapping[str, object] = await super().save_input_file(job_id, filename, file)
            return {"path": saved["path"]}

    with client_of(repository, Frugal(tmp_path)) as client:
        assert client.post("/jobs/stamp", data={"text": "x"}, files=PICTURE).status_code == 200
    assert Path(repository.only_job.params["output_paths"][0]).name == "bottom_cat.png"
