"""From uploads to a job, and the routes that do it in one line of a plugin."""

from cl_ml_tools.submission.asking import ask, creator_of
from cl_ml_tools.submission.routes import JobAccepted, RouteFactory, upload_route
from cl_ml_tools.submission.uploads import submit_uploads

__all__ = ["JobAccepted", "RouteFactory", "ask", "creator_of", "submit_uploads", "upload_route"]
