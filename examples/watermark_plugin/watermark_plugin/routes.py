"""``POST /jobs/watermark``."""

from cl_ml_tools.submission import upload_route
from watermark_plugin.schema import WatermarkParams

create_router = upload_route(
    "watermark", WatermarkParams, output_name=lambda filename, params: f"watermarked_{filename}"
)
