"""The drawing of a sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from cl_ml_tools.pictures import Font, font_at, font_for, ink_on


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pictures of a sheet lie.

    Attributes:
        count: how many there are.
        columns: how many in a row.
        cell: the side of each box.
        gap: pixels between the boxes and around them.
        label_height: pixels below each box for its label.
    """

    count: int
    columns: int
    cell: int
    gap: int
    label_height: int

    @property
    def size(self) -> tuple[int, int]:
        """The sheet's width and height."""
        rows = math.ceil(self.count / self.columns)
        return (
            self.columns * (self.cell + self.gap) + self.gap,
            rows * (self.cell + self.label_height + self.gap) + self.gap,
        )

    def corner(self, number: int) -> tuple[int, int]:
        """The left and the top of a box."""
        row, column = divmod(number, self.columns)
        return (
            self.gap + column * (self.cell + self.gap),
            self.gap + row * (self.cell + self.label_height + self.gap),
        )


def layout_for(count: int, columns: int | None, cell: int, gap: int, *, labels: bool) -> Layout:
    """Lay out so many pictures; a sheet without a number of columns is about square."""
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    return Layout(count, columns, cell, gap, label_height=_letter_size(cell) * 3 // 2 if labels else 0)


def draw_sheet(
    layout: Layout, pictures: Sequence[Image.Image], labels: Sequence[str], background: str
) -> Image.Image:
    """Put the pictures in their boxes, centred, with their labels below.

    Args:
        layout: where they lie.
        pictures: L, LA, RGB or RGBA, none larger than a box.
        labels: one for each.
        background: the sheet's colour.
    """
    sheet = Image.new("RGB", layout.size, background)
    draw = ImageDraw.Draw(sheet)
    ink = ink_on(background)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = layout.corner(number)
        place = (left + (layout.cell - picture.width) // 2, top + (layout.cell - picture.height) // 2)
        has_alpha = picture.mode in ("LA", "RGBA")
        sheet.paste(picture.convert("RGB"), place, picture.getchannel("A") if has_alpha else None)
        if layout.label_height:
            middle = (left + layout.cell / 2, top + layout.cell + layout.label_height / 2)
            # One line, whatever is in a name.
            line = " ".join(label.split())
            font = font_at(font_for(line), _letter_size(layout.cell))
            draw.text(middle, _shortened(line, layout.cell, font), fill=ink, font=font, anchor="mm")
    return sheet


def _letter_size(cell: int) -> int:
    return max(9, min(24, cell // 16))


def _shortened(label: str, width: int, font: Font) -> str:
    if font.getlength(label) <= width:
        return label
    kept = next(
        (end for end in range(min(len(label), width), 0, -1) if font.getlength(f"{label[:end]}...") <= width),
        0,
    )
    return f"{label[:kept]}..."
