import random
import sys
import unicodedata

import pytest

from cl_ml_tools.errors import InvalidJobIdError
from cl_ml_tools.file_names import MAX_NAME_BYTES, check_job_id, distinct_name, safe_file_name


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("photo.png", "photo.png"),
        ("Bild von Jörg.jpeg", "Bild von Jörg.jpeg"),
        ("写真 1.webp", "写真 1.webp"),
        ("archive.tar.gz", "archive.tar.gz"),
        ("-rf", "-rf"),
        ("~root", "~root"),
    ],
)
def test_an_ordinary_name_stays_as_it_is(given: str, safe: str) -> None:
    assert safe_file_name(given) == safe


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("../../evil.png", "evil.png"),
        ("..\\..\\evil.png", "evil.png"),
        ("/etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.png", "photo.png"),
        ("C:photo.png", "C_photo.png"),
        ("photo.png:stream", "photo.png_stream"),
        ("..", "upload"),
        ("a/..", "upload"),
        ("folder/", "upload"),
        (".\u200b./x\u0000/.\u200b.", "upload"),
        ("a..b...png", "a.b.png"),
        (".htaccess", "htaccess"),
        (". . .hidden", "hidden"),
        ("photo.png. . ", "photo.png"),
        ("photo.png\r\nX-Header: 1", "photo.pngX-Header_ 1"),
        ("nul\x00byte.png", "nulbyte.png"),
        ("line\u2028break.png", "linebreak.png"),
        ("gnp\u202eexe.png", "gnpexe.png"),
        ("lone\ud800surrogate.png", "lonesurrogate.png"),
        ('<>:"|?*.png', "_______.png"),
        ("", "upload"),
        (None, "upload"),
        (" \t. ", "upload"),
    ],
)
def test_a_hostile_name_becomes_one_plain_component(given: str | None, safe: str) -> None:
    assert safe_file_name(given) == safe


@pytest.mark.parametrize(
    "device", ["CON", "con.png", "NUL.tar.gz", "Com1.txt", "LPT9", "COM².png", "aux .png", "CONIN$"]
)
def test_a_device_of_windows_is_no_name(device: str) -> None:
    assert safe_file_name(device) == f"_{device}"


@pytest.mark.parametrize("name", ["CONCERT.png", "COM10.txt", "null.png", "icon.con"])
def test_a_name_that_only_looks_like_a_device_stays(name: str) -> None:
    assert safe_file_name(name) == name


def test_two_spellings_of_one_letter_become_one_name() -> None:
    assert safe_file_name("Jo\u0308rg.png") == safe_file_name("J\u00f6rg.png") == "J\u00f6rg.png"
    # The invisible joiner between the letter and its mark is gone, and they are joined.
    assert safe_file_name("o\u200d\u0308.png") == "\u00f6.png"


def test_a_long_name_keeps_its_extension() -> None:
    safe = safe_file_name("x" * 5000 + ".jpeg")
    assert len(safe) == MAX_NAME_BYTES
    assert safe.endswith("x.jpeg")


def test_a_long_extension_is_no_extension() -> None:
    assert safe_file_name("a." + "x" * 5000) == "a." + "x" * (MAX_NAME_BYTES - 2)


def test_a_cut_leaves_whole_characters() -> None:
    for shift in range(8):
        safe = safe_file_name("x" * shift + "😀" * 100 + ".png")
        assert set(safe.removesuffix(".png")) <= {"x", "😀"}
        assert MAX_NAME_BYTES - 4 < len(safe.encode()) <= MAX_NAME_BYTES
    for shift in range(8):
        # g with tilde has no composed form: letter and mark are two code points.
        stem = safe_file_name("x" * shift + "g\u0303" * 100 + ".png").removesuffix(".png")
        assert stem.count("g") == stem.count("\u0303")


def test_a_cut_lays_no_device_bare() -> None:
    assert safe_file_name("CON" + " " * 300 + "x.png") == "_CON.png"


def test_no_code_point_makes_a_name_unsafe() -> None:
    # Above these, only what changes under NFC or is a format character could do harm.
    points = [
        point
        for point in range(sys.maxunicode + 1)
        if point < 0x3400 or not unicodedata.is_normalized("NFC", chr(point)) or 0xE0000 <= point <= 0xE0FFF
    ]
    for point in points:
        safe = safe_file_name(f"a{chr(point)}b")
        assert not set(safe) & set('/\\<>:"|?*'), hex(point)
        assert not {unicodedata.category(c) for c in safe} & {"Cc", "Cf", "Cs"}, hex(point)


def test_a_safe_name_stays_safe_when_it_is_made_safe_again_and_behind_a_prefix() -> None:
    chance = random.Random(20261123)  # fixed, so that a failure comes again
    alphabet = [
        "..",
        "/",
        "\\",
        ".",
        " ",
        "CON",
        "nul",
        "COM1",
        "<",
        ":",
        "\u0301",
        "\u200d",
        "\u202e",
        "\ud800",
    ]
    alphabet += [
        "\n",
        "\u00a0",
        "\u3000",
        "é",
        "e",
        "ﬁ",
        "\u1100",
        "\u1161",
        "\u0958",
        "\u2126",
        "😀",
        "x" * 90,
    ]
    for _ in range(20_000):
        given = "".join(chance.choices(alphabet, k=chance.randrange(12)))
        safe = safe_file_name(given)
        assert safe_file_name(safe) == safe, ascii(given)
        assert 0 < len(safe.encode()) <= MAX_NAME_BYTES, ascii(given)
        assert safe_file_name(f"resized_{safe}") == f"resized_{safe}" or len(f"resized_{safe}".encode()) > 200
        assert len(f"resized_{safe}".encode()) < 255


def test_equal_names_are_told_apart_by_a_number() -> None:
    assert distinct_name("photo.png", []) == "photo.png"
    assert distinct_name("photo.png", ["photo.jpg"]) == "photo.png"
    assert distinct_name("photo.png", ["photo.png"]) == "photo-2.png"
    assert distinct_name("photo.png", {"photo.png", "photo-2.png"}) == "photo-3.png"
    assert distinct_name("README", ["README"]) == "README-2"


def test_names_that_differ_in_case_only_are_equal() -> None:
    assert distinct_name("photo.png", ["PHOTO.PNG"]) == "photo-2.png"
    assert distinct_name("straße.png", ["STRASSE.png"]) == "straße-2.png"
    assert distinct_name("J\u00f6.png", ["JO\u0308.png"]) == "J\u00f6-2.png"


def test_a_number_does_not_make_a_name_too_long() -> None:
    longest = "x" * 196 + ".png"
    numbered = distinct_name(longest, [longest])
    assert numbered == "x" * 194 + "-2.png"
    assert safe_file_name(numbered) == numbered


@pytest.mark.parametrize("job_id", ["a", "0", "8f14e45f-ceea-4673-8d1d-0b5b0b3a4d2e", "A_b-9", "x" * 128])
def test_a_plain_id_is_a_job_id(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id",
    ["", "..", "a/b", "a\\b", "a.b", "job\n", "\njob", "job ", "x" * 129, "ä", "\uff11", "a\0", "{a}", "*"],
)
def test_anything_else_is_no_job_id(job_id: str) -> None:
    with pytest.raises(InvalidJobIdError, match="is no job id"):
        check_job_id(job_id)


def test_only_a_string_is_a_job_id() -> None:
    with pytest.raises(InvalidJobIdError):
        check_job_id(7)  # type: ignore[arg-type]
