"""``POST /jobs/image_watermark``."""

from cl_ml_tools.plugins.image_watermark.schema import ImageWatermarkParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "image_watermark",
    ImageWatermarkParams,
    output_name=lambda filename, params: f"watermarked_{filename}",
)
