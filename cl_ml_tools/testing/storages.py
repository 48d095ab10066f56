"""What every `cl_ml_tools.FileStorage` must do."""

import asyncio
import hashlib
import io
from pathlib import Path
from typing import Any

from cl_ml_tools.common.file_storage import FileStorage, LimitsUploads, ReusesOutputs


class FileStorageContract:
    """Subclass it, name the subclass ``Test...``, and give it a fixture ``storage``: an empty one.

    Attributes:
        makes_names_safe: whether a client's file name cannot lead out of the job's directory, and a second file
            of one name does not replace the first. A storage that is not behind a master of its own needs it.
    """

    makes_names_safe = True

    def test_it_is_a_file_storage(self, storage: Any) -> None:
        assert isinstance(storage, FileStorage)

    def test_a_jobs_directories_are_made_and_making_them_again_does_no_harm(
        self, storage: FileStorage
    ) -> None:
        directory = Path(storage.create_job_directory("a"))
        assert directory == Path(storage.create_job_directory("a"))
        for path in (storage.get_input_path("a"), storage.get_output_path("a")):
            assert Path(path).is_dir()
            assert Path(path).is_absolute()
            assert directory in Path(path).parents

    def test_an_upload_is_saved_whole_and_described(self, storage: FileStorage) -> None:
        content = bytes(range(256)) * 9000
        saved = self._save(storage, "cat.png", content)
        path = Path(str(saved["path"]))
        assert path.read_bytes() == content
        assert path.is_absolute()
        assert Path(storage.get_input_path("a")) in path.parents
        assert saved["filename"] == "cat.png"
        assert saved["size"] == len(content)
        assert saved["hash"] == hashlib.sha256(content).hexdigest()

    def test_a_stream_that_is_no_file_is_saved_by_a_storage_that_takes_streams(
        self, storage: FileStorage
    ) -> None:
        if not isinstance(storage, LimitsUploads):
            return
        storage.create_job_directory("a")
        saved = asyncio.run(storage.save_input_file("a", "cat.png", _Stream(b"meow")))
        assert Path(str(saved["path"])).read_bytes() == b"meow"

    def test_jobs_do_not_share_a_directory(self, storage: FileStorage) -> None:
        first, second = storage.create_job_directory("a"), storage.create_job_directory("b")
        self._save(storage, "cat.png", b"a")
        assert first != second
        assert storage.cleanup_job("a") is True
        assert Path(storage.get_input_path("b")).is_dir()

    def test_a_job_that_is_cleaned_up_leaves_nothing(self, storage: FileStorage) -> None:
        directory = Path(storage.create_job_directory("a"))
        self._save(storage, "cat.png", b"meow")
        (Path(storage.get_output_path("a")) / "out.png").write_bytes(b"out")
        assert storage.cleanup_job("a") is True
        assert not directory.exists()
        assert storage.cleanup_job("a") is False

    def test_a_name_cannot_lead_out_of_the_jobs_directory(self, storage: FileStorage) -> None:
        if not self.makes_names_safe:
            return
        directory = Path(storage.create_job_directory("a")).resolve()
        for name in ("../../escaped.png", "/tmp/escaped.png", "a/../../b.png", "..", ""):  # noqa: S108
            saved = self._save(storage, name, b"x")
            assert directory in Path(str(saved["path"])).resolve().parents, name

    def test_two_files_of_one_name_are_both_kept(self, storage: FileStorage) -> None:
        if not self.makes_names_safe:
            return
        paths = [Path(str(self._save(storage, "cat.png", content)["path"])) for content in (b"1", b"2")]
        assert [path.read_bytes() for path in paths] == [b"1", b"2"]

    def test_an_output_that_becomes_an_input_outlives_its_job(self, storage: FileStorage) -> None:
        if not isinstance(storage, ReusesOutputs):
            return
        storage.create_job_directory("a")
        (Path(storage.get_output_path("a")) / "cat.png").write_bytes(b"meow")
        reused = storage.reuse_output("b", "a", "cat.png")
        assert storage.cleanup_job("a") is True
        assert (reused["filename"], reused["size"]) == ("cat.png", 4)
        assert Path(reused["path"]).read_bytes() == b"meow"
        assert Path(storage.get_input_path("b")) in Path(reused["path"]).parents
        try:
            storage.reuse_output("b", "a", "cat.png")
        except FileNotFoundError:
            return
        raise AssertionError("an output that is not there was reused")

    def _save(self, storage: FileStorage, name: str, content: bytes) -> dict[str, object]:
        storage.create_job_directory("a")
        return dict(asyncio.run(storage.save_input_file("a", name, _Upload(content))))


class _Upload:
    """As FastAPI's ``UploadFile``, as far as a storage uses it."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    async def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


class _Stream:
    """What is read once, and no file."""

    def __init__(self, content: bytes) -> None:
        self._chunks = [content]

    async def read(self, size: int) -> bytes:
        return self._chunks.pop() if self._chunks else b""
