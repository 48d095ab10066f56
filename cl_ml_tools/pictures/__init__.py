"""Opening, sizing, converting and saving pictures with Pillow. Only task modules import it.

A task reads each input with `open_picture`, and writes with `convert` or `save_frames`; `process_each` gives
every input an outcome of its own.
"""

from cl_ml_tools.pictures.batches import OutputNames, Report, paths_of, process_each
from cl_ml_tools.pictures.converting import convert
from cl_ml_tools.pictures.formats import FORMATS, PictureFormat, with_label
from cl_ml_tools.pictures.lettering import Font, font_at, font_for, ink_on, missing_in
from cl_ml_tools.pictures.limits import picture_limits
from cl_ml_tools.pictures.modes import flattened, in_colours, is_see_through
from cl_ml_tools.pictures.notes import Notes
from cl_ml_tools.pictures.opening import Frame, Picture, open_picture
from cl_ml_tools.pictures.profiles import profile_name
from cl_ml_tools.pictures.reports import fingerprint, report, write_json
from cl_ml_tools.pictures.rights import Rights
from cl_ml_tools.pictures.scaling import scaled, scaled_first
from cl_ml_tools.pictures.sizes import FitMode, Scaling, scaling_for
from cl_ml_tools.pictures.writing import Encoding, save_frames, save_picture

__all__ = [
    "FORMATS",
    "Encoding",
    "FitMode",
    "Font",
    "Frame",
    "Notes",
    "OutputNames",
    "Picture",
    "PictureFormat",
    "Report",
    "Rights",
    "Scaling",
    "convert",
    "fingerprint",
    "flattened",
    "font_at",
    "font_for",
    "in_colours",
    "ink_on",
    "is_see_through",
    "missing_in",
    "open_picture",
    "paths_of",
    "picture_limits",
    "process_each",
    "profile_name",
    "report",
    "save_frames",
    "save_picture",
    "scaled",
    "scaled_first",
    "scaling_for",
    "with_label",
    "write_json",
]
