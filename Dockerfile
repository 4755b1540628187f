# One image for every process of the server: `python -m service`, `python -m workers roles`, `python -m workers gpu`.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PATH=/app/.venv/bin:$PATH
WORKDIR /app

# Hash-pinned, as on every machine; a layer of its own, so that a change of ours does not fetch everything again.
COPY bootstrap.lock requirements.lock ./
RUN python -m venv .venv \
 && pip install --quiet --no-cache-dir --require-hashes -r bootstrap.lock \
 && uv pip sync --quiet --no-cache --compile-bytecode --require-hashes requirements.lock

COPY sdk sdk
RUN uv pip install --quiet --no-cache --no-deps --no-build-isolation --editable sdk
COPY events events
COPY projections projections
COPY schemas schemas
COPY service service
COPY workers workers
COPY examples examples

# Nobody but root writes here, so what is not compiled now is compiled at every start; Python's image leaves its own out.
RUN python -m compileall -q events projections sdk/src service workers \
 && python -c "import service.server, workers.gpu.agent, workers.roles"

RUN useradd --system --uid 10001 tachograph && install -d -o tachograph /data
USER tachograph
VOLUME /data
ENV TACHOGRAPH_HOME=/data TACHOGRAPH_HOST=0.0.0.0
EXPOSE 8765
CMD ["python", "-m", "service"]
