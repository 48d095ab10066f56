"""``POST /jobs/image_hash``."""

from pathlib import PurePath

from cl_ml_tools.plugins.image_hash.schema import ImageHashParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "image_hash",
    ImageHashParams,
    output_name=lambda filename, params: f"hash_{PurePath(filename).stem}.json",
)
