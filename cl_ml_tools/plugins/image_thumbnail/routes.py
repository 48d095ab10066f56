"""``POST /jobs/image_thumbnail``."""

from pathlib import PurePath

from cl_ml_tools.plugins.image_thumbnail.schema import ImageThumbnailParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "image_thumbnail",
    ImageThumbnailParams,
    output_name=lambda filename, params: f"thumbnail_{PurePath(filename).stem}.{params.extension}",
)
