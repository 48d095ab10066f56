import asyncio
import errno
import hashlib
import io
import os
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.errors import InvalidJobIdError, StorageFullError, UploadTooLargeError
from cl_ml_tools.stores._incoming import Incoming
from cl_ml_tools.stores.local_files import LocalFileStorage

MIB = 1024 * 1024


class Upload:
    """Bytes with an asynchronous read, as FastAPI's UploadFile."""

    def __init__(self, content: bytes, before_read: Callable[[], Awaitable[object]] | None = None) -> None:
        self._bytes = io.BytesIO(content)
        self._before_read = before_read

    async def read(self, size: int = -1) -> bytes:
        if self._before_read is not None:
            await self._before_read()
        return self._bytes.read(size)


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path / "media")


def files_below(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir())


def test_it_is_a_file_storage(storage: LocalFileStorage) -> None:
    assert isinstance(storage, FileStorage)


def test_all_paths_are_absolute_and_stay_when_the_current_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalFileStorage("./media")
    monkeypatch.chdir("/")
    job = tmp_path.resolve() / "media" / "jobs" / "j1"
    assert storage.create_job_directory("j1") == job
    assert storage.create_job_directory("j1") == job
    assert storage.get_input_path("j1") == job / "input"
    assert storage.get_output_path("j1") == job / "output"
    assert (job / "input").is_dir()
    assert (job / "output").is_dir()


def test_a_saved_file_is_told_with_its_name_path_size_and_hash(storage: LocalFileStorage) -> None:
    content = os.urandom(3 * MIB + 5)
    saved = asyncio.run(storage.save_input_file("j1", "photo.png", Upload(content)))
    assert saved == {
        "filename": "photo.png",
        "path": str(storage.get_input_path("j1") / "photo.png"),
        "size": len(content),
        "hash": hashlib.sha256(content).hexdigest(),
    }
    assert Path(saved["path"]).read_bytes() == content
    assert files_below(storage.base_dir) == ["jobs/j1/input/photo.png"]


def test_an_empty_file_is_saved_too(storage: LocalFileStorage) -> None:
    saved = asyncio.run(storage.save_input_file("j1", "empty.bin", Upload(b"")))
    assert saved["size"] == 0
    assert Path(saved["path"]).read_bytes() == b""


def test_a_saved_file_has_the_permissions_that_the_umask_leaves(storage: LocalFileStorage) -> None:
    before = os.umask(0o027)
    try:
        saved = asyncio.run(storage.save_input_file("j1", "photo.png", Upload(b"x")))
    finally:
        os.umask(before)
    assert Path(saved["path"]).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["../../evil.png", "..\\..\\evil.png", "/../../evil.png"])
def test_a_hostile_name_cannot_leave_the_directory(storage: LocalFileStorage, name: str) -> None:
    # The storage shown in the README of 0.2.0 writes to input_dir / filename, which is outside:
    naive = (storage.get_input_path("j1") / name.replace("\\", "/")).resolve()
    assert not naive.is_relative_to(storage.get_input_path("j1"))

    saved = asyncio.run(storage.save_input_file("j1", name, Upload(b"x")))
    assert Path(saved["path"]) == storage.get_input_path("j1") / "evil.png"
    assert files_below(storage.base_dir.parent) == ["media/jobs/j1/input/evil.png"]


@pytest.mark.parametrize("job_id", ["../other", "..", "", "a/b", "j1\n"])
def test_a_hostile_job_id_is_refused_everywhere(storage: LocalFileStorage, job_id: str) -> None:
    for act in (
        storage.create_job_directory,
        storage.get_input_path,
        storage.get_output_path,
        storage.cleanup_job,
        lambda job_id: asyncio.run(storage.save_input_file(job_id, "a.png", Upload(b"x"))),
    ):
        with pytest.raises(InvalidJobIdError):
            act(job_id)
    assert files_below(storage.base_dir) == []


def test_a_plain_file_is_read_too(storage: LocalFileStorage) -> None:
    content = os.urandom(2 * MIB + 1)
    saved = asyncio.run(storage.save_input_file("j1", "a.bin", io.BytesIO(content)))
    assert Path(saved["path"]).read_bytes() == content


def test_a_wrapper_whose_read_hands_out_an_awaitable_is_read_too(storage: LocalFileStorage) -> None:
    class Wrapper:
        upload = Upload(b"wrapped")

        def read(self, size: int) -> Awaitable[bytes]:
            return self.upload.read(size)

    saved = asyncio.run(storage.save_input_file("j1", "a.bin", Wrapper()))
    assert Path(saved["path"]).read_bytes() == b"wrapped"


