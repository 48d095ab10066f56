# One image for the master, the workers and Flower: compose.yaml tells each what to run.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
# More to install beside it, such as plugins: --build-arg PLUGINS="my-plugin==1.0 torch"
ARG PLUGINS=""
RUN python -m venv /opt/cl_ml_tools
COPY pyproject.toml README.md LICENSE /source/
COPY cl_ml_tools /source/cl_ml_tools
RUN /opt/cl_ml_tools/bin/pip install --no-cache-dir "/source[master,compute,flower,hiredis]" ${PLUGINS}

FROM python:${PYTHON_VERSION}-slim
COPY --from=build /opt/cl_ml_tools /opt/cl_ml_tools
# A volume that is mounted at /srv/media for the first time takes over its owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app && install -d -o app -g app /srv/media
ENV PATH=/opt/cl_ml_tools/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CL_ML_TOOLS_STORAGE_DIR=/srv/media
USER app
WORKDIR /srv
EXPOSE 8000
CMD ["uvicorn", "cl_ml_tools.app:create_app", "--factory", "--http", "cl_ml_tools.web.slow_headers:HeaderTimeout", "--timeout-graceful-shutdown", "5", "--host", "0.0.0.0", "--port", "8000"]
