"""The README's table of settings; its code and links are checked with all other pages, in test_docs.py."""

from pathlib import Path

from cl_ml_tools.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def settings_rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default is None else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return rows


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert [line for line in README.splitlines() if line.startswith(f"| `{PREFIX}")] == settings_rows()