def test_uploads_of_one_name_are_all_kept(storage: LocalFileStorage) -> None:
    async def save_at_once() -> list[str]:
        together = asyncio.Barrier(8)
        names = ["photo.png", "Photo.PNG"] * 4

        async def save(number: int) -> str:
            upload = Upload(bytes([number]), before_read=together.wait)
            return (await storage.save_input_file("j1", names[number], upload))["path"]

        return await asyncio.gather(*map(save, range(8)))

    paths = asyncio.run(save_at_once())
    assert [Path(path).read_bytes()[0] for path in paths] == list(range(8))
    assert len({path.casefold() for path in paths}) == 8


def test_a_name_that_another_process_takes_meanwhile_is_not_overwritten(
    storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = storage.create_job_directory("j1") / "input"
    (directory / "photo.png").write_bytes(b"the other's")
    # What it sees is how the directory was before the other came.
    monkeypatch.setattr("os.listdir", lambda _: [])
    saved = asyncio.run(storage.save_input_file("j1", "photo.png", Upload(b"ours")))
    assert saved["filename"] == "photo-2.png"
    assert (directory / "photo.png").read_bytes() == b"the other's"
    assert (directory / "photo-2.png").read_bytes() == b"ours"


def test_memory_stays_flat_for_a_large_upload(storage: LocalFileStorage) -> None:
    class Endless:
        left = 200 * MIB

        async def read(self, size: int) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    tracemalloc.start()
    try:
        saved = asyncio.run(storage.save_input_file("j1", "large.bin", Endless()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert saved["size"] == Path(saved["path"]).stat().st_size == 200 * MIB
    assert peak < 8 * MIB
    storage.cleanup_job("j1")


class Gate:
    """Holds a thread until the event loop has done something else meanwhile."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def hold(self) -> None:
        self._reached.set()
        # On the event loop itself this would wait in vain.
        assert self._open.wait(5)

    async def let_through(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 5)
        self._open.set()


def test_the_event_loop_goes_on_while_the_disk_is_busy(
    storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = {"write": Gate(), "keep": Gate()}

    def slowed(act: Callable[..., Any], gate: Gate) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            gate.hold()
            return act(*arguments)

        return slow

    for name, gate in gates.items():
        monkeypatch.setattr(Incoming, name, slowed(getattr(Incoming, name), gate))

    async def save() -> None:
        saving = asyncio.create_task(storage.save_input_file("j1", "a.bin", Upload(b"x")))
        for gate in gates.values():
            await gate.let_through()
        await saving

    asyncio.run(save())


def test_the_event_loop_goes_on_while_a_plain_file_is_read(storage: LocalFileStorage) -> None:
    gate = Gate()

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            gate.hold()
            return super().read(size)

    async def save() -> None:
        saving = asyncio.create_task(storage.save_input_file("j1", "a.bin", SlowFile(b"x")))
        await gate.let_through()
        await saving

    asyncio.run(save())


def test_an_upload_at_the_limit_is_saved_and_one_above_leaves_nothing(tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path, max_file_bytes=2 * MIB)
    asyncio.run(storage.save_input_file("j1", "fits.bin", Upload(bytes(2 * MIB))))
    with pytest.raises(UploadTooLargeError) as caught:
        asyncio.run(storage.save_input_file("j1", "large.bin", Upload(bytes(2 * MIB + 1))))
    assert (caught.value.filename, caught.value.max_bytes) == ("large.bin", 2 * MIB)
    assert files_below(tmp_path) == ["jobs/j1/input/fits.bin"]


def test_an_upload_that_breaks_off_leaves_nothing(storage: LocalFileStorage) -> None:
    class Broken(Upload):
        async def read(self, size: int = -1) -> bytes:
            chunk = await super().read(size)
            if not chunk:
                raise ConnectionResetError("the client went away")
            return chunk

    with pytest.raises(ConnectionResetError):
        asyncio.run(storage.save_input_file("j1", "a.bin", Broken(bytes(3 * MIB))))
    assert files_below(storage.base_dir) == []


def test_a_full_disk_is_told_and_leaves_nothing(
    storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened_on_a_full_disk(_: Incoming) -> BinaryIO:
        return Path("/dev/full").open("wb", buffering=0)

    monkeypatch.setattr(Incoming, "_opened", opened_on_a_full_disk)
    with pytest.raises(StorageFullError, match="free some space"):
        asyncio.run(storage.save_input_file("j1", "a.bin", Upload(b"x")))
    assert files_below(storage.base_dir) == []


def test_a_cancel_while_the_client_is_slow_leaves_nothing(storage: LocalFileStorage) -> None:
    async def save() -> None:
        waiting = asyncio.Event()

        class Stalled(Upload):
            async def read(self, size: int = -1) -> bytes:
                chunk = await super().read(size)
                if not chunk:
                    waiting.set()
                    await asyncio.Event().wait()
                return chunk

        saving = asyncio.create_task(storage.save_input_file("j1", "a.bin", Stalled(b"some")))
        await waiting.wait()
        assert len(files_below(storage.base_dir)) == 1
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert files_below(storage.base_dir) == []

    asyncio.run(save())


@pytest.mark.parametrize("step", ["write", "keep"])
@pytest.mark.parametrize("cancels", [1, 2])
def test_a_cancel_while_a_thread_is_at_the_disk_leaves_nothing(
    storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch, step: str, cancels: int
) -> None:
    at_the_disk, go_on = threading.Event(), threading.Event()
    opened = Incoming._opened
    moved = Incoming._moved

    def gate() -> None:
        at_the_disk.set()
        assert go_on.wait(10)

    def gated_open(incoming: Incoming) -> BinaryIO:
        file = opened(incoming)
        gate()
        return file

    def gated_move(incoming: Incoming, directory: Path, name: str) -> Path:
        path = moved(incoming, directory, name)
        gate()
        return path

    if step == "write":
        monkeypatch.setattr(Incoming, "_opened", gated_open)
    else:
        monkeypatch.setattr(Incoming, "_moved", gated_move)

    async def save() -> None:
        saving = asyncio.create_task(storage.save_input_file("j1", "a.bin", Upload(b"some")))
        await asyncio.to_thread(at_the_disk.wait, 10)
        assert files_below(storage.base_dir) != []
        for _ in range(cancels):
            saving.cancel()
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await saving

    # Leaving asyncio.run waits for the threads.
    asyncio.run(save())
    assert files_below(storage.base_dir) == []


def test_without_links_uploads_of_one_name_are_kept_too(
    storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_link)
    for content in (b"first", b"second"):
        asyncio.run(storage.save_input_file("j1", "a.bin", Upload(content)))
    saved = {name: (storage.base_dir / name).read_bytes() for name in files_below(storage.base_dir)}
    assert saved == {"jobs/j1/input/a.bin": b"first", "jobs/j1/input/a-2.bin": b"second"}


def test_cleaning_up_removes_the_job_and_no_other(storage: LocalFileStorage) -> None:
    asyncio.run(storage.save_input_file("j1", "a.bin", Upload(b"x")))
    asyncio.run(storage.save_input_file("j2", "a.bin", Upload(b"x")))
    assert storage.cleanup_job("j1") is True
    assert storage.cleanup_job("j1") is False
    assert storage.cleanup_job("never") is False
    assert [p.name for p in (storage.base_dir / "jobs").iterdir()] == ["j2"]


def test_cleaning_up_does_not_follow_links(storage: LocalFileStorage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("stays")
    (storage.create_job_directory("j1") / "output" / "link").symlink_to(outside)
    (storage.base_dir / "jobs" / "j2").symlink_to(outside)
    assert storage.cleanup_job("j1") is True
    assert storage.cleanup_job("j2") is True
    assert list((storage.base_dir / "jobs").iterdir()) == []
    assert (outside / "precious.txt").read_text() == "stays"


def test_of_several_that_clean_up_at_once_one_is_told_true(storage: LocalFileStorage) -> None:
    together = threading.Barrier(4)

    def clean_up(_: int) -> bool:
        together.wait(10)
        return storage.cleanup_job("j1")

    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            directory = storage.create_job_directory("j1") / "input"
            for number in range(10):
                (directory / str(number)).touch()
            assert sorted(pool.map(clean_up, range(4))) == [False, False, False, True]
    assert list((storage.base_dir / "jobs").iterdir()) == []


def test_what_could_not_be_removed_is_still_the_jobs(
    storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(storage.save_input_file("j1", "a.bin", Upload(b"x")))
    with monkeypatch.context() as patched:

        def refused(path: Path) -> None:
            raise PermissionError(path)

        patched.setattr("shutil.rmtree", refused)
        with pytest.raises(PermissionError):
            storage.cleanup_job("j1")
    assert files_below(storage.base_dir) == ["jobs/j1/input/a.bin"]
    assert storage.cleanup_job("j1") is True
