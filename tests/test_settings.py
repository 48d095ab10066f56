"""Settings and their one spelling in the environment."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cl_ml_tools.app import create_storage
from cl_ml_tools.errors import SettingsError
from cl_ml_tools.settings import PREFIX, Settings

ANOTHER: dict[str, tuple[str, Any]] = {
    "redis_url": ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    "broker_url": ("amqp://guest@localhost//", "amqp://guest@localhost//"),
    "key_prefix": ("team.one:x-y_z", "team.one:x-y_z"),
    "storage_dir": ("/srv/media", Path("/srv/media")),
    "lease_seconds": ("1.5", 1.5),
    "max_crashes": ("1", 1),
    "max_leases_lost": ("2", 2),
    "recovery_interval_seconds": ("0.5", 0.5),
    "lost_message_seconds": ("5", 5.0),
    "retention_days": ("0", 0.0),
    "max_picture_pixels": ("1000", 1000),
    "max_picture_frames": ("5", 5),
    "time_limit_seconds": ("60", 60.0),
    "soft_time_limit_seconds": ("50", 50.0),
    "cancel_grace_seconds": ("0", 0.0),
    "max_upload_bytes": ("5000", 5000),
    "max_request_bytes": ("9000", 9000),
    "max_files": ("7", 7),
    "min_free_bytes": ("0", 0),
    "max_unfinished_jobs": ("12", 12),
    "slow_client_seconds": ("7", 7.0),
    "api_tokens": (f"ann:{'a' * 64}", f"ann:{'a' * 64}"),
    "admin_users": ("ann,bob", "ann,bob"),
    "cors_origins": ("https://a.example", "https://a.example"),
    "redis_timeout_seconds": ("0.5", 0.5),
    "progress_interval_seconds": ("0", 0.0),
}
"""For each setting a value in the environment, and what it is then."""


def test_without_an_environment_everything_has_its_default() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert (settings.redis_url, settings.broker_url) == ("redis://127.0.0.1:6379/0", None)
    assert (settings.key_prefix, settings.storage_dir) == ("cl_ml_tools", Path("media"))
    assert (settings.lease_seconds, settings.max_crashes, settings.max_leases_lost) == (30.0, 3, 10)
    assert (settings.time_limit_seconds, settings.soft_time_limit_seconds) == (6 * 3600.0, None)
    assert settings.retention_days == 30.0
    assert settings.max_upload_bytes == 100_000_000


def test_a_refused_submission_stays_below_five_seconds_by_default() -> None:
    """Two tries within their bounds: what HTTP promises when Redis is away."""
    assert 2 * Settings().redis_timeout_seconds < 5


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_read_from_the_variable_of_its_name(name: str) -> None:
    text, value = ANOTHER[name]
    settings = Settings.from_environment({f"CL_ML_TOOLS_{name.upper()}": text})
    assert settings.model_dump(exclude_defaults=True) == {name: value}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_says_what_it_does(name: str) -> None:
    assert (Settings.model_fields[name].description or "").endswith(".")


def test_the_environment_is_this_processs_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CL_ML_TOOLS_LEASE_SECONDS", "3")
    assert Settings.from_environment().lease_seconds == 3.0


def test_an_empty_variable_is_an_unset_one() -> None:
    assert Settings.from_environment({"CL_ML_TOOLS_BROKER_URL": ""}) == Settings()


def test_variables_of_others_are_left_alone() -> None:
    others = {"LEASE_SECONDS": "x", "_CL_ML_TOOLS_NODE": "x", "CL_ML_TOOLSX": "x", "CELERY_BROKER_URL": "x"}
    assert Settings.from_environment(others) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LEASE_SECONDS", "soon"),
        ("LEASE_SECONDS", "0.9"),
        ("LEASE_SECONDS", "3601"),
        ("LEASE_SECONDS", "nan"),
        ("LEASE_SECONDS", "inf"),
        ("MAX_CRASHES", "0"),
        ("MAX_CRASHES", "1.5"),
        ("MAX_LEASES_LOST", "0"),
        ("RECOVERY_INTERVAL_SECONDS", "0"),
        ("RECOVERY_INTERVAL_SECONDS", "inf"),
        ("RECOVERY_INTERVAL_SECONDS", "nan"),
        ("LOST_MESSAGE_SECONDS", "0"),
        ("LOST_MESSAGE_SECONDS", "inf"),
        ("RETENTION_DAYS", "-1"),
        ("RETENTION_DAYS", "nan"),
        ("RETENTION_DAYS", "inf"),
        ("TIME_LIMIT_SECONDS", "0"),
        ("TIME_LIMIT_SECONDS", "inf"),
        ("SOFT_TIME_LIMIT_SECONDS", "-1"),
        ("SOFT_TIME_LIMIT_SECONDS", "inf"),
        ("CANCEL_GRACE_SECONDS", "inf"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("MAX_UPLOAD_BYTES", "10MB"),
        ("REDIS_TIMEOUT_SECONDS", "0"),
        ("REDIS_TIMEOUT_SECONDS", "31"),
        ("PROGRESS_INTERVAL_SECONDS", "-0.1"),
        ("PROGRESS_INTERVAL_SECONDS", "inf"),
        ("KEY_PREFIX", "a b"),
        ("KEY_PREFIX", "{a}"),
        ("KEY_PREFIX", "a\n"),
        ("KEY_PREFIX", "x" * 65),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_that_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"CL_ML_TOOLS_{name} = ") as caught:
        Settings.from_environment({f"CL_ML_TOOLS_{name}": text})
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_url_of_a_wrong_scheme_is_an_error_that_keeps_its_password_to_itself() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"CL_ML_TOOLS_REDIS_URL": "http://user:secret@host"})
    assert "CL_ML_TOOLS_REDIS_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_token_that_is_not_hashed_is_not_told() -> None:
    with pytest.raises(SettingsError, match="sha256sum") as caught:
        Settings.from_environment({"CL_ML_TOOLS_API_TOKENS": "ann:plain"})
    assert "plain" not in str(caught.value)


def test_a_misspelt_variable_is_told_with_the_one_that_is_meant() -> None:
    with pytest.raises(SettingsError, match="Is CL_ML_TOOLS_STORAGE_DIR meant"):
        Settings.from_environment({"CL_ML_TOOLS_STORAGE_DIRECTORY": "/srv"})


@pytest.mark.parametrize("name", ["LEASE", "LEASE_SECOND", "REDIS_URI", ""])
def test_a_variable_that_names_no_setting_is_an_error_that_lists_all_of_them(name: str) -> None:
    with pytest.raises(SettingsError, match=f"CL_ML_TOOLS_{name} is no setting") as caught:
        Settings.from_environment({f"{PREFIX}{name}": "1"})
    for known in Settings.model_fields:
        assert f"CL_ML_TOOLS_{known.upper()}" in str(caught.value)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_storage_that_cannot_be_made_is_an_error_that_names_its_variable(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=f"CL_ML_TOOLS_STORAGE_DIR = '{tmp_path}/{place}': .*file"):
        create_storage(Settings(storage_dir=tmp_path / place))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().lease_seconds = 5.0
