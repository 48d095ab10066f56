"""For authors of plugins, repositories and storages: what theirs must do, as tests that they run.

    from cl_ml_tools.testing import JobRepositoryContract

    class TestMyRepository(JobRepositoryContract):
        @pytest.fixture
        def repository(self, tmp_path):
            return MyRepository(tmp_path / "jobs.db")

Nothing here imports pytest; it collects the methods of a class whose name begins with ``Test``.
"""

from cl_ml_tools.testing.plugins import PluginRun, check_plugin, run_plugin
from cl_ml_tools.testing.repositories import JobRepositoryContract
from cl_ml_tools.testing.storages import FileStorageContract

__all__ = ["FileStorageContract", "JobRepositoryContract", "PluginRun", "check_plugin", "run_plugin"]
