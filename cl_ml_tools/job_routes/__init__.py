"""HTTP for jobs: finding, watching, fetching, cancelling, retrying and removing them."""

from cl_ml_tools.job_routes.router import create_job_router
from cl_ml_tools.job_routes.views import JobChange, JobList, JobView, OutputView

__all__ = ["JobChange", "JobList", "JobView", "OutputView", "create_job_router"]
