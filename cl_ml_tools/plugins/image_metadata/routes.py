"""``POST /jobs/image_metadata``."""

from pathlib import PurePath

from cl_ml_tools.plugins.image_metadata.schema import ImageMetadataParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "image_metadata",
    ImageMetadataParams,
    output_name=lambda filename, params: f"metadata_{PurePath(filename).stem}.json",
)
