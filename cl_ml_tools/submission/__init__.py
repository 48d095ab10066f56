"""From uploads to a job, and the routes that do it in one line of a plugin."""

from cl_ml_tools.submission.asking import ask, creator_of
from cl_ml_tools.submission.routes import JobAccepted, RouteFactory, upload_route
from cl_ml_tools.submission.uploads import submit_uploads
from cl_ml_tools.submission.viewing import Viewer, admins_told, viewer_of

__all__ = [
    "JobAccepted",
    "RouteFactory",
    "Viewer",
    "admins_told",
    "ask",
    "creator_of",
    "submit_uploads",
    "upload_route",
    "viewer_of",
]
