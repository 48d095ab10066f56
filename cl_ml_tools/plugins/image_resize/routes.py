"""``POST /jobs/image_resize``."""

from cl_ml_tools.plugins.image_resize.schema import ImageResizeParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "image_resize", ImageResizeParams, output_name=lambda filename, params: f"resized_{filename}"
)
